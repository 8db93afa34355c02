"""The order in which the blocks of a stage are dropped as the depth decreases."""

from collections.abc import Callable, Mapping, Sequence

DropOrder = Callable[[int], Sequence[int]] | Sequence[int] | Mapping[str, Sequence[int]]
"""How a user gives the order: as a function from the number of blocks to their indices, the first to be dropped first;
as these indices, for a network of one stage; or as a mapping from the names of the depth choices to them."""


def last_first(count: int) -> tuple[int, ...]:
    """The order that drops blocks from the end (InstaTune, arXiv 2308.15609, section 4.1)."""
    return tuple(range(count - 1, -1, -1))


def spread(count: int) -> tuple[int, ...]:
    """The order that keeps the remaining blocks evenly spread; the first and the last block are dropped last."""
    kept, order = list(range(count)), []
    while len(kept) > 2:
        gaps = [kept[i + 1] - kept[i - 1] for i in range(1, len(kept) - 1)]
        # Drop the block whose neighbours are closest. Ties go to the later one: later blocks tend to matter less.
        position = max(range(len(gaps)), key=lambda i: (-gaps[i], i)) + 1
        order.append(kept.pop(position))
    return (*order, *reversed(kept))


def order_of(given: DropOrder, name: str, count: int, droppable: Sequence[int], stages: int) -> tuple[int, ...]:
    """The order for one stage, as indices of its blocks in the stage.

    Args:
        given: what the user gave.
        name: of the stage's depth choice.
        count: number of blocks in the stage.
        droppable: indices of the blocks that may be dropped.
        stages: number of stages that have a depth choice.

    Raises:
        ValueError: the order does not list exactly the blocks that may be dropped, a mapping lacks this stage, or a
            single sequence was given for several stages.
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
