"""What predictors see of a candidate: numbers made of its encoded row, 0 where a choice is inactive."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search_spaces.space import Choice, Space

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MOST_DEGREES = 4


@dataclass(frozen=True)
class Features:
    """Encoded candidates (n, k) to numbers (n, f), and the group of each of the f features: what it tells about."""

    of: Callable[[IntArray], FloatArray]
    groups: tuple[int, ...]


def one_hot_features(space: Space) -> Features:
    """Every option of every choice as 0 or 1, all 0 where inactive (DyNAS-T's custom encoding); a group is a choice."""
    most = int(space.option_counts.max(initial=1))

    def of(rows: IntArray) -> FloatArray:
        hot = (rows[:, :, None] == np.arange(most)) & space.active(rows)[:, :, None]
        return np.asarray(hot.reshape(len(rows), most * len(space.choices)), dtype=np.float64)

    return Features(of, tuple(np.repeat(np.arange(len(space.choices)), most).tolist()))


def contrast_features(space: Space) -> Features:
    """Contrasts of every choice (see `contrasts`), then their sums over each family: choices with the same options.

    A family's sum says how much of something a candidate has in all, wherever that is. A group is a choice or a family.
    """
    tables = [contrasts(choice) for choice in space.choices]
    widths = [table.shape[1] for table in tables]
    most = max(widths, default=0)
    padded = np.zeros((len(tables), int(space.option_counts.max(initial=1)), most))
    for column, table in enumerate(tables):
        padded[column, : len(table), : table.shape[1]] = table
    used = (np.arange(most) < np.array(widths, dtype=np.int64)[:, None]).ravel()
    kin = families(space)
    each = np.arange(len(tables))

    def of(rows: IntArray) -> FloatArray:
        found = padded[each, rows] * space.active(rows)[:, :, None]
        sums = [found[:, members, : widths[members[0]]].sum(axis=1) / np.sqrt(len(members)) for members in kin]
        return np.concatenate([found.reshape(len(rows), used.size)[:, used], *sums], axis=1)

    widths_of_all = [*widths, *(widths[members[0]] for members in kin)]
    return Features(of, tuple(np.repeat(np.arange(len(widths_of_all)), widths_of_all).tolist()))


def contrasts(choice: Choice) -> FloatArray:
    """One row an option, (options, columns); each column has mean 0 over the options and is at right angles to others.

    Sizes: polynomials of their values, straight first, and the higher degrees half as large, so that smooth effects
    are the likelier ones. Categories: all options are equally far from each other.
    """
    count = len(choice.options)
    if not choice.ordered:
        basis = np.eye(count)[:, : count - 1]
        scale = np.full(count - 1, 1 / np.sqrt(max(1, count - 1)))
    else:
        level = np.linspace(-1, 1, count)
        if all(isinstance(option, (int, float)) for option in choice.options):
            values = np.array(choice.options, dtype=np.float64)
            level = 2 * (values - values[0]) / (np.ptp(values) or 1.0) - 1
        basis = level[:, None] ** np.arange(1, min(count, _MOST_DEGREES + 1))
        scale = np.where(np.arange(basis.shape[1]) == 0, 1.0, 0.5)
    columns = np.linalg.qr(np.hstack([np.ones((count, 1)), basis]))[0][:, 1:]
    return np.asarray(columns * scale * np.sqrt(count))


def families(space: Space) -> list[list[int]]:
    """Columns of the choices that have the same options in the same sense, where there are at least two."""
    found: dict[tuple[object, ...], list[int]] = {}
    for column, choice in enumerate(space.choices):
        found.setdefault((tuple(choice.options), choice.ordered), []).append(column)
    return [members for members in found.values() if len(members) > 1]
