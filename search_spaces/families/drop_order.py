"""Which blocks of a stage drop first."""

from collections.abc import Callable, Mapping, Sequence

DropOrder = Callable[[int], Sequence[int]] | Sequence[int] | Mapping[str, Sequence[int]]
"""A function of the number of blocks, indices of the blocks of the only stage, or those by name of the depth choice."""


def last_first(count: int) -> tuple[int, ...]:
    """Blocks drop from the end (InstaTune, arXiv 2308.15609, section 4.1)."""
    return tuple(range(count - 1, -1, -1))


def spread(count: int) -> tuple[int, ...]:
    """Blocks drop so that the kept ones stay evenly spread; the first and the last block drop at the end."""
    kept, order = list(range(count)), []
    while len(kept) > 2:
        gaps = [kept[i + 1] - kept[i - 1] for i in range(1, len(kept) - 1)]
        # Of equal gaps the later one goes: later blocks refine more than they build.
        position = max(range(len(gaps)), key=lambda i: (-gaps[i], i)) + 1
        order.append(kept.pop(position))
    return (*order, *reversed(kept))


def order_of(given: DropOrder, name: str, count: int, droppable: Sequence[int], stages: int) -> tuple[int, ...]:
    """The blocks of one stage that may drop, by their number in it, the first to drop first.

    Args:
        given: by the user.
        name: of the depth choice.
        count: blocks of the stage.
        droppable: their numbers that may drop.
        stages: how many stages have a depth.

    Raises:
        ValueError: an order that names blocks that cannot drop, or a plain sequence for several stages.
    """
    if callable(given):
        return tuple(index for index in given(count) if index in droppable)
    if isinstance(given, Mapping):
        if name not in given:
            raise ValueError(f"drop_order must name every depth, {name} is missing; it has {', '.join(given)}")
        order = tuple(given[name])
    elif stages == 1:
        order = tuple(given)
    else:
        raise ValueError(f"the model has {stages} stages: drop_order must be a function or a mapping from their names")
    if sorted(order) != sorted(droppable):
        raise ValueError(f"drop_order of {name} must name each of its blocks {sorted(droppable)} once, got {order}")
    return order
