"""What predictors see of a candidate: numbers made of its encoded row, 0 where a choice is inactive."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Choice, Space

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
    most = int(space.option_counts.max(initial=1))
    owners = np.repeat(np.arange(len(tables)), [table.shape[1] for table in tables])
    # One row a feature, one column an option, and the last for a choice that is inactive.
    values = np.zeros((len(owners), most + 1))
    for choice, table in enumerate(tables):
        values[owners == choice, : len(table)] = table.T
    each = np.arange(len(owners))
    kin = families(space)
    sums = np.zeros((len(owners), sum(tables[members[0]].shape[1] for members in kin)))
    kinship, start = [], 0
    for number, members in enumerate(kin, len(tables)):
        width = tables[members[0]].shape[1]
        for member in members:
            sums[owners == member, start : start + width] = np.eye(width) / np.sqrt(len(members))
        kinship += [number] * width
        start += width

    def of(rows: IntArray) -> FloatArray:
        options = np.where(space.active(rows), rows, most)
        found = values[each, options[:, owners]]
        return np.concatenate([found, found @ sums], axis=1)

    return Features(of, (*owners.tolist(), *kinship))


def contrasts(choice: Choice) -> FloatArray:
    """One row an option, (options, columns); each column has mean 0 over the options and is at right angles to others.

    Sizes: polynomials of their values, straight first, and the higher degrees half as large, so that smooth effects
    are the likelier ones. Categories: all options are equally far from each other.
    """
    count = len(choice.options)
    if not choice.ordered:
        # One row an option wherever it stands, so that the sums of a family count the same options.
        basis = np.eye(count)[ranks_by_name(choice), : count - 1]
        scale = np.full(count - 1, 1 / np.sqrt(max(1, count - 1)))
    else:
        level = np.linspace(-1, 1, count)
        if all(isinstance(option, (int, float)) for option in choice.options):
            values = np.array(choice.options, dtype=np.float64)
            level = 2 * (values - values[0]) / (np.ptp(values) or 1.0) - 1
        basis = level[:, None] ** np.arange(1, min(count, _MOST_DEGREES + 1))
        scale = np.where(np.arange(basis.shape[1]) == 0, 1.0, 0.5)
    columns, triangle = np.linalg.qr(np.hstack([np.ones((count, 1)), basis]))
    # Rows in another order would else change signs, too.
    signs = np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return np.asarray((columns * signs)[:, 1:] * scale * np.sqrt(count))


def families(space: Space) -> list[list[int]]:
    """Columns of the choices that have the same options in the same sense, where there are at least two.

    The order of categories means nothing, here as everywhere.
    """
    found: dict[tuple[object, ...], list[int]] = {}
    for column, choice in enumerate(space.choices):
        options = tuple(choice.options) if choice.ordered else frozenset(choice.options)
        found.setdefault((options, choice.ordered), []).append(column)
    return [members for members in found.values() if len(members) > 1]


def ranks_by_name(choice: Choice) -> IntArray:
    """The place of every option (options,) among the options by name."""
    return np.argsort(np.argsort([repr(option) for option in choice.options]))
