"""A super-network: one module, one set of weights, every sub-network a slicing of it.

The forward of a candidate is `torch.func.functional_call` on the user's own module with the touched parameters narrowed
to views, over a shallow copy whose block list is shorter and whose integer attributes follow. Gradients land in the
slice, and nothing is patched.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.cuts import AttributeCut, AxisCut, BlockCut
from search_spaces.space import Candidate, Choice, Space
from search_spaces.supernets.slicing import (
    Indices,
    Shells,
    Slicer,
    cuts_of,
    follow_shapes,
    name_in_shell,
    sliced_copy,
    take,
    units_kept,
)

_REMEMBERED = 32


@dataclass(frozen=True)
class _Slot:
    """Where a parameter or buffer hangs, so that it is found again without a walk over the module."""

    owner: nn.Module
    attribute: str
    statistic: bool

    @property
    def tensor(self) -> torch.Tensor:
        found = self.owner._parameters.get(self.attribute)
        return found if found is not None else self.owner._buffers[self.attribute]  # type: ignore[return-value]


_Plan = list[tuple[str, _Slot, Indices]]


class Supernet(nn.Module):
    """The sub-networks of `space` in the weights of `model`.

    Args:
        model: the user's own module; used as it is, trained in place.
        space: its choices with cuts say what is narrowed; other choices are ignored.

    Raises:
        ValueError: a cut does not fit the module.
    """

    def __init__(self, model: nn.Module, space: Space) -> None:
        super().__init__()
        self.model = model
        self.space = Space(tuple(choice for choice in space.choices if choice.cuts))
        _check(model, self.space)
        self._slicer = Slicer(self.space)
        self._shells = Shells(model, self.space, self._slicer)
        self._largest = self.space.largest()
        self._slots = _slots(model, self._slicer)
        self._plans: dict[Candidate, _Plan] = {}

    def forward(self, candidate: Candidate | Sequence[Candidate], *args: Any, **kwargs: Any) -> Any:
        """Output of the sub-network as the model's own forward gives it; a list of candidates gives a list."""
        if isinstance(candidate, Candidate):
            return self._one(candidate, args, kwargs)
        return [self._one(each, args, kwargs) for each in candidate]

    def _one(self, candidate: Candidate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_largest(candidate):
            return self.model(*args, **kwargs)
        return torch.func.functional_call(self.shell(candidate), self._views(candidate), args, kwargs)

    def _is_largest(self, candidate: Candidate) -> bool:
        return all(candidate[name] == option for name, option in self._largest.items())

    def shell(self, candidate: Candidate) -> nn.Module:
        """A copy of the module tree that shares all tensors, without dropped blocks, with attributes that follow."""
        return self._shells.make(candidate)

    def _views(self, candidate: Candidate) -> dict[str, torch.Tensor]:
        """Narrowed parameters and buffers by their names in the shell; untouched ones are left out.

        Running statistics belong to the full network: what a sub-network writes into them while training is thrown
        away, and its own come from `recalibrate`.
        """
        views = {}
        for name, slot, indices in self._planned(candidate):
            thrown_away = slot.statistic and slot.owner.training
            if indices or thrown_away:
                view = take(slot.tensor, indices)
                views[name] = view.clone() if thrown_away else view
        return views

    def _planned(self, candidate: Candidate) -> "_Plan":
        """Names in the shell and indices of all tensors that may be narrowed; the latest candidates are remembered."""
        plan = self._plans.get(candidate)
        if plan is None:
            kept = self._shells.kept(candidate)
            named = [(name_in_shell(name, kept), name, slot) for name, slot in self._slots.items()]
            plan = [
                (new, slot, self._slicer.indices(name, slot.tensor.shape, candidate))
                for new, name, slot in named
                if new is not None
            ]
            if len(self._plans) >= _REMEMBERED:
                self._plans.pop(next(iter(self._plans)))
            self._plans[candidate] = plan
        return plan

    def names(self, candidate: Candidate) -> dict[str, str]:
        """Name in the extracted module -> name in the full model, of every parameter and buffer of a candidate."""
        names, shell = _names(self.model), self.shell(candidate)
        return {name: names[id(tensor)] for name, tensor in [*shell.named_parameters(), *shell.named_buffers()]}

    def extract(self, candidate: Candidate, buffers: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
        """A plain module of the same class, with small layers and its own weights: same outputs as the shared forward.

        `buffers`, by their names in the full model and of the sliced size, replace the model's own (re-calibrated
        running statistics).
        """
        shell = self.shell(candidate)
        names = _names(self.model)
        small: dict[int, torch.Tensor] = {}
        for _, tensor in [*shell.named_parameters(), *shell.named_buffers()]:
            name = names[id(tensor)]
            own = (buffers or {}).get(name)
            view = self._slicer.narrow(name, tensor, candidate) if own is None else own
            small[id(tensor)] = sliced_copy(tensor, view)
        module: nn.Module = copy.deepcopy(shell, small)
        follow_shapes(module)
        self._follow_depth(module, candidate)
        return module

    def _follow_depth(self, module: nn.Module, candidate: Candidate) -> None:
        """Keep the block count of a transformers config true; a cache would go by the blocks' old numbers."""
        config = getattr(module, "config", None)
        depths = cuts_of(self.space, BlockCut)
        if len(depths) == 1 and getattr(config, "num_hidden_layers", None) == depths[0][1].count:
            kept = units_kept(candidate, depths[0][0])
            setattr(config, "num_hidden_layers", kept)  # noqa: B010
            if kept < depths[0][1].count and getattr(config, "use_cache", False):
                setattr(config, "use_cache", False)  # noqa: B010

    def unit_sums(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum a quantity given per parameter element over the elements of each unit of a choice.

        Args:
            name: a choice that narrows axes.
            tensors: by parameter name (without the `model.` prefix), each of its parameter's shape; missing ones
                count as zero.

        Returns:
            One number a unit (units,), float64.
        """
        cuts = [cut for cut in self.space[name].cuts if isinstance(cut, AxisCut)]
        total = torch.zeros(cuts[0].size, dtype=torch.float64)
        for cut in cuts:
            if cut.parameter in tensors:
                tensor = tensors[cut.parameter].detach().to(torch.float64).movedim(cut.axis, 0)
                along = tensor.reshape(len(tensor), -1).sum(1)
                part = along[cut.start : cut.start + cut.outer * cut.size * cut.unit]
                total += part.reshape(cut.outer, cut.size, cut.unit).sum((0, 2)).cpu()
        return total

    @torch.no_grad()
    def reorder(self, orders: Mapping[str, torch.Tensor]) -> None:
        """Permute the units of choices, best first, in all weights that hold them: outputs of the full network stay.

        Raises:
            ValueError: an order that is no permutation of the choice's units.
        """
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        for name, order in orders.items():
            for cut in self.space[name].cuts:
                if isinstance(cut, AxisCut):
                    if sorted(order.tolist()) != list(range(cut.size)):
                        raise ValueError(f"the order of {name} must be a permutation of its {cut.size} units")
                    _permute(tensors[cut.parameter], cut, order)

    def save(self, folder: Any) -> None:
        """Write weights (safetensors), space and configuration (JSON) into an existing folder."""
        from search_spaces.supernets.storage import save

        save(self.model, self.space, folder)

    @classmethod
    def load(cls, folder: Any, model: nn.Module | None = None) -> "Supernet":
        """Read what `save` wrote; a class that transformers does not know is passed as `model`.

        Raises:
            ValueError: missing or damaged files, or weights that do not fit.
        """
        from search_spaces.supernets.storage import load

        return cls(*load(folder, model))


def _slots(model: nn.Module, slicer: Slicer) -> dict[str, _Slot]:
    """By canonical name, every tensor that a choice narrows, and all batch-norm statistics."""
    slots = {}
    for name in [*dict(model.named_parameters()), *dict(model.named_buffers())]:
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        statistic = attribute in owner._buffers and isinstance(owner, _BatchNorm)
        if statistic or slicer.touches(name):
            slots[name] = _Slot(owner, attribute, statistic)
    return slots


def _names(model: nn.Module) -> dict[int, str]:
    return {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def _permute(tensor: torch.Tensor, cut: AxisCut, order: torch.Tensor) -> None:
    run = torch.arange(cut.size * cut.unit).reshape(cut.size, cut.unit)[order].flatten()
    runs = [cut.start + i * cut.size * cut.unit + run for i in range(cut.outer)]
    index = torch.arange(tensor.shape[cut.axis])
    index[cut.start : cut.start + cut.outer * cut.size * cut.unit] = torch.cat(runs)
    tensor.copy_(tensor.index_select(cut.axis, index.to(tensor.device)))


def _check(model: nn.Module, space: Space) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modules = dict(model.named_modules())
    for choice, cut in cuts_of(space, AxisCut):
        shape = tuple(tensors[cut.parameter].shape) if cut.parameter in tensors else ()
        end = cut.start + cut.outer * cut.size * cut.unit
        if min(cut.axis, cut.start) < 0 or cut.axis >= len(shape) or end > shape[cut.axis]:
            raise ValueError(
                f"the model must have {cut.parameter} for {choice.name}, with {end} indices on axis "
                f"{cut.axis}; it has {shape or 'no such parameter'}; make the space from this model"
            )
        _check_units(choice, cut.size)
    for choice, block in cuts_of(space, BlockCut):
        found = modules.get(block.blocks)
        length = len(found) if isinstance(found, nn.ModuleList | nn.Sequential) else 0
        order = block.drop_order
        if len(set(order)) != len(order) or not all(0 <= index < length for index in order):
            raise ValueError(
                f"the drop order of {choice.name} must name blocks of {block.blocks!r}, which has {length}"
            )
        _check_units(choice, block.count)
        if block.count - int(choice.options[0]) > len(order):
            raise ValueError(
                f"{choice.name} must keep at least {block.count - len(order)} blocks, got {choice.options[0]}"
            )
    for _, attribute in cuts_of(space, AttributeCut):
        if not isinstance(getattr(modules.get(attribute.module), attribute.attribute, None), int):
            raise ValueError(f"the model must have an integer {attribute.attribute} at {attribute.module!r}")


def _check_units(choice: Choice, size: int) -> None:
    low, high = choice.options[0], choice.options[-1]
    if not isinstance(low, int) or not isinstance(high, int) or not 1 <= low <= high <= size:
        raise ValueError(f"options of {choice.name} must be numbers of units from 1 to {size}, got {low} .. {high}")
    if high != size:
        raise ValueError(f"the last option of {choice.name} must be the full size {size}, got {high}")
