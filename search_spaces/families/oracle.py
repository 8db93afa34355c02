"""The oracle of a space: a sub-network must equal the full network with the removed units set to zero.

The exported graph does not show the numbers that a forward hard-codes in Python, such as a head count in a reshape. So
every dimension is run before it becomes a choice. Comparing the super-network with the extracted module would not
notice a wrong cut, since both are cut alike; only the masked full network is computed in another way.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from search_spaces.cuts import AttributeCut, AxisCut, BlockCut, Cut
from search_spaces.inputs import Inputs, split_inputs
from search_spaces.space import Candidate, Choice, Space
from search_spaces.supernets.recalibration import recalibrate
from search_spaces.supernets.slicing import Shells, kept_mask
from search_spaces.supernets.supernet import Supernet
from search_spaces.tracing.coupling import Dimension

# Largest difference of outputs, relative to the largest output, at which two networks count as equal: above what the
# order of summation changes in float32, and below what a wrong cut changes.
ORACLE_TOLERANCE = 1e-4
# A cut that moves the outputs by less than this cannot be judged: the change is lost in the rounding of float32.
_NOISE = 1e-5
# Size attributes that no forward reads. Extraction sets them to the shapes of the weights, so they need not follow.
_DERIVED = frozenset({"in_features", "out_features", "in_channels", "out_channels", "num_features", "embedding_dim"})


def masked_forward(supernet: Supernet, candidate: Candidate, inputs: Inputs) -> Any:
    """The output of the full network with the removed units set to zero and the dropped blocks bypassed.

    Layer norms and root-mean-square norms over a narrowed axis average over the kept units only.

    Args:
        supernet: its model and space; the model is left as it is.
        candidate: the sub-network to imitate.
        inputs: a tuple of positional or a mapping of keyword tensors.
    """
    model, space = supernet.model, supernet.space
    shell = Shells(model, space).bypassed(candidate)
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    masks = _masks(space, candidate)
    zeroed: dict[str, torch.Tensor] = {}
    kept: dict[int, torch.Tensor] = {}
    for name, tensor in [*shell.named_parameters(), *shell.named_buffers()]:
        for axis, keep in masks.get(names[id(tensor)], {}).items():
            mask = kept_mask(tensor.shape[axis], tuple(keep)).to(tensor.device)
            shape = [-1 if index == axis else 1 for index in range(tensor.dim())]
            # Several axes of one tensor may be narrowed: masks multiply.
            zeroed[name] = zeroed.get(name, tensor) * mask.view(shape)
            if tensor.dim() == 1:
                kept[id(zeroed[name])] = mask
    args, kwargs = split_inputs(inputs)
    with _NormOverKeptUnits(kept):
        return torch.func.functional_call(shell, zeroed, args, kwargs)


class _NormOverKeptUnits(TorchFunctionMode):
    """While active, norms over the last axis average over the kept units only.

    A norm over all units would divide by the full size, zeros included, as no sub-network does.

    Args:
        kept: id of a norm's masked weight -> bool mask of its kept units.
    """

    def __init__(self, kept: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in (functional.layer_norm, functional.rms_norm):
            return func(*args, **kwargs)
        names = ("input", "normalized_shape", "weight", *(("bias",) if func is functional.layer_norm else ()), "eps")
        given = dict(zip(names, args, strict=False)) | kwargs
        keep = self._kept.get(id(given.get("weight")))
        if keep is None:
            return func(*args, **kwargs)
        x = given["input"]
        given |= {"input": x[..., keep], "normalized_shape": (int(keep.sum()),), "weight": given["weight"][keep]}
        if given.get("bias") is not None:
            given["bias"] = given["bias"][keep]
        result = torch.zeros_like(x)
        result[..., keep] = func(**given)
        return result


def _masks(space: Space, candidate: Candidate) -> dict[str, dict[int, list[tuple[AxisCut, int]]]]:
    """By parameter and axis, the cuts of the active choices, each with the number of units that is kept."""
    masks: dict[str, dict[int, list[tuple[AxisCut, int]]]] = {}
    for choice in space.choices:
        option = candidate[choice.name]
        for cut in choice.cuts:
            if isinstance(cut, AxisCut) and option is not None:
                masks.setdefault(cut.parameter, {}).setdefault(cut.axis, []).append((cut, int(option)))
    return masks


def tensors_of(output: Any) -> list[torch.Tensor]:
    """All floating-point tensors in the output of a model, in their order; mappings and sequences may be nested."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    return [tensor for item in output for tensor in tensors_of(item)] if isinstance(output, (tuple, list)) else []


def difference(left: Any, right: Any) -> float:
    """The largest absolute difference of two outputs, relative to the largest absolute value of the right one.

    Each pair of tensors is compared on its own, and the worst counts. Infinite if shapes differ, a value is NaN, or
    there are no floating-point tensors.
    """
    pairs = list(
        zip(map(torch.Tensor.detach, tensors_of(left)), map(torch.Tensor.detach, tensors_of(right)), strict=True)
    )
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    worst = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)
    return worst if worst == worst else float("inf")  # only NaN differs from itself


class _LeakyRectifiers(TorchFunctionMode):
    """While active, every ReLU is a leaky one with slope 0.2.

    Units that a ReLU happens to silence for the example inputs contribute nothing, so a wrong cut of them would go
    unnoticed.
    """

    _rectifiers = (
        *(functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_),
        # As parts of exported graphs call it.
        *(torch.ops.aten.relu.default, torch.ops.aten.relu_.default),
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self._rectifiers:
            return functional.leaky_relu((*args, *(kwargs or {}).values())[0], 0.2)
        return func(*args, **(kwargs or {}))


class Judge:
    """Checks the dimensions and blocks of one model by running candidates on example inputs.

    All runs use a copy of the model with perturbed weights: biases of zero and norm weights of one are the same for all
    units, so with them a wrong cut could give the right outputs.

    Args:
        model: the full network; it is left as it is.
        inputs: a tuple of positional or a mapping of keyword tensors, batch above 1.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model = copy.deepcopy(model).eval()
        self._inputs = inputs
        generator = torch.Generator().manual_seed(0)
        _perturb(dict(self._model.named_parameters()), generator)
        # Batch-norm statistics that do not fit the perturbed weights damp the signal, layer by layer, until a cut no
        # longer shows at the output. So they are measured, then perturbed a little like the weights.
        empty = Supernet(self._model, Space(()))
        with torch.no_grad(), _LeakyRectifiers():
            for name, measured in recalibrate(empty, empty.space.full(), [inputs]).items():
                self._model.get_buffer(name).copy_(measured)
            _perturb(dict(self._model.named_buffers()), generator)
            self._full = self._model(*self._args[0], **self._args[1])

    def accept(self, dimensions: Sequence[Dimension]) -> list[tuple[Cut, ...] | None]:
        """The cuts of the dimensions that can be narrowed.

        Args:
            dimensions: as found in the graph.

        Returns:
            For each dimension its cuts, with those integer attributes that must follow. None if it must keep its size:
            because it fails alone, because it fails together with those before it, or because narrowing it hardly
            changes the output, so that a right cut cannot be told from a wrong one.
        """
        # 1. In most networks all dimensions are right as they are: one run of all together, and one of each, show it.
        plain: list[tuple[Cut, ...]] = [(*dimension.cuts, *dimension.attributes) for dimension in dimensions]
        if not plain or (self._passes(plain) and all(self._moved(cuts) > 10 * ORACLE_TOLERANCE for cuts in plain)):
            return list(plain)
        # 2. Else find what passes alone, with as few attributes as possible.
        alone = [
            next((cuts for cuts in self._variants(dimension) if self._right(cuts)), None) for dimension in dimensions
        ]
        if self._passes([cuts for cuts in alone if cuts is not None]):
            return alone
        # 3. Add them one by one, and leave out those with which the others no longer pass.
        together: list[tuple[Cut, ...]] = []
        for index, cuts in enumerate(alone):
            if cuts is not None and self._passes([*together, cuts]):
                together.append(cuts)
            else:
                alone[index] = None
        return alone

    def culprit(self, space: Space, candidate: Candidate) -> str | None:
        """The choice that makes a candidate fail, or None if the candidate equals the masked full network.

        Choices that pass alone may fail together where a forward compares sizes, as in a residual that is added only if
        two shapes are equal. The choices that narrow something are set back to their full size one after the other; the
        one after which the candidate passes is named.

        Args:
            space: the choices that passed so far.
            candidate: one of its candidates.
        """
        supernet = Supernet(self._model, space)
        if self._equal(supernet, candidate):
            return None
        changed = [choice.name for choice in space.choices if candidate[choice.name] not in (None, choice.options[-1])]
        values = dict(candidate)
        for name in changed:
            values[name] = space[name].options[-1]
            # Full sizes for choices that were inactive in the candidate and become active with a larger parent.
            if self._equal(supernet, space.candidate({**space.full(), **_without_inactive(values)})):
                return name
        raise AssertionError("the full network must equal itself")

    def _equal(self, supernet: Supernet, candidate: Candidate, tolerance: float = ORACLE_TOLERANCE) -> bool:
        """Whether a candidate runs and its output equals that of the masked full network."""
        try:
            with torch.no_grad(), _LeakyRectifiers():
                shared = supernet(candidate, *self._args[0], **self._args[1])
                return difference(shared, masked_forward(supernet, candidate, self._inputs)) <= tolerance
        except Exception:  # whatever a user's forward raises on a narrowed tensor: the candidate is not usable
            return False

    def runs_without(self, cut: BlockCut, depth: int) -> bool:
        """Whether blocks may be dropped: the shorter network equals the one with bypassed blocks, not the full one.

        It does not where a forward treats blocks by their number, as with types of attention that alternate: dropping
        a block would change the type of all that follow.

        Args:
            cut: the blocks of one stage.
            depth: the number of blocks to keep.
        """
        supernet = Supernet(self._model, Space((Choice("depth", (depth, cut.count), cuts=(cut,)),)))
        shorter = supernet.space.smallest()
        return self._equal(supernet, shorter) and self._movement(supernet, shorter) > ORACLE_TOLERANCE

    @property
    def _args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return split_inputs(self._inputs)

    def _passes(self, groups: Sequence[tuple[Cut, ...]]) -> bool:
        """Whether the network is right with half of the units of every group of cuts at once."""
        if not groups:
            return False
        space = Space(tuple(_halved(f"group.{index}", cuts) for index, cuts in enumerate(groups)))
        return self._equal(Supernet(self._model, space), space.smallest())

    def _right(self, cuts: tuple[Cut, ...]) -> bool:
        """Whether a dimension alone is cut rightly: the error is below the tolerance, and far below the change."""
        supernet, candidates = self._alone(cuts)
        moved = self._moved(cuts)
        tolerance = min(ORACLE_TOLERANCE, moved / 4)
        return moved > _NOISE and all(self._equal(supernet, each, tolerance) for each in candidates)

    def _moved(self, cuts: tuple[Cut, ...]) -> float:
        """How much the output changes, at most, when only these cuts are made."""
        supernet, candidates = self._alone(cuts)
        return max(self._movement(supernet, each) for each in candidates)

    def _alone(self, cuts: tuple[Cut, ...]) -> tuple[Supernet, list[Candidate]]:
        """A super-network with one choice, and its candidates with one unit and with half of the units."""
        size = _size(cuts)
        space = Space((Choice("units", tuple(sorted({1, max(1, size // 2), size})), cuts=cuts),))
        return Supernet(self._model, space), [space.candidate({"units": n}) for n in space.choices[0].options[:-1]]

    def _movement(self, supernet: Supernet, candidate: Candidate) -> float:
        """The relative difference of a candidate's output from that of the full network; 0 if it fails to run."""
        try:
            with torch.no_grad(), _LeakyRectifiers():
                return difference(supernet(candidate, *self._args[0], **self._args[1]), self._full)
        except Exception:  # as in `_equal`
            return 0.0

    def _variants(self, dimension: Dimension) -> Iterator[tuple[Cut, ...]]:
        """The cuts of a dimension, then with integer attributes of nearby modules in all combinations, fewest first."""
        known: tuple[Cut, ...] = (*dimension.cuts, *dimension.attributes)
        yield known
        attributes = [each for each in self._attributes(dimension) if each not in known]
        for count in range(1, len(attributes) + 1):
            for subset in combinations(attributes, count):
                yield (*known, *subset)

    def _attributes(self, dimension: Dimension, most: int = 4) -> list[AttributeCut]:
        """Integer attributes that may have to follow a dimension: their value is its size, or that of an axis it cuts.

        Searched are the modules that own the parameters and those that contain them, e.g. `num_heads` of an attention.
        At most `most` are returned, since all their combinations are tried.
        """
        scales = Counter[tuple[str, int]]()
        for cut in dimension.cuts:
            scales[cut.parameter, cut.axis] += cut.outer * cut.unit
        sizes = {dimension.size * scale: scale for scale in (*scales.values(), 1)}
        modules = dict(self._model.named_modules())
        owners = {cut.parameter.rpartition(".")[0] for cut in dimension.cuts}
        owners |= {path.rpartition(".")[0] for path in owners}
        found = [
            AttributeCut(path, name, 0, sizes[value])
            for path in sorted(owners)
            for name, value in sorted(vars(modules[path]).items())
            if isinstance(value, int) and not isinstance(value, bool) and value in sizes and name not in _DERIVED
        ]
        return found[:most]


def _perturb(tensors: Mapping[str, torch.Tensor], generator: torch.Generator) -> None:
    """Add normal noise of deviation 0.05 to all floating-point tensors, in place."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            # A running variance must stay positive.
            tensor.data.add_(noise.abs() if name.endswith("running_var") else noise, alpha=0.05)


def _without_inactive(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: option for name, option in values.items() if option is not None}


def _halved(name: str, cuts: tuple[Cut, ...]) -> Choice:
    """A choice between half of the units and all of them."""
    return Choice(name, (max(1, _size(cuts) // 2), _size(cuts)), cuts=cuts)


def _size(cuts: tuple[Cut, ...]) -> int:
    """The number of units, which all axis cuts of a dimension share."""
    return next(cut.size for cut in cuts if isinstance(cut, AxisCut))
