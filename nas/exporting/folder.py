"""Write a sub-network as a folder that loads without this project, and check it before saying done.

The folder holds `config.json`, `model.safetensors`, `model.onnx`, `README.md` (the card with its loaders) and the files
of the preprocessor. Layers of unequal size are recorded as what they are: every integer attribute of a module that
differs from what its class makes of the configuration. So a loader needs no knowledge of the architecture, and what
a forward reads (features, heads, groups, normalised shapes) is right by construction.
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import nn

from hardware.backend import OUTPUT_TOLERANCE, ConversionError, first_output, relative_difference
from hardware.cost import cost
from hardware.inputs import Inputs, call, map_inputs
from hardware.onnx import other_size
from hardware.onnxruntime import OnnxRuntimeBackend
from nas.errors import UserError
from nas.exporting.card import Card, Source, torch_loader, write_card
from nas.files import read_json, replace_folder

_FORMAT = 2
_KEY = "subnetwork"
Factory = Callable[[], nn.Module]


class ExportError(RuntimeError):
    """The network cannot be exported, or what was written computes something else; nothing was left."""


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
    source = _source(network, factory)

    def fill(part: Path) -> None:
        config = _config(network, factory, source)
        (part / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        save_file(_tensors(network), part / "model.safetensors", metadata={"format": "pt"})
        OnnxRuntimeBackend().convert(network, inputs, part)
        if preprocessor is not None:
            preprocessor.save(part)
        files = sorted([*(each.name for each in part.iterdir()), "README.md"])
        text = write_card(_with_costs(card or Card(), network, inputs), source, inputs, files)
        (part / "README.md").write_text(text, encoding="utf-8")
        if source.is_transformers or factory is not None:
            _check_loader(network, source, factory, inputs, part)

    with _failures(target):
        replace_folder(target, fill)
    return target


def is_export(folder: Path) -> bool:
    """Whether `folder` was written by `export`."""
    try:
        config = read_json(folder / "config.json")
        return isinstance(config, dict) and _KEY in config
    except (OSError, ValueError):
        return False


def check_target(target: Path) -> None:
    """UserError where `target` is neither new, nor empty, nor an earlier export."""
    if not target.exists() or is_export(target):
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


def _source(network: nn.Module, factory: Factory | None) -> Source:
    kind = type(network)
    known = getattr(sys.modules.get("transformers"), kind.__name__, None) is kind
    return Source(kind.__name__, known, factory is not None)


def _config(network: nn.Module, factory: Factory | None, source: Source) -> dict[str, Any]:
    """The configuration as JSON data, with the record of what differs from what the class makes of it."""
    if not source.is_transformers:
        fresh = None if factory is None else _on_meta(factory)
        return {"architectures": [source.class_name], _KEY: _record(network, fresh)}
    config: Any = copy.deepcopy(network.config)
    kind: Any = type(network)
    fresh = _on_meta(lambda: kind(copy.deepcopy(config)))
    for path, names in _kept(network, copy.deepcopy(fresh)).items():
        full = getattr(fresh.get_submodule(path), "__len__", lambda: 0)()
        if getattr(config, "num_hidden_layers", None) == full:
            config.num_hidden_layers = len(names)
            fresh = _on_meta(lambda: kind(copy.deepcopy(config)))
            break
    config.architectures = [source.class_name]
    data = json.loads(config.to_json_string(use_diff=False))
    # Where the full network came from may be a path of this machine.
    data.pop("_name_or_path", None)
    # Backbones also list their blocks by name; made anew from the depth when left out, refused when they contradict it.
    depth, stages = data.get("num_hidden_layers"), data.get("stage_names")
    if depth and stages and len(stages) != depth + 1:
        for key in ("stage_names", "out_features", "out_indices"):
            data.pop(key, None)
    return {**data, _KEY: _record(network, fresh)}


def _on_meta(make: Factory) -> nn.Module:
    with torch.device("meta"):
        return make()


def _record(network: nn.Module, fresh: nn.Module | None) -> dict[str, Any]:
    """What a loader sets: `blocks` (lists by path, see `_kept`), `sizes` (integers by path and name), `ties`."""
    record: dict[str, Any] = {"format": _FORMAT, "blocks": {}, "sizes": {}, "ties": _ties(network)}
    if fresh is None:
        sizes = {path: _integers(part) for path, part in network.named_modules()}
        return {**record, "sizes": {path: found for path, found in sizes.items() if found}}
    record["blocks"] = _kept(network, fresh)
    there = dict(fresh.named_modules())
    for path, part in network.named_modules():
        made = there.get(path)
        if made is None or type(made) is not type(part):
            raise ExportError(
                f"the network must have the modules that its class makes: {path or 'the top'} is "
                f"{type(part).__name__}, made is {type(made).__name__}"
            )
        usual = _integers(made)
        differs = {name: value for name, value in _integers(part).items() if usual.get(name) != value}
        if differs:
            record["sizes"][path] = differs
    return record


def _kept(network: nn.Module, fresh: nn.Module) -> dict[str, dict[str, str]]:
    """Lists of blocks that are shorter than the class makes them: path -> name of a block -> its name in the full list.

    `fresh` loses the same blocks.
    """
    found = {}
    for path, part in network.named_modules():
        full = dict(fresh.named_modules()).get(path)
        lists = isinstance(part, nn.ModuleList | nn.Sequential) and isinstance(full, nn.ModuleList | nn.Sequential)
        if lists and full is not None and len(part._modules) < len(full._modules):
            found[path] = _matched(path, part, full)
            full._modules = {new: full._modules[old] for new, old in found[path].items()}
    return found


def _matched(path: str, part: nn.Module, full: nn.Module) -> dict[str, str]:
    """For each child the next one of the full list that is built alike."""
    left, names = iter(full.named_children()), {}
    for new, child in part.named_children():
        built = _built(child)
        old = next((name for name, other in left if _built(other) == built), None)
        if old is None:
            raise ExportError(f"the network must have the modules that its class makes: {path}.{new} is none of them")
        names[new] = old
    return names


def _built(module: nn.Module) -> list[Any]:
    """What tells blocks of one class apart, beside their sizes: their modules, and what is switched on in these."""
    return [
        (path, type(part), {name: value for name, value in vars(part).items() if _is_switch(name, value)})
        for path, part in module.named_modules()
    ]


def _is_switch(name: str, value: Any) -> bool:
    return isinstance(value, bool | str | float) and name != "training" and not name.startswith("_")


def _integers(part: nn.Module) -> dict[str, int | list[int]]:
    """Public integer attributes, and tuples of integers as lists."""
    found: dict[str, int | list[int]] = {}
    for name, value in vars(part).items():
        if name.startswith("_"):
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
        elif isinstance(value, tuple) and value and all(type(each) is int for each in value):
            found[name] = list(value)
    return found


def _ties(network: nn.Module) -> dict[str, str]:
    """Further names of shared tensors -> the name under which they are saved."""
    first: dict[int, str] = {}
    ties = {}
    for name, value in [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]:
        saved = first.setdefault(id(value), name)
        if saved != name:
            ties[name] = saved
    return ties


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer once; non-persistent ones too, whose values a network on the meta device lacks."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in named}


def _with_costs(card: Card, network: nn.Module, inputs: Inputs) -> Card:
    costs = cost(network, inputs)
    known: dict[str, float] = {"macs": costs.macs, "parameters": costs.parameters, "size_mib": costs.size_mib}
    return replace(card, figures={**card.figures, **{name: known[name] for name in known if name not in card.figures}})


def _check_loader(network: nn.Module, source: Source, factory: Factory | None, inputs: Inputs, folder: Path) -> None:
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
