"""A frozen teacher: a network that is run during the training of another one, on the same rows, and is not changed."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas.data.accuracy import logits_of
from nas.data.split import Split
from nas.errors import UserError
from nas.learning.training import Batch
from nas.networks.modes import keeping_modes
from nas.networks.pretrained import same_labels

LogitsOf = Callable[[Batch], Tensor]
"""Keyword inputs -> the teacher's logits, without gradient."""


@contextlib.contextmanager
def frozen_teacher(teacher: nn.Module, model: nn.Module, train: Split) -> Iterator[LogitsOf]:
    """Context that gives a function to compute the teacher's logits, and restores the teacher's mode and device.

    The teacher runs in evaluation mode, on the device of the inputs, in the precision of the caller's autocast.

    Args:
        teacher: the teacher; it takes the same inputs as `model`.
        model: the network that is trained; of a super-network the full one.
        train: training rows; one of them is used to compare the numbers of outputs.

    Raises:
        UserError: the teacher shares weights with the network, or has other labels or another number of outputs.
    """
    _check(teacher, model, train)
    home = _device(teacher)

    def forward(batch: Batch) -> Tensor:
        # Only the training loop knows the device, so the teacher follows the first batch.
        here = next(iter(batch.values())).device
        if _device(teacher) != here:
            teacher.to(here)
        with torch.no_grad():
            return logits_of(teacher(**batch)).float()

    with keeping_modes(teacher):
        teacher.eval()
        try:
            yield forward
        finally:
            teacher.to(home)


def _check(teacher: nn.Module, model: nn.Module, train: Split) -> None:
    # A teacher that shares weights would be changed by the training that it is to guide.
    own = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise UserError(
            "the teacher must be a network of its own, got one that shares weights with the network it teaches"
        )
    names: Any = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(names, Mapping):
        try:
            same_labels(teacher, [str(names[key]) for key in sorted(names)])
        except UserError as error:
            raise UserError(f"the teacher does not fit: {error}; fine-tune it on the same data") from error
    if len(train):
        given, needed = _outputs(teacher, train), _outputs(model, train)
        if given != needed:
            raise UserError(
                f"the teacher must have as many outputs as the network, {needed}, got {given}; "
                "fine-tune it on the same data"
            )


@torch.no_grad()
def _outputs(module: nn.Module, train: Split) -> int:
    """Number of outputs of the module per row, or per token."""
    device = _device(module)
    with keeping_modes(module):
        logits = logits_of(module.eval()(**{name: tensor.to(device) for name, tensor in train.batch([0]).items()}))
    return int(logits.shape[-1])


def _device(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
