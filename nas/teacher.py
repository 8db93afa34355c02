"""The strong teacher of a super-network: a network that was fine-tuned on its own, frozen, with the same labels."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nas.accuracy import logits_of
from nas.errors import UserError
from nas.split import Split
from nas.training import Batch

Teacher = Callable[[Batch], Tensor]
"""Keyword inputs -> the teacher's logits, without gradient."""


@contextlib.contextmanager
def strong_teacher(teacher: nn.Module, model: nn.Module, train: Split) -> Iterator[Teacher]:
    """The teacher in evaluation mode, on the device of the inputs; its modes and device are as before afterwards.

    It runs in the precision of the caller.

    Args:
        teacher: takes the same inputs as `model`.
        model: the full network that is trained.
        train: rows to compare their outputs on.

    Raises:
        UserError: the teacher shares weights with the network, or has other labels or outputs.
    """
    _check(teacher, model, train)
    modes = {each: each.training for each in teacher.modules()}
    home = _device(teacher)
    teacher.eval()

    def teach(batch: Batch) -> Tensor:
        here = next(iter(batch.values())).device
        if _device(teacher) != here:
            teacher.to(here)
        with torch.no_grad():
            return logits_of(teacher(**batch)).float()

    try:
        yield teach
    finally:
        teacher.to(home)
        for each, mode in modes.items():
            each.training = mode


def _check(teacher: nn.Module, model: nn.Module, train: Split) -> None:
    own = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise UserError(
            "the teacher must be a network of its own, got one that shares weights with the network it teaches"
        )
    theirs, ours = label_names(teacher), label_names(model)
    if theirs and ours and theirs != ours:
        raise UserError(
            f"the teacher must have the labels of the network, {_shown(ours)}, in their order, got {_shown(theirs)}; "
            "fine-tune it on the same data"
        )
    if len(train):
        given, needed = _outputs(teacher, train), _outputs(model, train)
        if given != needed:
            raise UserError(
                f"the teacher must have as many outputs as the network, {needed}, got {given}; "
                "fine-tune it on the same data"
            )


def label_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the classes in the order of a transformers model's outputs; none where they were never given."""
    config: Any = getattr(module, "config", None)
    names = getattr(config, "id2label", None) or {}
    ordered = tuple(str(names[key]) for key in sorted(names, key=int))
    # transformers fills in LABEL_0, LABEL_1, ... for classes without a name, which says nothing.
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in ordered) else ordered


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} of them)" if len(names) > 6 else "")


@torch.no_grad()
def _outputs(module: nn.Module, train: Split) -> int:
    """Number of outputs a row (or a token) of the module in evaluation mode."""
    modes = {each: each.training for each in module.modules()}
    device = _device(module)
    try:
        logits = logits_of(module.eval()(**{name: tensor.to(device) for name, tensor in train.batch([0]).items()}))
    finally:
        for each, mode in modes.items():
            each.training = mode
    return int(logits.shape[-1])


def _device(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
