"""Write a sub-network as a folder that loads without this project, and check it before saying done.

The folder holds `config.json`, `model.safetensors`, `model.onnx`, the files of its deployment, `README.md` (the card
with its loaders) and the files of the preprocessor.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import nn

from hardware.backend import OUTPUT_TOLERANCE, ConversionError, first_output, relative_difference
from hardware.cost import cost
from hardware.deployment import Deployment
from hardware.inputs import Inputs, call, map_inputs
from hardware.onnx import other_size
from hardware.onnxruntime import OnnxRuntimeBackend
from nas.errors import UserError
from nas.exporting.card import Card, write_card
from nas.exporting.deployed import Deployed, deploy
from nas.exporting.loaders import relative, torch_loader
from nas.exporting.network_files import (
    ExportError,
    Factory,
    NetworkClass,
    holds_network,
    network_class,
    write_network,
)
from nas.files import replace_folder


class Saves(Protocol):
    """Something with files of its own that belong to a network: a tokenizer, an image processor."""

    def save(self, folder: Path) -> None:
        """Write the files into an existing folder."""


Describe = Callable[[Deployed], Card]
"""Makes the card from the deployment's files as they are in the folder, so that it can state figures of these."""


def export(
    module: nn.Module,
    folder: Path | str,
    example_inputs: Inputs,
    *,
    card: Card | Describe | None = None,
    preprocessor: Saves | None = None,
    factory: Factory | None = None,
    deployment: Deployment | None = None,
    calibration: Sequence[Inputs] | None = None,
) -> Path:
    """Write `module` into `folder`, as a whole or not at all.

    Before the folder takes its place, the ONNX file in ONNX Runtime and the network loaded by the card's own lines are
    compared with `module`, on the example and at another batch and length (1e-4 of the largest logit).

    Args:
        module: a plain network, such as `Supernet.extract` gives; left as it is.
        folder: a new folder, an empty one, or an earlier export, which is replaced.
        example_inputs: tuple or mapping of tensors; any batch and length.
        card: what the card says, or a function that makes it of the written files; parameters, MACs (of one row of the
            example) and size are added where missing.
        preprocessor: its files are written into the folder.
        factory: for a class that transformers does not have: makes the full network. Without it the card has no loader
            for PyTorch.
        deployment: how the network will run; its files are written too. None: PyTorch in float32.
        calibration: training rows as inputs of one row each, for a deployment in INT8.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something else, or cannot be written.
        ExportError: the network cannot be exported, or outputs differ.
    """
    target = Path(folder)
    check_target(target)
    network = copy.deepcopy(module).cpu().eval()
    inputs = map_inputs(example_inputs, lambda value: value.detach().cpu())
    runs_in = deployment or Deployment()
    source = network_class(network, factory)

    def fill(part: Path) -> None:
        write_network(network, part, factory)
        OnnxRuntimeBackend().convert(network, inputs, part)
        if preprocessor is not None:
            preprocessor.save(part)
        if source.loadable:
            _check_loader(network, source, factory, inputs, part)
        deployed = None
        if deployment is not None or callable(card):
            deployed = deploy(network, runs_in, part, inputs, factory=factory, calibration=calibration)
        said = card(deployed) if callable(card) and deployed is not None else card
        files = sorted([*(relative(each, part) for each in part.rglob("*") if each.is_file()), "README.md"])
        shown = None if deployed is None else (runs_in, relative(deployed.path, part))
        stated = said if isinstance(said, Card) else Card()
        text = write_card(_with_costs(stated, network, inputs), source, inputs, files, shown)
        (part / "README.md").write_text(text, encoding="utf-8")

    with _failures(target):
        replace_folder(target, fill)
    return target


def check_exportable(
    module: nn.Module, example_inputs: Inputs, *, factory: Factory | None = None, onnx: bool = True
) -> None:
    """Make the files of `export` in a temporary folder and check them; raises ExportError.

    Args:
        module: as for `export`.
        example_inputs: as for `export`.
        factory: as for `export`.
        onnx: whether to make the ONNX file too, which takes seconds to a minute.
    """
    network = copy.deepcopy(module).cpu().eval()
    inputs = map_inputs(example_inputs, lambda value: value.detach().cpu())
    source = network_class(network, factory)
    try:
        with TemporaryDirectory() as scratch:
            write_network(network, Path(scratch), factory)
            if source.loadable:
                _check_loader(network, source, factory, inputs, Path(scratch))
            if onnx:
                OnnxRuntimeBackend().convert(network, inputs, Path(scratch))
    except ConversionError as error:
        raise ExportError(str(error)) from error


def check_target(target: Path) -> None:
    """UserError where `target` is neither new, nor empty, nor an earlier export."""
    if not target.exists() or holds_network(target):
        return
    if not target.is_dir() or any(target.iterdir()):
        raise UserError(
            f"an export needs a new folder, an empty one or an earlier export to replace, and {target} is something "
            "else; name another folder"
        )


@contextmanager
def _failures(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"the export cannot be written to {target}: {error.strerror or error}") from error
    except ConversionError as error:
        raise ExportError(str(error)) from error


def _with_costs(card: Card, network: nn.Module, inputs: Inputs) -> Card:
    costs = cost(network, inputs)
    known: dict[str, float] = {"macs": costs.macs, "parameters": costs.parameters, "size_mib": costs.size_mib}
    own = dict(card.figures.get("chosen", {}))
    return replace(
        card, figures={**card.figures, "chosen": {**own, **{n: v for n, v in known.items() if n not in own}}}
    )


def _check_loader(
    network: nn.Module, source: NetworkClass, factory: Factory | None, inputs: Inputs, folder: Path
) -> None:
    """Run the card's loader on the folder and compare."""
    first = () if source.is_transformers else (factory,)
    lines: dict[str, Any] = {}
    try:
        # Our own template, filled with the name of a class of transformers.
        exec(compile(torch_loader(source), "README.md", "exec"), lines)
        loaded: nn.Module = lines["load"](*first, str(folder))
        differences = [_difference(network, loaded, case) for case in (inputs, other_size(inputs))]
    except Exception as error:
        raise ExportError(f"the card's loader fails: {type(error).__name__}: {error}") from error
    if not max(differences) <= OUTPUT_TOLERANCE:
        raise ExportError(
            "the network loaded from the export must give the outputs of the sub-network within "
            f"{OUTPUT_TOLERANCE} of the largest logit, they differ by {max(differences):.2g}"
        )


def _difference(network: nn.Module, loaded: nn.Module, inputs: Inputs) -> float:
    with torch.no_grad():
        return relative_difference(first_output(call(network, inputs)), first_output(call(loaded, inputs)))
