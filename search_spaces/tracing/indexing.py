"""Rules of the aten operators that select, move, repeat or pad indices of an axis.

An axis that is indexed by a number, a slice or a tensor must keep its size, because the indices would mean other units
in a narrowed network. All other axes pass through unchanged.
"""

from search_spaces.tracing.axes import UNIT
from search_spaces.tracing.walk import Call, Tensor, Walk, unknown


def repeat(walk: Walk, call: Call) -> Tensor:
    """`repeat`: whole axes copied end to end, so each becomes the product (copies, axis)."""
    x, repeats = call["self"], list(call["repeats"])
    padded = (UNIT,) * (len(repeats) - len(x.axes)) + x.axes
    copies = [walk.axes.fresh(count, "is a repetition") for count in repeats]
    return Tensor(tuple(walk.axes.merge(pair) for pair in zip(copies, padded, strict=True)))


def repeat_interleave(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """`repeat_interleave` by a number: each index repeated in place, so the axis becomes the product (axis, copies)."""
    x, repeats, dim = call["self"], call["repeats"], call["dim"]
    if not isinstance(repeats, int) or dim is None:
        return unknown(walk, call)
    out, dim = list(x.axes), dim % len(x.axes)
    out[dim] = walk.axes.merge([out[dim], walk.axes.fresh(repeats, "is a repetition")])
    return Tensor(tuple(out))


def slice_axes(walk: Walk, call: Call) -> Tensor:
    """`slice`, with any step: an axis that keeps its size passes, one that loses indices is frozen."""
    x = call["self"]
    out = []
    for axis, size in zip(x.axes, call.shape, strict=True):
        if walk.axes.size(axis) == size:
            out.append(axis)
        else:
            walk.axes.freeze(axis, "is indexed")
            out.append(walk.axes.fresh(size, "is indexed"))
    return Tensor(tuple(out), x.weight)


def pad(walk: Walk, call: Call) -> Tensor:
    """`pad` with a constant: the axis is concatenated with frozen padding on both sides and may still shrink itself.

    ResNets for CIFAR pad channels in their shortcuts (option A of He et al., arXiv 1512.03385, section 3.3).
    """
    x, pad = call["self"], list(call["pad"])
    if min(pad, default=0) < 0 or call["mode"] not in (None, "constant"):
        return slice_axes(walk, call)
    out = list(x.axes)
    for index in range(len(pad) // 2):
        # `pad` lists (before, after) for the last axis first.
        position = len(out) - 1 - index
        before, behind = (
            walk.axes.fresh(size, "is padding") if size else () for size in pad[2 * index : 2 * index + 2]
        )
        out[position] = (*before, *walk.axes.resolve(out[position]), *behind)
    return Tensor(tuple(out))


def move(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """`roll` and `flip`: indices of some axes change their order, so these axes keep their sizes."""
    x, dims = call["self"], call["dims"]
    if not dims:
        return unknown(walk, call)
    for dim in dims:
        walk.axes.freeze(x.axes[dim], "is indexed")
    return Tensor(x.axes)


def index(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """`index` by tensors of integers on neighbouring axes: those are frozen, the other axes pass."""
    x, indices = call["self"], list(call["indices"])
    positions = [position for position, index in enumerate(indices) if index is not None]
    lengths = {len(indices[position].axes) for position in positions}
    first, count = positions[0], len(positions)
    rank = len(call.shape) - (len(x.axes) - count)
    # Indexed axes that are not neighbours move to the front in PyTorch; such calls fall back to freezing everything.
    if positions != list(range(first, first + count)) or rank != max(lengths):
        return unknown(walk, call)
    for position in positions:
        walk.axes.freeze(x.axes[position], "is indexed")
        for axis in indices[position].axes:
            walk.axes.freeze(axis, "holds indices")
    taken = walk.fixed(call.shape[first : first + rank], "is indexed").axes
    return Tensor((*x.axes[:first], *taken, *x.axes[first + count :]))


def gather(walk: Walk, call: Call) -> Tensor:
    """`gather`: the axis `dim` is frozen, the others pass where the result keeps their sizes."""
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    walk.axes.freeze(x.axes[dim], "is indexed")
    out = list(slice_axes(walk, call).axes)
    out[dim] = walk.axes.fresh(call.shape[dim], "is indexed")
    return Tensor(tuple(out))


def select(walk: Walk, call: Call) -> Tensor:
    """`select`: one index of an axis, which is frozen and not part of the result."""
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    walk.axes.freeze(x.axes[dim], "is indexed")
    return Tensor(x.axes[:dim] + x.axes[dim + 1 :])


def unbind(walk: Walk, call: Call) -> list[Tensor]:
    """`unbind`: `select` for every index of an axis."""
    return [select(walk, Call({"self": call["self"], "dim": call["dim"] or 0}, shape)) for shape in call.shapes]


def embedding(walk: Walk, call: Call) -> Tensor:
    """`embedding`: rows of a table selected by integers; only the features of a row may shrink."""
    weight, indices = call["weight"], call["indices"]
    walk.axes.freeze(weight.axes[0], "is a vocabulary")
    return Tensor((*indices.axes, weight.axes[1]))
