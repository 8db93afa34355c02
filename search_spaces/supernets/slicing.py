"""Applies the cuts of a space: `Slicer` narrows tensors, `Shells` makes module trees with fewer blocks.

Both leave the model as it is. A narrowed tensor is a view wherever the kept indices are contiguous, so that a shared
forward needs no memory for weights and gradients reach the full parameters.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from search_spaces.cuts import AttributeCut, AxisCut, BlockCut
from search_spaces.space import Candidate, Choice, Space
from search_spaces.supernets.layer_lists import with_kept_blocks

# The cuts of one axis, each with the number of units that a candidate keeps of it.
_KeptUnits = tuple[tuple[AxisCut, int], ...]
Indices = tuple[tuple[int, slice | torch.Tensor], ...]
"""(axis, indices kept along it) for every narrowed axis of a tensor."""


class Slicer:
    """Narrows parameters and buffers to the units that a candidate keeps.

    Args:
        space: its axis cuts say which tensors are narrowed.
    """

    def __init__(self, space: Space) -> None:
        self._plan: dict[str, dict[int, list[tuple[AxisCut, Choice]]]] = {}
        for choice in space.choices:
            for cut in choice.cuts:
                if isinstance(cut, AxisCut):
                    axes = self._plan.setdefault(cut.parameter, {})
                    axes.setdefault(cut.axis, []).append((cut, choice))
        self._indices: dict[tuple[int, _KeptUnits], slice | torch.Tensor] = {}

    def narrow(self, name: str, tensor: torch.Tensor, candidate: Candidate) -> torch.Tensor:
        """The part of `tensor` that a candidate keeps.

        Args:
            name: of the parameter or buffer in the full model.
            tensor: its full value, or a tensor of the same shape, such as its gradient.
            candidate: the sub-network.

        Returns:
            `tensor` itself if all is kept, a view if the kept indices are contiguous on every axis, else a copy.
        """
        return take(tensor, self.indices(name, tensor.shape, candidate))

    def indices(self, name: str, shape: torch.Size, candidate: Candidate) -> Indices:
        """The indices for `take` that a candidate keeps of a tensor of this shape; empty if it keeps all of it."""
        found = []
        # Several choices may cut one axis, e.g. a concatenation of two feature maps.
        for axis, cuts in self._plan.get(name, {}).items():
            keep: _KeptUnits = tuple((cut, units_kept(candidate, choice)) for cut, choice in cuts)
            if any(units != cut.size for cut, units in keep):
                found.append((axis, self._index(shape[axis], keep)))
        return tuple(found)

    def shape(self, name: str, full: torch.Size, candidate: Candidate) -> tuple[int, ...]:
        """The shape of what `narrow` keeps of a tensor of shape `full`."""
        sizes = list(full)
        for axis, index in self.indices(name, full, candidate):
            sizes[axis] = index.stop - index.start if isinstance(index, slice) else len(index)
        return tuple(sizes)

    def touches(self, name: str) -> bool:
        """Whether any choice narrows the tensor of this name."""
        return name in self._plan

    def _index(self, length: int, keep: _KeptUnits) -> slice | torch.Tensor:
        """The kept indices of an axis, as a slice if they are contiguous; remembered, as layers share their sizes."""
        key = (length, keep)
        if key not in self._indices:
            kept = torch.nonzero(kept_mask(length, keep)).flatten()
            first, last = int(kept[0]), int(kept[-1])
            self._indices[key] = slice(first, last + 1) if last - first + 1 == len(kept) else kept
        return self._indices[key]


def take(tensor: torch.Tensor, indices: Indices) -> torch.Tensor:
    """The part of a tensor at these indices: a view if all of them are slices, else a copy."""
    for axis, index in indices:
        if isinstance(index, slice):
            tensor = tensor.narrow(axis, index.start, index.stop - index.start)
        else:
            tensor = tensor.index_select(axis, index.to(tensor.device))
    return tensor


def kept_mask(length: int, keep: _KeptUnits) -> torch.Tensor:
    """Bool mask (length,) of the indices that stay when only the first units of each cut are kept."""
    mask = torch.ones(length, dtype=torch.bool)
    for cut, units in keep:
        end = cut.start + cut.outer * cut.size * cut.unit
        mask[cut.start : end].view(cut.outer, cut.size, cut.unit)[:, units:] = False
    return mask


def sliced_copy(tensor: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of `view` with its own memory; a parameter if `tensor`, which it is a view of, is one."""
    own = view.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(own, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else own


def follow_shapes(module: nn.Module) -> None:
    """Set the size attributes of PyTorch's standard layers (`in_features`, ...) to the shapes of their weights."""
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        if isinstance(part, nn.Linear):
            part.out_features, part.in_features = weight.shape
        elif isinstance(part, nn.Embedding):
            part.num_embeddings, part.embedding_dim = weight.shape
        elif isinstance(part, nn.modules.conv._ConvNd):
            # The weight of a transposed convolution is (in_channels, out_channels / groups, ...).
            outer, inner = weight.shape[0], weight.shape[1] * part.groups
            part.out_channels, part.in_channels = (inner, outer) if part.transposed else (outer, inner)
        elif isinstance(part, nn.modules.batchnorm._NormBase):
            part.num_features = weight.shape[0]
        elif isinstance(part, nn.LayerNorm | nn.RMSNorm):
            part.normalized_shape = tuple(weight.shape)


def cuts_of(space: Space, kind: type[Any]) -> list[tuple[Choice, Any]]:
    """All cuts of one class in the space, each with the choice that it belongs to."""
    return [(choice, cut) for choice in space.choices for cut in choice.cuts if isinstance(cut, kind)]


def units_kept(candidate: Candidate, choice: Choice) -> int:
    """The number of units that a candidate keeps of a choice; all of them if the choice is inactive."""
    option = candidate[choice.name]
    return int(choice.options[-1] if option is None else option)


class Shells:
    """Makes shells: copies of a module tree that share all tensors with it, but lack the blocks that a candidate drops.

    Integer attributes that follow a choice have the candidate's values. `torch.func.functional_call` runs a shell with
    narrowed tensors in place of its own.

    Args:
        model: the full network.
        space: its choices.
        slicer: that of the space, to set the `normalized_shape` of narrowed norms; None if no tensor will be narrowed.
    """

    def __init__(self, model: nn.Module, space: Space, slicer: Slicer | None = None) -> None:
        self._model = model
        self._attributes = cuts_of(space, AttributeCut)
        self._blocks = cuts_of(space, BlockCut)
        self._slicer = slicer
        # The first one is kept so that no other gets its id.
        self._configurations: dict[tuple[int, str, tuple[int, ...]], tuple[Any, Any]] = {}
        self._norms = {} if slicer is None else _narrowed_norms(model, slicer)

    def make(self, candidate: Candidate) -> nn.Module:
        """The shell of a candidate. Only modules that change, and those that contain them, are copied."""
        root = _copy(self._model)
        copies = {"": root}
        for choice, attribute in self._attributes:
            owner = _copied(copies, attribute.module)
            setattr(owner, attribute.attribute, attribute.base + attribute.scale * units_kept(candidate, choice))
        # Layer norms check the shape of their input against an attribute, which no cut describes.
        for path, (name, full) in self._norms.items():
            assert self._slicer is not None
            shape = self._slicer.shape(name, full, candidate)
            if shape != tuple(full):
                _copied(copies, path).normalized_shape = shape  # type: ignore[assignment]
        for path, kept in self.kept(candidate).items():
            parent = _copied(copies, path)
            parent._modules = {new: parent._modules[old] for old, new in kept.items()}
            self._cut_configurations(copies, path, kept)
        return root

    def _cut_configurations(self, copies: Mapping[str, nn.Module], path: str, kept: Mapping[str, str]) -> None:
        """Give the modules around a list of blocks a configuration whose own lists have the kept blocks only."""
        names = list(self._model.get_submodule(path)._modules)
        indices = tuple(index for index, name in enumerate(names) if name in kept)
        for above, module in copies.items():
            config = getattr(module, "config", None)
            if config is None or not (above == "" or path.startswith(f"{above}.")):
                continue
            key = (id(config), path, indices)
            if key not in self._configurations:
                self._configurations[key] = (config, with_kept_blocks(config, len(names), indices))
            module.config = self._configurations[key][1]

    def kept(self, candidate: Candidate) -> dict[str, dict[str, str]]:
        """The blocks that stay in every list that loses some.

        Returns:
            By path of the list, inner lists first: name of each block that stays -> its name in the shell.
        """
        dropped: dict[str, set[int]] = {}
        for choice, blocks in self._blocks:
            dropped.setdefault(blocks.blocks, set()).update(blocks.dropped(units_kept(candidate, choice)))
        # Paths are those of the full model, and renaming the blocks of an outer list changes the paths inside them, so
        # inner lists go first: reverse order puts `a.0.b` before `a`.
        lists = sorted((path for path, indices in dropped.items() if indices), reverse=True)
        return {path: _renamed(self._model.get_submodule(path)._modules, dropped[path]) for path in lists}

    def bypassed(self, candidate: Candidate) -> nn.Module:
        """A shell with all blocks, in which those that a candidate drops return their input instead of their output.

        This is the oracle's view of dropping a block: nothing is removed, so nothing can be renumbered wrongly.
        """
        copies = {"": _copy(self._model)}
        for path, kept in self.kept(candidate).items():
            for name in self._model.get_submodule(path)._modules:
                if name not in kept:
                    _bypass(copies, f"{path}.{name}" if path else name)
        return copies[""]


def _renamed(children: Mapping[str, nn.Module | None], dropped: set[int]) -> dict[str, str]:
    """Name -> new name of the children that stay; they are numbered anew if their names are numbers."""
    stay = [name for index, name in enumerate(children) if index not in dropped]
    numbered = all(name.isdigit() for name in children)
    return {name: str(new) if numbered else name for new, name in enumerate(stay)}


def _bypass(copies: dict[str, nn.Module], path: str) -> None:
    """Make a block return its first input, in the form of its output.

    The members of a list within a list are called one by one, and their outputs are added to the residual stream by the
    caller. So their bypass is an output of zeros.
    """
    block = _copied(copies, path)
    if isinstance(block, nn.ModuleList):
        for name in block._modules:
            member = _copied(copies, f"{path}.{name}")
            member.forward = _returning(member.forward, lambda x, output: torch.zeros_like(output))
    else:
        block.forward = _returning(block.forward, lambda x, output: x)


def _returning(forward: Callable[..., Any], instead: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """`forward`, with its output (the first of several) replaced by `instead(first input, output)`."""

    # The block still runs: its output shows the form (tensor, tuple, mapping) in which the caller expects the input.
    def replaced(*args: Any, **kwargs: Any) -> Any:
        x, output = args[0] if args else next(iter(kwargs.values())), forward(*args, **kwargs)
        if isinstance(output, Mapping):
            first, kind = next(iter(output)), cast(Any, type(output))
            return kind({**output, first: instead(x, output[first])})
        return (instead(x, output[0]), *output[1:]) if isinstance(output, tuple) else instead(x, output)

    return replaced


def name_in_shell(name: str, kept: Mapping[str, Mapping[str, str]]) -> str | None:
    """The name of a parameter in a shell whose lists are `kept` (see `Shells.kept`); None if its block is dropped."""
    for path, children in kept.items():
        prefix = f"{path}." if path else ""
        if name.startswith(prefix):
            block, _, rest = name.removeprefix(prefix).partition(".")
            if block not in children:
                return None
            name = f"{prefix}{children[block]}.{rest}"
    return name


def _narrowed_norms(model: nn.Module, slicer: Slicer) -> dict[str, tuple[str, torch.Size]]:
    """The narrowed norms that check the size of their input: path -> (name, full shape) of the weight."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for path, part in model.named_modules():
        weight = getattr(part, "weight", None)
        if isinstance(part, nn.LayerNorm | nn.RMSNorm) and isinstance(weight, nn.Parameter):
            name = names[id(weight)]
            if slicer.touches(name):
                found[path] = (name, weight.shape)
    return found


def _copy(module: nn.Module) -> nn.Module:
    """A shallow copy whose children can be replaced without changing the original."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _copied(copies: dict[str, nn.Module], path: str) -> nn.Module:
    """The shell's own copy of the module at `path`; made, with its ancestors, at the first request."""
    if path in copies:
        return copies[path]
    above, _, name = path.rpartition(".")
    parent = _copied(copies, above)
    child = parent._modules[name]
    assert child is not None
    copies[path] = parent._modules[name] = _copy(child)
    return copies[path]
