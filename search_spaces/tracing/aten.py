"""The rules of the aten operators: which axes of inputs and outputs hold the same indices, and which must not shrink.

`RULES` maps an operator's name to its rule; see `walk.py` for the interface. A rule freezes the axes that the operator
normalises or reduces over, since its result there depends on their length. Operators without a rule freeze all axes of
their inputs and outputs (`walk.unknown`), so no axis is ever narrowed on a guess.
"""

from search_spaces.tracing import indexing
from search_spaces.tracing.axes import UNIT
from search_spaces.tracing.walk import HEADS, Call, ContractionKind, Rule, Tensor, Walk, unknown


def elementwise(walk: Walk, call: Call) -> Tensor:
    """The rule of elementwise operators: all tensor arguments broadcast against each other."""
    return walk.broadcast([value for value in call.arguments.values() if isinstance(value, Tensor)])


def _constant(walk: Walk, call: Call) -> Tensor:
    """`new_zeros` and its relatives: only the type and device of the input matter, and the shape is a constant."""
    return walk.fixed(call.shape, "is a constant")


def _made(walk: Walk, call: Call) -> Tensor:
    """`zeros` and its relatives: of a shape that Python says, which may follow an attribute; the oracle finds out."""
    return Tensor(tuple(walk.axes.fresh(size) for size in call.shape))


def _linear(walk: Walk, call: Call) -> Tensor:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    walk.axes.unify(x.axes[-1], weight.axes[1])
    if bias is not None:
        walk.axes.unify(bias.axes[0], weight.axes[0])
    out = (*x.axes[:-1], weight.axes[0])
    walk.contract("linear", out[:-1], out[-1], (weight.axes[1],))
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
        # Attention written as two products. The scores are scaled by the head dimension, which must keep its size; the
        # batch axes are the heads (and the batch itself, which is frozen as an axis of the inputs).
        walk.axes.freeze(left.axes[-1], "is contracted between two activations")
        for axis in batch:
            walk.axes.tag(axis, HEADS)
    out = (*batch, left.axes[-2], right.axes[-1])
    kind: ContractionKind = "linear" if left.weight or right.weight else "attention"
    walk.contract(kind, out[:-1], out[-1], (left.axes[-1],))
    return Tensor(out)


def _attention(walk: Walk, call: Call) -> Tensor:
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    axes = walk.axes
    # The scores are divided by the root of the head dimension, by default or by a number in the user's code.
    for tensor in (query, key, value):
        axes.freeze(tensor.axes[-1], "is a head dimension")
    axes.unify(query.axes[-1], key.axes[-1])
    axes.unify(key.axes[-2], value.axes[-2])
    for ours, theirs in zip(key.axes[:-2], value.axes[:-2], strict=True):
        axes.unify(ours, theirs)
    heads, groups = axes.size(query.axes[-3]), axes.size(key.axes[-3])
    # Grouped-query attention repeats each key-value head for a group of query heads: whole groups must leave together.
    if call["enable_gqa"] and heads != groups:
        repeats = axes.fresh(heads // groups, "repeats key and value heads")
        axes.unify(query.axes[-3], axes.merge([key.axes[-3], repeats]))
    # Axes of different sizes broadcast (one key-value head for all query heads): they share no indices.
    for ours, theirs in zip(query.axes[:-2], key.axes[:-2], strict=True):
        if axes.size(ours) == axes.size(theirs):
            axes.unify(ours, theirs)
    if mask is not None:
        scores = Tensor((*query.axes[:-1], key.axes[-2]))
        walk.broadcast([scores, mask])
    for axis in query.axes[:-2]:
        axes.tag(axis, HEADS)
    # Two products: queries with keys, then the scores with the values.
    walk.contract("attention", query.axes[:-1], key.axes[-2], (query.axes[-1],))
    walk.contract("attention", query.axes[:-1], value.axes[-1], (key.axes[-2],))
    return Tensor((*query.axes[:-1], value.axes[-1]))


def _convolution(walk: Walk, call: Call) -> Tensor:
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"] or 1
    axes = walk.axes
    if groups == 1:
        axes.unify(x.axes[1], weight.axes[1])
    else:
        # Input channels are (group, axis 1 of the weight), output channels (group, rest): a whole group leaves at once.
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
    walk.contract("convolution", (x.axes[0], *space), weight.axes[0], weight.axes[1:])
    return Tensor(out)


def _batch_norm(walk: Walk, call: Call) -> Tensor:
    x = call["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            walk.axes.unify(x.axes[1], call[name].axes[0])
    return Tensor(x.axes)


def _layer_norm(walk: Walk, call: Call) -> Tensor:
    x = call["input"]
    # Unlike other reductions, a layer norm may lose units: `Shells` sets its `normalized_shape`, and the oracle
    # averages over the kept ones.
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
    # The reverse of a concatenation: the axis that is split is the sum of the axes of the pieces.
    parts = [walk.axes.fresh(shape[position]) for shape in call.shapes]
    walk.axes.unify(x.axes[position], tuple(part[0] for part in parts))
    return [Tensor((*x.axes[:position], part, *x.axes[position + 1 :])) for part in parts]


def _reshape(walk: Walk, call: Call) -> Tensor:
    x = call["self"] or call["input"]
    return Tensor(tuple(walk.axes.reshape(x.axes, call.shape)), x.weight)


def _same(walk: Walk, call: Call) -> Tensor:
    """Operators whose output has the axes of their input: copies, casts, and dropout in evaluation mode."""
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


def _reduce(walk: Walk, call: Call) -> Tensor:
    """Means, sums and maxima over axes, which are frozen: a mean over fewer units is another number."""
    x, dims = call["self"], call["dim"]
    dims = range(len(x.axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    reduced = {dim % len(x.axes) for dim in dims}
    for dim in reduced:
        walk.axes.freeze(x.axes[dim], "is reduced")
    if call["keepdim"]:
        return Tensor(tuple(UNIT if dim in reduced else axis for dim, axis in enumerate(x.axes)))
    return Tensor(tuple(axis for dim, axis in enumerate(x.axes) if dim not in reduced))


def _softmax(walk: Walk, call: Call) -> Tensor:
    # A removed score of zero would still count in the sum of exponentials, so zeroing a unit is not removing it.
    x = call["self"]
    walk.axes.freeze(x.axes[call["dim"]], "is normalised by a softmax")
    return Tensor(x.axes)


def _spatial(walk: Walk, call: Call) -> Tensor:
    """Pooling and interpolation: batch and channels pass, positions change and keep their sizes."""
    x = call["self"] or call["input"]
    return Tensor((*x.axes[:2], *walk.fixed(call.shape[2:], "is a position").axes))


RULES: dict[str, Rule] = {
    # Elementwise, but without the tag `pointwise`, by which all others are recognised.
    **dict.fromkeys(
        (
            *("aten::where", "aten::__and__", "aten::__or__", "aten::masked_fill", "aten::masked_fill_"),
            *("aten::hardswish", "aten::hardswish_", "aten::hardsigmoid_", "aten::relu6_", "aten::leaky_relu_"),
            *("aten::zeros_like", "aten::ones_like", "aten::full_like"),
        ),
        elementwise,
    ),
    **dict.fromkeys(("aten::new_zeros", "aten::new_ones", "aten::new_full", "aten::new_empty"), _constant),
    **dict.fromkeys(("aten::zeros", "aten::ones", "aten::full"), _made),
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
            *("aten::squeeze", "aten::unsqueeze", "aten::reshape_as", "aten::view_as"),
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
    "aten::repeat": indexing.repeat,
    "aten::repeat_interleave": indexing.repeat_interleave,
    "aten::slice": indexing.slice_axes,
    **dict.fromkeys(("aten::pad", "aten::constant_pad_nd"), indexing.pad),
    **dict.fromkeys(("aten::roll", "aten::flip"), indexing.move),
    "aten::index": indexing.index,
    "aten::gather": indexing.gather,
    "aten::select": indexing.select,
    "aten::unbind": indexing.unbind,
    "aten::embedding": indexing.embedding,
}
