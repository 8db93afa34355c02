"""Restrict a search space to sizes that run fast on a device."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nas.errors import UserError
from search_spaces import AxisCut, Choice, Space


def with_multiples(space: Space, multiple_of: int) -> Space:
    """Keep only the options whose size is a multiple of `multiple_of`; the full size always stays.

    Vector instructions process 8, 16 or 32 numbers at a time, so sizes in between take as long as the next multiple.
    The size of an option is the number of its units times the largest unit of the axes that it cuts: for heads, their
    dimension.

    Args:
        space: the space.
        multiple_of: required divisor of sizes; 1 keeps all options.

    Raises:
        UserError: `multiple_of` is below 1.
    """
    if multiple_of < 1:
        raise UserError(f"--multiple-of must be at least 1, got {multiple_of}")
    if multiple_of == 1:
        return space
    choices = tuple(replace(choice, options=_fast(choice, multiple_of)) for choice in space.choices)
    known = {choice.name: choice.options for choice in choices}
    return Space(tuple(_still_active(choice, known) for choice in choices))


def _fast(choice: Choice, multiple_of: int) -> tuple[int | float | str, ...]:
    units = [cut.unit for cut in choice.cuts if isinstance(cut, AxisCut)]
    if not units:
        return tuple(choice.options)
    full = choice.options[-1]
    unit = max(units)
    return tuple(option for option in choice.options if option == full or int(option) * unit % multiple_of == 0)


def _still_active(choice: Choice, known: Mapping[str, Sequence[int | float | str]]) -> Choice:
    if choice.active_if is None:
        return choice
    parent, options = choice.active_if
    return replace(choice, active_if=(parent, tuple(option for option in options if option in known[parent])))
