"""The judge of a space: what it cuts must equal the full network with the removed units set to zero.

The exported graph does not show what Python hard-codes, so every dimension is run before it is offered. A wrongly cut
network equals its own extraction; only this comparison notices it.
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

TOLERANCE = 1e-4
# Less than this is noise of float32, and nothing tells a right cut from a wrong one.
_NOISE = 1e-5
# Size attributes that no forward reads; extraction makes them true to the weights.
_DERIVED = frozenset({"in_features", "out_features", "in_channels", "out_channels", "num_features", "embedding_dim"})


def masked_forward(supernet: Supernet, candidate: Candidate, inputs: Inputs) -> Any:
    """Output of the full network with the removed units zeroed and the dropped blocks bypassed.

    A layer norm or root-mean-square norm whose own weight loses units averages over the kept ones only.
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
            zeroed[name] = zeroed.get(name, tensor) * mask.view(shape)
            if tensor.dim() == 1:
                kept[id(zeroed[name])] = mask
    args, kwargs = split_inputs(inputs)
    with _NormsOverKept(kept):
        return torch.func.functional_call(shell, zeroed, args, kwargs)


class _NormsOverKept(TorchFunctionMode):
    """Norms of one axis average over its kept indices, by the identity of their masked weight."""

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
    masks: dict[str, dict[int, list[tuple[AxisCut, int]]]] = {}
    for choice in space.choices:
        option = candidate[choice.name]
        for cut in choice.cuts:
            if isinstance(cut, AxisCut) and option is not None:
                masks.setdefault(cut.parameter, {}).setdefault(cut.axis, []).append((cut, int(option)))
    return masks


def tensors_of(output: Any) -> list[torch.Tensor]:
    """All floating-point tensors in a model's output, in order."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    return [tensor for item in output for tensor in tensors_of(item)] if isinstance(output, (tuple, list)) else []


def difference(left: Any, right: Any) -> float:
    """Largest absolute difference of two outputs, relative to the largest value; infinite for other shapes or NaN."""
    pairs = list(
        zip(map(torch.Tensor.detach, tensors_of(left)), map(torch.Tensor.detach, tensors_of(right)), strict=True)
    )
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    worst = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)
    return worst if worst == worst else float("inf")


class _NothingDead(TorchFunctionMode):
    """Rectifiers let a fifth of negative values through: units that happen to be silent would hide how they are cut."""

    _rectifiers = (functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self._rectifiers:
            return functional.leaky_relu((*args, *(kwargs or {}).values())[0], 0.2)
        return func(*args, **(kwargs or {}))


class Judge:
    """Accepts dimensions of one model by running them on randomised weights.

    Weights are perturbed on a copy, so that zero biases and unit norms hide nothing.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model = copy.deepcopy(model).eval()
        self._inputs = inputs
        generator = torch.Generator().manual_seed(0)
        _perturb(dict(self._model.named_parameters()), generator)
        # Statistics that do not fit the perturbed weights would damp the signal until nothing is seen at the output.
        empty = Supernet(self._model, Space(()))
        with torch.no_grad(), _NothingDead():
            for name, measured in recalibrate(empty, empty.space.largest(), [inputs]).items():
                self._model.get_buffer(name).copy_(measured)
            _perturb(dict(self._model.named_buffers()), generator)
            self._full = self._model(*self._args[0], **self._args[1])

    def accept(self, dimensions: Sequence[Dimension]) -> list[tuple[Cut, ...] | None]:
        """For each dimension its cuts, with the attributes that must follow, or None where it must keep its size.

        What passes alone but not together with those before it is left out as well, and so is what leaves the output
        as it is, since nothing there tells a right cut from a wrong one.
        """
        plain: list[tuple[Cut, ...]] = [(*dimension.cuts, *dimension.attributes) for dimension in dimensions]
        if not plain or (self._passes(plain) and all(self._moved(cuts) > 10 * TOLERANCE for cuts in plain)):
            return list(plain)
        alone = [
            next((cuts for cuts in self._variants(dimension) if self._right(cuts)), None) for dimension in dimensions
        ]
        if self._passes([cuts for cuts in alone if cuts is not None]):
            return alone
        together: list[tuple[Cut, ...]] = []
        for index, cuts in enumerate(alone):
            if cuts is not None and self._passes([*together, cuts]):
                together.append(cuts)
            else:
                alone[index] = None
        return alone

    def culprit(self, space: Space, candidate: Candidate) -> str | None:
        """A choice of `space` without which `candidate` equals the masked full network; None when it does anyway.

        The sizes of a candidate may meet by chance what Python compares (a residual that is added where two shapes
        are equal), which no dimension shows alone.
        """
        supernet = Supernet(self._model, space)
        if self._equal(supernet, candidate):
            return None
        changed = [choice.name for choice in space.choices if candidate[choice.name] not in (None, choice.options[-1])]
        values = dict(candidate)
        for name in changed:
            values[name] = space[name].options[-1]
            if self._equal(supernet, space.candidate({**space.largest(), **_given(values)})):
                return name
        raise AssertionError("the full network must equal itself")

    def _equal(self, supernet: Supernet, candidate: Candidate, tolerance: float = TOLERANCE) -> bool:
        try:
            with torch.no_grad(), _NothingDead():
                shared = supernet(candidate, *self._args[0], **self._args[1])
                return difference(shared, masked_forward(supernet, candidate, self._inputs)) <= tolerance
        except Exception:  # whatever a user's forward raises on a narrowed tensor: the candidate is not usable
            return False

    def runs_without(self, cut: BlockCut, depth: int) -> bool:
        """Whether the network with `depth` of a stage's blocks is the one that bypasses the others, and differs.

        It is another one where blocks are told apart by their number: types of attention that alternate, say.
        """
        supernet = Supernet(self._model, Space((Choice("depth", (depth, cut.count), cuts=(cut,)),)))
        shorter = supernet.space.smallest()
        return self._equal(supernet, shorter) and self._movement(supernet, shorter) > TOLERANCE

    @property
    def _args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return split_inputs(self._inputs)

    def _passes(self, groups: Sequence[tuple[Cut, ...]]) -> bool:
        if not groups:
            return False
        space = Space(tuple(_halved(f"group.{index}", cuts) for index, cuts in enumerate(groups)))
        return self._equal(Supernet(self._model, space), space.smallest())

    def _right(self, cuts: tuple[Cut, ...]) -> bool:
        """Whether a dimension alone gives what it should, by far less than what it changes."""
        supernet, candidates = self._alone(cuts)
        moved = self._moved(cuts)
        return moved > _NOISE and all(self._equal(supernet, each, min(TOLERANCE, moved / 4)) for each in candidates)

    def _moved(self, cuts: tuple[Cut, ...]) -> float:
        supernet, candidates = self._alone(cuts)
        return max(self._movement(supernet, each) for each in candidates)

    def _alone(self, cuts: tuple[Cut, ...]) -> tuple[Supernet, list[Candidate]]:
        """One dimension with half of its units, and with one."""
        size = _size(cuts)
        space = Space((Choice("units", tuple(sorted({1, max(1, size // 2), size})), cuts=cuts),))
        return Supernet(self._model, space), [space.candidate({"units": n}) for n in space.choices[0].options[:-1]]

    def _movement(self, supernet: Supernet, candidate: Candidate) -> float:
        """How far a candidate is from the full network; 0 where it does not run."""
        try:
            with torch.no_grad(), _NothingDead():
                return difference(supernet(candidate, *self._args[0], **self._args[1]), self._full)
        except Exception:  # as in `_equal`
            return 0.0

    def _variants(self, dimension: Dimension) -> Iterator[tuple[Cut, ...]]:
        """The cuts alone, then with integer attributes of the modules around that equal a size of the dimension."""
        known: tuple[Cut, ...] = (*dimension.cuts, *dimension.attributes)
        yield known
        attributes = [each for each in self._attributes(dimension) if each not in known]
        for count in range(1, len(attributes) + 1):
            for subset in combinations(attributes, count):
                yield (*known, *subset)

    def _attributes(self, dimension: Dimension, most: int = 4) -> list[AttributeCut]:
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
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            # A running variance must stay positive.
            tensor.data.add_(noise.abs() if name.endswith("running_var") else noise, alpha=0.05)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: option for name, option in values.items() if option is not None}


def _halved(name: str, cuts: tuple[Cut, ...]) -> Choice:
    return Choice(name, (max(1, _size(cuts) // 2), _size(cuts)), cuts=cuts)


def _size(cuts: tuple[Cut, ...]) -> int:
    return next(cut.size for cut in cuts if isinstance(cut, AxisCut))
