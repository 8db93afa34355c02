"""The super-network: one module and one set of weights, of which every sub-network is a slice.

The forward of a candidate is `torch.func.functional_call` on a shell of the user's own module (`slicing.Shells`: fewer
blocks, fitting integer attributes), with the cut parameters replaced by narrowed views. Gradients therefore reach
exactly the slice that was used, there are no elastic layers, and the user's module is never patched.
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

# Number of candidates whose plans are kept: a training step runs a few, an evaluation runs one over all batches.
_REMEMBERED = 32


@dataclass(frozen=True)
class _Slot:
    """A parameter or buffer as an attribute of its module.

    It is looked up at each use, not stored: `Module.to` and `load_state_dict` may replace the tensor object.

    Attributes:
        owner: the module that has it.
        attribute: its name there.
        statistic: whether it is a running statistic of a batch norm.
    """

    owner: nn.Module
    attribute: str
    statistic: bool

    @property
    def tensor(self) -> torch.Tensor:
        """The parameter or buffer as it is now."""
        found = self.owner._parameters.get(self.attribute)
        return found if found is not None else self.owner._buffers[self.attribute]  # type: ignore[return-value]


# How a candidate's tensors are made: name in the shell, where the full tensor is, and the indices to keep of it.
_Plan = list[tuple[str, _Slot, Indices]]


class Supernet(nn.Module):
    """All sub-networks of `space`, sharing the weights of `model`.

    Args:
        model: the user's own module; it is not copied, and training the super-network trains it.
        space: its choices with cuts say what is narrowed; choices without cuts are ignored.

    Raises:
        ValueError: a cut does not fit the module, or the last option of a choice is not its full size.
    """

    def __init__(self, model: nn.Module, space: Space) -> None:
        super().__init__()
        self.model = model
        self.space = Space(tuple(choice for choice in space.choices if choice.cuts))
        _check(model, self.space)
        self._slicer = Slicer(self.space)
        self._shells = Shells(model, self.space, self._slicer)
        self._full = self.space.full()
        self._slots = _slots(model, self._slicer)
        self._plans: dict[Candidate, _Plan] = {}

    def forward(self, candidate: Candidate | Sequence[Candidate], *args: Any, **kwargs: Any) -> Any:
        """Run sub-networks on one batch.

        Args:
            candidate: a candidate, or several of them, which run one after the other. Choices that this space does not
                have are ignored.
            *args: positional inputs of the model's own forward.
            **kwargs: its keyword inputs.

        Returns:
            The output of the model's own forward for the candidate; a list of outputs for several candidates.
        """
        if isinstance(candidate, Candidate):
            return self._one(candidate, args, kwargs)
        return [self._one(each, args, kwargs) for each in candidate]

    def _one(self, candidate: Candidate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_full(candidate):
            # Not only quicker: here the batch norms of the full network update their own running statistics.
            return self.model(*args, **kwargs)
        return torch.func.functional_call(self.shell(candidate), self._views(candidate), args, kwargs)

    def _is_full(self, candidate: Candidate) -> bool:
        return all(candidate[name] == option for name, option in self._full.items())

    def shell(self, candidate: Candidate) -> nn.Module:
        """A copy of the module tree for a candidate: all tensors shared and whole, without the dropped blocks."""
        return self._shells.make(candidate)

    def _views(self, candidate: Candidate) -> dict[str, torch.Tensor]:
        """The narrowed parameters and buffers by their names in the shell, without those that stay whole.

        While training, batch norms get copies of their running statistics. These belong to the full network; what a
        sub-network writes into them is discarded, and it gets its own by `recalibrate`.
        """
        views = {}
        for name, slot, indices in self._planned(candidate):
            discarded = slot.statistic and slot.owner.training
            if indices or discarded:
                view = take(slot.tensor, indices)
                views[name] = view.clone() if discarded else view
        return views

    def _planned(self, candidate: Candidate) -> _Plan:
        """The plan of a candidate; those of the latest candidates are remembered, since planning walks all names."""
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
        """Name in the extracted module -> name in the full model, for all parameters and buffers of a candidate."""
        names, shell = _names(self.model), self.shell(candidate)
        return {name: names[id(tensor)] for name, tensor in [*shell.named_parameters(), *shell.named_buffers()]}

    def extract(self, candidate: Candidate, buffers: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
        """The sub-network as a plain module of the model's class, with small layers and its own copy of the weights.

        Its outputs are those of the super-network's forward for the candidate.

        Args:
            candidate: the sub-network.
            buffers: values that replace the model's own buffers, by their names in the full model and of the
                sub-network's sizes, such as the statistics of `recalibrate`.
        """
        shell = self.shell(candidate)
        names = _names(self.model)
        # `deepcopy` takes from its memo, by id, what is already copied. So each tensor of the shell comes out as its
        # narrowed copy, tied weights stay tied, and no full tensor is ever copied.
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
        """Set `num_hidden_layers` of a transformers configuration to the blocks that were kept.

        Attention modules keep the block numbers of the full network, which index a key-value cache. A cache of the
        new number of blocks would not fit, so it is turned off where blocks were dropped.
        """
        config = getattr(module, "config", None)
        depths = cuts_of(self.space, BlockCut)
        if len(depths) == 1 and getattr(config, "num_hidden_layers", None) == depths[0][1].count:
            kept = units_kept(candidate, depths[0][0])
            setattr(config, "num_hidden_layers", kept)  # noqa: B010
            if kept < depths[0][1].count and getattr(config, "use_cache", False):
                setattr(config, "use_cache", False)  # noqa: B010

    def unit_sums(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum a quantity that is given for each element of the parameters over the elements of each unit of a choice.

        Args:
            name: of a choice that narrows axes.
            tensors: the quantity by parameter name (without the prefix `model.`), each of the shape of its parameter;
                missing parameters count as zero.

        Returns:
            The sum for each unit (units,), float64, on the CPU.
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
        """Permute the units of choices in all tensors that hold them; outputs of the full network do not change.

        A candidate keeps the first units, so the most important units should come first.

        Args:
            orders: by name of the choice, the indices of its units (units,) in their new order.

        Raises:
            ValueError: an order is not a permutation of the units of its choice.
        """
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        for name, order in orders.items():
            for cut in self.space[name].cuts:
                if isinstance(cut, AxisCut):
                    if sorted(order.tolist()) != list(range(cut.size)):
                        raise ValueError(f"the order of {name} must be a permutation of its {cut.size} units")
                    _permute(tensors[cut.parameter], cut, order)

    def save(self, folder: Any) -> None:
        """Write weights (safetensors), space and configuration (JSON) into an existing folder; see `load`."""
        from search_spaces.supernets.storage import save

        save(self.model, self.space, folder)

    @classmethod
    def load(cls, folder: Any, model: nn.Module | None = None) -> "Supernet":
        """The super-network that `save` wrote.

        Args:
            folder: that of `save`.
            model: a model into which the weights are loaded; required for classes that transformers does not have.

        Raises:
            ValueError: files are missing or damaged, or the weights do not fit.
        """
        from search_spaces.supernets.storage import load

        return cls(*load(folder, model))


def _slots(model: nn.Module, slicer: Slicer) -> dict[str, _Slot]:
    """The tensors that a candidate's forward may replace, by name: those that choices narrow, and all statistics."""
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
    """Permute the units of one cut in place, alike in each of its runs; indices outside of the cut stay."""
    run = torch.arange(cut.size * cut.unit).reshape(cut.size, cut.unit)[order].flatten()
    runs = [cut.start + i * cut.size * cut.unit + run for i in range(cut.outer)]
    index = torch.arange(tensor.shape[cut.axis])
    index[cut.start : cut.start + cut.outer * cut.size * cut.unit] = torch.cat(runs)
    tensor.copy_(tensor.index_select(cut.axis, index.to(tensor.device)))


def _check(model: nn.Module, space: Space) -> None:
    """Raise ValueError for the first cut that does not fit the model: a space may have been read from a file."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modules = dict(model.named_modules())
    for choice, cut in cuts_of(space, AxisCut):
        shape = tuple(tensors[cut.parameter].shape) if cut.parameter in tensors else ()
        end = cut.start + cut.outer * cut.size * cut.unit
        sound = min(cut.axis, cut.start) >= 0 and min(cut.outer, cut.unit) >= 1
        if not sound or cut.axis >= len(shape) or end > shape[cut.axis]:
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
    """Raise ValueError unless the options are numbers of units up to the full size, which `Space.full` relies on."""
    low, high = choice.options[0], choice.options[-1]
    if not isinstance(low, int) or not isinstance(high, int) or not 1 <= low <= high <= size:
        raise ValueError(f"options of {choice.name} must be numbers of units from 1 to {size}, got {low} .. {high}")
    if high != size:
        raise ValueError(f"the last option of {choice.name} must be the full size {size}, got {high}")
