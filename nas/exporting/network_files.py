"""The network itself on disk: `config.json` and `model.safetensors`, with the sizes of layers that are not equal.

Layers of unequal size are recorded as what they are: every integer attribute of a module that differs from what its
class makes of the configuration. So a loader needs no knowledge of the architecture, and what a forward reads
(features, heads, groups, normalised shapes) is right by construction.
"""

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from nas.files import read_json
from search_spaces.families.plain_attention import fused_attention
from search_spaces.weights import save_tensors

_FORMAT = 2
_KEY = "subnetwork"
Factory = Callable[[], nn.Module]
"""Makes the full network of a class that transformers does not have."""


class ExportError(RuntimeError):
    """The network cannot be exported, or what was written computes something else; nothing was left."""


@dataclass(frozen=True)
class NetworkClass:
    """Where the class of a network comes from.

    Args:
        name: of the class.
        is_transformers: `transformers` has it under this name.
        has_factory: a function of the user's own makes it.
    """

    name: str
    is_transformers: bool
    has_factory: bool

    @property
    def loadable(self) -> bool:
        """Whether a few lines can build it from `config.json`."""
        return self.is_transformers or self.has_factory


def network_class(network: nn.Module, factory: Factory | None) -> NetworkClass:
    """The class of a network, and whether a loader can build it."""
    kind = type(network)
    known = getattr(sys.modules.get("transformers"), kind.__name__, None) is kind
    return NetworkClass(kind.__name__, known, factory is not None)


def write_network(network: nn.Module, folder: Path, factory: Factory | None = None) -> NetworkClass:
    """Write `config.json` and `model.safetensors` into an existing folder.

    Args:
        network: on the processor, in evaluation mode.
        folder: to write into.
        factory: for a class that transformers does not have; without it the network cannot be built from the files.

    Raises:
        ExportError: the network holds other modules than its class, or the factory, makes.
    """
    source = network_class(network, factory)
    if source.is_transformers:
        # Its class makes nn.MultiheadAttention, which was fine-tuned in plain layers.
        network = fused_attention(network)
    config = _config(network, factory, source)
    (folder / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    save_tensors(_tensors(network), folder / "model.safetensors")
    return source


def holds_network(folder: Path) -> bool:
    """Whether `write_network` wrote into `folder`."""
    try:
        config = read_json(folder / "config.json")
        return isinstance(config, dict) and _KEY in config
    except (OSError, ValueError):
        return False


def _config(network: nn.Module, factory: Factory | None, source: NetworkClass) -> dict[str, Any]:
    """The configuration as JSON data, with the record of what differs from what the class makes of it."""
    if not source.is_transformers:
        fresh = None if factory is None else _on_meta(factory)
        return {"architectures": [source.name], _KEY: _record(network, fresh)}
    config, fresh = _shortened(network, copy.deepcopy(network.config))
    config.architectures = [source.name]
    data = json.loads(config.to_json_string(use_diff=False))
    # Where the full network came from may be a path of this machine.
    data.pop("_name_or_path", None)
    # Backbones also list their blocks by name; made anew from the depth when left out, refused when they contradict it.
    depth, stages = data.get("num_hidden_layers"), data.get("stage_names")
    if depth and stages and len(stages) != depth + 1:
        for key in ("stage_names", "out_features", "out_indices"):
            data.pop(key, None)
    return {**data, _KEY: _record(network, fresh)}


def _shortened(network: nn.Module, config: Any) -> tuple[Any, nn.Module]:
    """The configuration with the number of blocks that the network has, if it says one, and what the class makes of it.

    A network of stages counts something else by that name.
    """
    kind: Any = type(network)
    fresh = _on_meta(partial(kind, copy.deepcopy(config)))
    shorter = _kept(network, copy.deepcopy(fresh))
    for path, names in shorter.items():
        if getattr(config, "num_hidden_layers", None) != len(list(fresh.get_submodule(path).children())):
            continue
        fewer = copy.deepcopy(config)
        fewer.num_hidden_layers = len(names)
        try:
            made = _on_meta(partial(kind, copy.deepcopy(fewer)))
            left = _kept(network, copy.deepcopy(made))
        except Exception:  # whatever the class raises for a number of something else
            continue
        rest = {other: kept for other, kept in shorter.items() if other != path}
        if left == rest and dict(network.named_modules()).keys() <= dict(made.named_modules()).keys():
            return fewer, made
    return config, fresh


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
        # A module with a parametrization, such as a weight norm, has a class of its own.
        if made is None or type_before_parametrizations(made) is not type_before_parametrizations(part):
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
