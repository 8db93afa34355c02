"""Write a sub-network as a folder that loads without this project, and check it before saying done.

The folder holds `config.json`, `model.safetensors`, `model.onnx`, the files of its deployment, `README.md` (the card
with its loaders) and the files of the preprocessor.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import nn

from hardware.backend import OUTPUT_TOLERANCE, ConversionError, first_output, relative_difference
from hardware.cost import cost
from hardware.deployment import Deployment
from hardware.inputs import call, map_inputs
from hardware.onnx import other_size
from hardware.onnxruntime import OnnxRuntimeBackend
from hardware.policy import Policy
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
from nas.exporting.rows_to_inputs import made_up, reading
from nas.files import FULL_DISK, replacing_folder
from search_spaces.inputs import Inputs


class Saves(Protocol):
    """Something with files of its own that belong to a network: a tokenizer, an image processor."""

    def save(self, folder: Path) -> None:
        """Write the files into an existing folder."""


def export(
    module: nn.Module,
    folder: Path | str,
    example_inputs: Inputs,
    *,
    card: Card | None = None,
    preprocessor: Saves | None = None,
    factory: Factory | None = None,
    deployment: Deployment | None = None,
    policy: Policy | None = None,
    calibration: Sequence[Inputs] | None = None,
) -> Path:
    """Write `module` into `folder`, as a whole or not at all.

    Before the folder takes its place, the ONNX file in ONNX Runtime and the network loaded by the card's own lines are
    compared with `module`, on the example and at another batch and length (1e-4 of the largest logit).

    Args:
        module: a plain network, such as `Supernet.extract` gives; left as it is.
        folder: a new folder, an empty one, or an earlier export, which is replaced.
        example_inputs: tuple or mapping of tensors; any batch and length.
        card: what the card says; parameters, MACs (of one row of the example) and size are added where missing.
        preprocessor: its files are written into the folder.
        factory: for a class that transformers does not have: makes the full network. Without it the card has no loader
            for PyTorch.
        deployment: how the network will run; its files are written too. None: PyTorch in float32.
        policy: the precision of its layers, for a deployment whose precision goes by layer.
        calibration: training rows as inputs of one row each, for a deployment with layers in INT8.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something else, or cannot be written.
        ExportError: the network cannot be exported, or outputs differ.
        ValueError: the runtime of the deployment does not have its precision.
    """
    target = Path(folder)
    network = NetworkExport.of(module, example_inputs, factory)
    with staged(target) as part:
        network.write(part, preprocessor)
        deployed = None if deployment is None else network.deploy(part, deployment, calibration, policy)
        network.write_card(part, card or Card(), deployed, preprocessor)
    return target


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to write an export into, which takes the place of `target` when all of it was written.

    Raises:
        UserError: the target holds something else, or cannot be written.
        ExportError: a runtime did not take a network inside the context.
    """
    check_target(target)
    with _failures(target), replacing_folder(target) as part:
        yield part


@dataclass(frozen=True)
class NetworkExport:
    """A network on its way into a folder: on the processor and in evaluation mode.

    Args:
        network: a copy of the user's.
        inputs: an example, on the processor.
        factory: makes the full network of a class that transformers does not have.
    """

    network: nn.Module
    inputs: Inputs
    factory: Factory | None

    @classmethod
    def of(cls, module: nn.Module, example_inputs: Inputs, factory: Factory | None = None) -> "NetworkExport":
        """A copy of `module`, which is left as it is."""
        inputs = map_inputs(example_inputs, lambda value: value.detach().cpu())
        return cls(copy.deepcopy(module).cpu().eval(), inputs, factory)

    @property
    def source(self) -> NetworkClass:
        """The class of the network."""
        return network_class(self.network, self.factory)

    def write(self, folder: Path, preprocessor: Saves | None) -> None:
        """Write what every export has, and check that the files compute what the network does.

        Raises:
            ConversionError: the network has no ONNX file, or one of other outputs.
            ExportError: the card's loader does not give its outputs.
        """
        write_network(self.network, folder, self.factory)
        OnnxRuntimeBackend().convert(self.network, self.inputs, folder)
        if preprocessor is not None:
            preprocessor.save(folder)
        if self.source.loadable:
            _check_loader(self.network, self.source, self.factory, self.inputs, folder)

    def deploy(
        self,
        folder: Path,
        deployment: Deployment,
        calibration: Sequence[Inputs] | None,
        policy: Policy | None = None,
    ) -> Deployed:
        """Write the files of a deployment beside these, and load them; see `nas.exporting.deployed.deploy`."""
        return deploy(
            self.network,
            deployment,
            folder,
            self.inputs,
            policy=policy,
            factory=self.factory,
            calibration=calibration,
        )

    def write_card(
        self, folder: Path, card: Card, deployed: Deployed | None, preprocessor: Saves | None = None
    ) -> None:
        """Write README.md, which lists the files that are there; costs and classes that the card lacks are added.

        The examples read rows by the preprocessor, or made-up arrays where it is not known.
        """
        card = _with_costs(_with_classes(card, self.network), self.network, self.inputs)
        example = reading(preprocessor, card.max_tokens, card.task) or made_up(self.network, self.inputs)
        files = sorted([*(relative(each, folder) for each in folder.rglob("*") if each.is_file()), "README.md"])
        shown = None
        if deployed is not None:
            shown = (deployed.deployment, relative(deployed.path, folder), deployed.policy)
        text = write_card(card, self.source, self.inputs, example, files, shown)
        (folder / "README.md").write_text(text, encoding="utf-8")


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


def check_target(target: Path, is_ours: Callable[[Path], bool] = holds_network) -> None:
    """UserError where `target` is neither new, nor empty, nor an earlier export, which `is_ours` recognises."""
    if not target.exists() or is_ours(target):
        return
    if not target.is_dir() or any(target.iterdir()):
        raise UserError(
            f"an export needs a new folder, an empty one or an earlier export to replace, and {target} is something "
            "else; name another folder"
        )


def in_place_of(file: Path) -> str:
    """What is said of an earlier export where its `file` is there, beginning with a comma; empty where it is not."""
    if not file.is_file():
        return ""
    return f", in place of the export of {datetime.fromtimestamp(file.stat().st_mtime):%Y-%m-%d %H:%M} there"


@contextmanager
def _failures(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK and not str(error.filename or "").startswith(str(target.parent.resolve())):
            raise
        raise UserError(f"the export cannot be written to {target}: {error.strerror or error}") from error
    except ConversionError as error:
        raise ExportError(str(error)) from error


def _with_classes(card: Card, network: nn.Module) -> Card:
    names = getattr(getattr(network, "config", None), "id2label", None)
    if card.classes or not isinstance(names, Mapping):
        return card
    return replace(card, classes=tuple(str(names[index]) for index in sorted(names)))


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
