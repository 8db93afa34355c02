"""The rules of operators that pick, move, repeat or surround indices of an axis.

What is picked by a number or a tensor must keep its size; the other axes pass.
"""

from search_spaces.tracing.axes import UNIT
from search_spaces.tracing.walk import Call, Tensor, Walk, unknown


def repeat(walk: Walk, call: Call) -> Tensor:
    """Whole axes end to end, as often as `repeats` says."""
    x, repeats = call["self"], list(call["repeats"])
    padded = (UNIT,) * (len(repeats) - len(x.axes)) + x.axes
    copies = [walk.axes.fresh(count, "is a repetition") for count in repeats]
    return Tensor(tuple(walk.axes.merge(pair) for pair in zip(copies, padded, strict=True)))


def repeat_interleave(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """Every index of one axis several times, one after the other."""
    x, repeats, dim = call["self"], call["repeats"], call["dim"]
    if not isinstance(repeats, int) or dim is None:
        return unknown(walk, call)
    out, dim = list(x.axes), dim % len(x.axes)
    out[dim] = walk.axes.merge([out[dim], walk.axes.fresh(repeats, "is a repetition")])
    return Tensor(tuple(out))


def part(walk: Walk, call: Call) -> Tensor:
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


def pad(walk: Walk, call: Call) -> Tensor:
    """A constant before and behind an axis is a concatenation with indices that stay (the shortcuts of option A)."""
    x, pad = call["self"], list(call["pad"])
    if min(pad, default=0) < 0 or call["mode"] not in (None, "constant"):
        return part(walk, call)
    out = list(x.axes)
    for index in range(len(pad) // 2):
        position = len(out) - 1 - index
        before, behind = (
            walk.axes.fresh(size, "is padding") if size else () for size in pad[2 * index : 2 * index + 2]
        )
        out[position] = (*before, *walk.axes.resolve(out[position]), *behind)
    return Tensor(tuple(out))


def moved(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """Indices of some axes change places."""
    x, dims = call["self"], call["dims"]
    if not dims:
        return unknown(walk, call)
    for dim in dims:
        walk.axes.freeze(x.axes[dim], "is indexed")
    return Tensor(x.axes)


def index(walk: Walk, call: Call) -> Tensor | list[Tensor]:
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


def gather(walk: Walk, call: Call) -> Tensor:
    """One axis is indexed; along the others of equal size the result runs with the input."""
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    walk.axes.freeze(x.axes[dim], "is indexed")
    out = list(part(walk, call).axes)
    out[dim] = walk.axes.fresh(call.shape[dim], "is indexed")
    return Tensor(tuple(out))


def select(walk: Walk, call: Call) -> Tensor:
    """One index of an axis, which is gone then."""
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    walk.axes.freeze(x.axes[dim], "is indexed")
    return Tensor(x.axes[:dim] + x.axes[dim + 1 :])


def unbind(walk: Walk, call: Call) -> list[Tensor]:
    """Every index of an axis, one after the other."""
    return [select(walk, Call({"self": call["self"], "dim": call["dim"] or 0}, shape)) for shape in call.shapes]


def embedding(walk: Walk, call: Call) -> Tensor:
    """Rows of a table, picked by integers of any shape."""
    weight, indices = call["weight"], call["indices"]
    walk.axes.freeze(weight.axes[0], "is a vocabulary")
    return Tensor((*indices.axes, weight.axes[1]))
