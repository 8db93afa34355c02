"""One rule an operator: what an aten call says about the axes of its inputs and outputs.

A rule gets the walk and the call's arguments by position, with tensors replaced by their axes (`Axes` lists), and
returns the axes of its result. What no rule covers freezes everything that it touches, so nothing is sliced by guess.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from search_spaces.axes import UNIT, Axes, Axis

HEADS = "heads"


@dataclass(frozen=True)
class Tensor:
    """Axes of one tensor; `weight` tells parameters (and their transposes) from activations."""

    axes: tuple[Axis, ...]
    weight: bool = False


@dataclass(frozen=True)
class Call:
    """One aten call: its arguments by schema name and the shapes of its results."""

    arguments: dict[str, Any]
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)


@dataclass
class Walk:
    """What the rules share: the algebra; contractions (multiply-accumulates) and groups of convolutions met so far."""

    axes: Axes = field(default_factory=Axes)
    contractions: list[tuple[Axis, ...]] = field(default_factory=list)
    groups: list[Axis] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    def fixed(self, shape: Sequence[int], reason: str) -> Tensor:
        """A tensor of the given shape whose axes never shrink."""
        return Tensor(tuple(self.axes.fresh(size, reason) for size in shape))

    def broadcast(self, tensors: Sequence[Tensor]) -> Tensor:
        """Axes of an elementwise result, aligned from the right; equal sizes are the same indices."""
        rank = max((len(tensor.axes) for tensor in tensors), default=0)
        result: list[Axis] = [UNIT] * rank
        for tensor in tensors:
            for position, axis in enumerate(tensor.axes, start=rank - len(tensor.axes)):
                if result[position] == UNIT:
                    result[position] = axis
                elif axis != UNIT:
                    self.axes.unify(result[position], axis)
        return Tensor(tuple(result))

    def contract(self, *axes: Axis) -> None:
        """Note a matrix product or convolution: as many multiply-accumulates as the product of the axes' sizes."""
        self.contractions.append(axes)


Rule = Callable[[Walk, Call], Any]


def elementwise(walk: Walk, call: Call) -> Tensor:
    """Every tensor argument broadcasts against the others."""
    return walk.broadcast([value for value in call.arguments.values() if isinstance(value, Tensor)])


def _linear(walk: Walk, call: Call) -> Tensor:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    walk.axes.unify(x.axes[-1], weight.axes[1])
    if bias is not None:
        walk.axes.unify(bias.axes[0], weight.axes[0])
    out = (*x.axes[:-1], weight.axes[0])
    walk.contract(*out, weight.axes[1])
    return Tensor(out)


def _addmm(walk: Walk, call: Call) -> Tensor:
    bias, product = call["self"], _product(walk, call["mat1"], call["mat2"])
    return walk.broadcast([product, bias])


def _matmul(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    left = call["self"]
    right = call["other"] or call["mat2"]
    if min(len(left.axes), len(right.axes)) < 2:
        return unknown(walk, call)
    return _product(walk, left, right)


def _product(walk: Walk, left: Tensor, right: Tensor) -> Tensor:
    walk.axes.unify(left.axes[-1], right.axes[-2])
    batch = walk.broadcast([Tensor(left.axes[:-2]), Tensor(right.axes[:-2])]).axes
    if not left.weight and not right.weight:
        # Attention: its scores depend on the whole head dimension, and its batch axes are the heads.
        walk.axes.freeze(left.axes[-1], "is contracted between two activations")
        for axis in batch:
            walk.axes.tag(axis, HEADS)
    out = (*batch, left.axes[-2], right.axes[-1])
    walk.contract(*out, left.axes[-1])
    return Tensor(out)


def _attention(walk: Walk, call: Call) -> Tensor:
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    axes = walk.axes
    for tensor in (query, key, value):
        axes.freeze(tensor.axes[-1], "is a head dimension")
    axes.unify(query.axes[-1], key.axes[-1])
    axes.unify(key.axes[-2], value.axes[-2])
    for ours, theirs in zip(key.axes[:-2], value.axes[:-2], strict=True):
        axes.unify(ours, theirs)
    heads, groups = axes.size(query.axes[-3]), axes.size(key.axes[-3])
    if call["enable_gqa"] and heads != groups:
        repeats = axes.fresh(heads // groups, "repeats key and value heads")
        axes.unify(query.axes[-3], axes.merge([key.axes[-3], repeats]))
    for ours, theirs in zip(query.axes[:-2], key.axes[:-2], strict=True):
        if axes.size(ours) == axes.size(theirs):
            axes.unify(ours, theirs)
    if mask is not None:
        scores = Tensor((*query.axes[:-1], key.axes[-2]))
        walk.broadcast([scores, mask])
    for axis in query.axes[:-2]:
        axes.tag(axis, HEADS)
    walk.contract(*query.axes, key.axes[-2])
    walk.contract(*query.axes[:-1], key.axes[-2], value.axes[-1])
    return Tensor((*query.axes[:-1], value.axes[-1]))


def _convolution(walk: Walk, call: Call) -> Tensor:
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"] or 1
    axes = walk.axes
    if groups == 1:
        axes.unify(x.axes[1], weight.axes[1])
    else:
        group = axes.fresh(groups)
        walk.groups.append(group)
        axes.unify(x.axes[1], axes.merge([group, weight.axes[1]]))
        axes.unify(weight.axes[0], axes.merge([group, axes.fresh(axes.size(weight.axes[0]) // groups)]))
    if bias is not None:
        axes.unify(bias.axes[0], weight.axes[0])
    for axis in weight.axes[2:]:
        axes.freeze(axis, "is a kernel position")
    space = walk.fixed(call.shape[2:], "is a position").axes
    out = (x.axes[0], weight.axes[0], *space)
    walk.contract(*out, *weight.axes[1:])
    return Tensor(out)


def _batch_norm(walk: Walk, call: Call) -> Tensor:
    x = call["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            walk.axes.unify(x.axes[1], call[name].axes[0])
    return Tensor(x.axes)


def _layer_norm(walk: Walk, call: Call) -> Tensor:
    x = call["input"]
    for name in ("weight", "bias"):
        if call[name] is not None:
            walk.broadcast([x, call[name]])
    return Tensor(x.axes)


def _concatenate(walk: Walk, call: Call) -> Tensor:
    tensors = call["tensors"]
    position = (call["dim"] or 0) % len(tensors[0].axes)
    out = []
    for index, first in enumerate(tensors[0].axes):
        if index == position:
            out.append(tuple(product for tensor in tensors for product in walk.axes.resolve(tensor.axes[index])))
            continue
        for tensor in tensors[1:]:
            walk.axes.unify(first, tensor.axes[index])
        out.append(first)
    return Tensor(tuple(out))


def _pieces(walk: Walk, call: Call) -> list[Tensor]:
    x = call["self"]
    position = (call["dim"] or 0) % len(x.axes)
    parts = [walk.axes.fresh(shape[position]) for shape in call.shapes]
    walk.axes.unify(x.axes[position], tuple(part[0] for part in parts))
    return [Tensor((*x.axes[:position], part, *x.axes[position + 1 :])) for part in parts]


def _reshape(walk: Walk, call: Call) -> Tensor:
    x = call["self"] or call["input"]
    return Tensor(tuple(walk.axes.reshape(x.axes, call.shape)), x.weight)


def _same(walk: Walk, call: Call) -> Tensor:
    tensor: Tensor = call["self"] or call["input"]
    return tensor


def _permute(walk: Walk, call: Call) -> Tensor:
    x = call["self"]
    return Tensor(tuple(x.axes[dim] for dim in call["dims"]), x.weight)


def _transpose(walk: Walk, call: Call) -> Tensor:
    x = call["self"]
    order = list(range(len(x.axes)))
    first, second = (call["dim0"], call["dim1"]) if call["dim0"] is not None else (-2, -1)
    if len(order) >= 2:
        order[first], order[second] = order[second], order[first]
    return Tensor(tuple(x.axes[dim] for dim in order), x.weight)


def _expand(walk: Walk, call: Call) -> Tensor:
    x = call["self"]
    padded = (UNIT,) * (len(call.shape) - len(x.axes)) + x.axes
    return Tensor(
        tuple(
            axis if walk.axes.size(axis) == size else walk.axes.fresh(size, "is a repetition")
            for axis, size in zip(padded, call.shape, strict=True)
        )
    )


def _repeat(walk: Walk, call: Call) -> Tensor:
    """Whole axes end to end, as often as `repeats` says."""
    x, repeats = call["self"], list(call["repeats"])
    padded = (UNIT,) * (len(repeats) - len(x.axes)) + x.axes
    copies = [walk.axes.fresh(count, "is a repetition") for count in repeats]
    return Tensor(tuple(walk.axes.merge(pair) for pair in zip(copies, padded, strict=True)))


def _repeat_interleave(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """Every index of one axis several times, one after the other."""
    x, repeats, dim = call["self"], call["repeats"], call["dim"]
    if not isinstance(repeats, int) or dim is None:
        return unknown(walk, call)
    out, dim = list(x.axes), dim % len(x.axes)
    out[dim] = walk.axes.merge([out[dim], walk.axes.fresh(repeats, "is a repetition")])
    return Tensor(tuple(out))


def _reduce(walk: Walk, call: Call) -> Tensor:
    x, dims = call["self"], call["dim"]
    dims = range(len(x.axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    reduced = {dim % len(x.axes) for dim in dims}
    for dim in reduced:
        walk.axes.freeze(x.axes[dim], "is reduced")
    if call["keepdim"]:
        return Tensor(tuple(UNIT if dim in reduced else axis for dim, axis in enumerate(x.axes)))
    return Tensor(tuple(axis for dim, axis in enumerate(x.axes) if dim not in reduced))


def _softmax(walk: Walk, call: Call) -> Tensor:
    x = call["self"]
    walk.axes.freeze(x.axes[call["dim"]], "is normalised by a softmax")
    return Tensor(x.axes)


def _spatial(walk: Walk, call: Call) -> Tensor:
    x = call["self"] or call["input"]
    return Tensor((*x.axes[:2], *walk.fixed(call.shape[2:], "is a position").axes))


def _slice(walk: Walk, call: Call) -> Tensor:
    """A part of an axis (strided parts too), or all of it."""
    x = call["self"]
    out = []
    for axis, size in zip(x.axes, call.shape, strict=True):
        if walk.axes.size(axis) == size:
            out.append(axis)
        else:
            walk.axes.freeze(axis, "is indexed")
            out.append(walk.axes.fresh(size, "is indexed"))
    return Tensor(tuple(out), x.weight)


def _pad(walk: Walk, call: Call) -> Tensor:
    """A constant before and behind an axis is a concatenation with indices that stay (the shortcuts of option A)."""
    x, pad = call["self"], list(call["pad"])
    if min(pad, default=0) < 0 or call["mode"] not in (None, "constant"):
        return _slice(walk, call)
    out = list(x.axes)
    for index in range(len(pad) // 2):
        position = len(out) - 1 - index
        before, behind = (
            walk.axes.fresh(size, "is padding") if size else () for size in pad[2 * index : 2 * index + 2]
        )
        out[position] = (*before, *walk.axes.resolve(out[position]), *behind)
    return Tensor(tuple(out))


def _moved(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """Indices of some axes change places."""
    x, dims = call["self"], call["dims"]
    if not dims:
        return unknown(walk, call)
    for dim in dims:
        walk.axes.freeze(x.axes[dim], "is indexed")
    return Tensor(x.axes)


def _index(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """Tensors of integers index some neighbouring axes; the others stay."""
    x, indices = call["self"], list(call["indices"])
    positions = [position for position, index in enumerate(indices) if index is not None]
    lengths = {len(indices[position].axes) for position in positions}
    first, count = positions[0], len(positions)
    rank = len(call.shape) - (len(x.axes) - count)
    if positions != list(range(first, first + count)) or rank != max(lengths):
        return unknown(walk, call)
    for position in positions:
        walk.axes.freeze(x.axes[position], "is indexed")
        for axis in indices[position].axes:
            walk.axes.freeze(axis, "holds indices")
    taken = walk.fixed(call.shape[first : first + rank], "is indexed").axes
    return Tensor((*x.axes[:first], *taken, *x.axes[first + count :]))


def _gather(walk: Walk, call: Call) -> Tensor:
    """One axis is indexed; along the others of equal size the result runs with the input."""
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    walk.axes.freeze(x.axes[dim], "is indexed")
    out = list(_slice(walk, call).axes)
    out[dim] = walk.axes.fresh(call.shape[dim], "is indexed")
    return Tensor(tuple(out))


def _select(walk: Walk, call: Call) -> Tensor:
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    walk.axes.freeze(x.axes[dim], "is indexed")
    return Tensor(x.axes[:dim] + x.axes[dim + 1 :])


def _unbind(walk: Walk, call: Call) -> list[Tensor]:
    return [_select(walk, Call({"self": call["self"], "dim": call["dim"] or 0}, shape)) for shape in call.shapes]


def _embedding(walk: Walk, call: Call) -> Tensor:
    weight, indices = call["weight"], call["indices"]
    walk.axes.freeze(weight.axes[0], "is a vocabulary")
    return Tensor((*indices.axes, weight.axes[1]))


def unknown(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """No rule: everything touched keeps its size."""
    for tensor in _tensors(call.arguments.values()):
        for axis in tensor.axes:
            walk.axes.freeze(axis, "goes through an operator without a rule")
    results = [walk.fixed(shape, "comes from an operator without a rule") for shape in call.shapes or (call.shape,)]
    return results if call.shapes else results[0]


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        return []
    return [tensor for value in values for tensor in _tensors(value)]


RULES: dict[str, Rule] = {
    # Elementwise, though not tagged so.
    **dict.fromkeys(
        (
            *("aten::where", "aten::__and__", "aten::__or__", "aten::masked_fill", "aten::masked_fill_"),
            *("aten::hardswish", "aten::hardswish_", "aten::hardsigmoid_", "aten::relu6_", "aten::leaky_relu_"),
            *("aten::zeros_like", "aten::ones_like", "aten::full_like"),
        ),
        elementwise,
    ),
    "aten::linear": _linear,
    "aten::addmm": _addmm,
    **dict.fromkeys(("aten::matmul", "aten::bmm", "aten::mm"), _matmul),
    "aten::scaled_dot_product_attention": _attention,
    **dict.fromkeys(("aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::convolution"), _convolution),
    "aten::batch_norm": _batch_norm,
    **dict.fromkeys(("aten::layer_norm", "aten::rms_norm"), _layer_norm),
    **dict.fromkeys(("aten::cat", "aten::concat"), _concatenate),
    **dict.fromkeys(("aten::chunk", "aten::split", "aten::split_with_sizes"), _pieces),
    **dict.fromkeys(
        (
            *("aten::view", "aten::reshape", "aten::_unsafe_view", "aten::flatten", "aten::unflatten"),
            *("aten::squeeze", "aten::unsqueeze"),
        ),
        _reshape,
    ),
    **dict.fromkeys(
        (
            *("aten::contiguous", "aten::clone", "aten::alias", "aten::detach", "aten::detach_", "aten::dropout"),
            *("aten::to", "aten::_to_copy", "aten::type_as", "aten::lift_fresh_copy", "aten::feature_dropout"),
        ),
        _same,
    ),
    "aten::permute": _permute,
    **dict.fromkeys(("aten::transpose", "aten::t", "aten::numpy_T", "aten::mT"), _transpose),
    **dict.fromkeys(("aten::expand", "aten::expand_as"), _expand),
    **dict.fromkeys(
        ("aten::mean", "aten::sum", "aten::amax", "aten::var", "aten::any", "aten::all"),
        _reduce,
    ),
    **dict.fromkeys(("aten::softmax", "aten::_softmax", "aten::log_softmax"), _softmax),
    **dict.fromkeys(
        (
            *("aten::adaptive_avg_pool1d", "aten::adaptive_avg_pool2d", "aten::avg_pool2d", "aten::max_pool2d"),
            *("aten::upsample_bilinear2d", "aten::upsample_bicubic2d", "aten::upsample_nearest2d"),
        ),
        _spatial,
    ),
    "aten::repeat": _repeat,
    "aten::repeat_interleave": _repeat_interleave,
    "aten::slice": _slice,
    **dict.fromkeys(("aten::pad", "aten::constant_pad_nd"), _pad),
    **dict.fromkeys(("aten::roll", "aten::flip"), _moved),
    "aten::index": _index,
    "aten::gather": _gather,
    "aten::select": _select,
    "aten::unbind": _unbind,
    "aten::embedding": _embedding,
}
