"""Features of encoded candidates for predictors; the features of an inactive choice are 0.

`one_hot_features` is the encoding of DyNAS-T, `contrast_features` the default of this project.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Choice, Space

_MOST_DEGREES = 4
"""Highest degree of the polynomials of an ordered choice."""


@dataclass(frozen=True)
class Features:
    """A function that computes features, and the groups of the features.

    Args:
        of: encoded candidates (n, k) -> features (n, f).
        groups: group of each of the f features; features of one choice or one family share a group, for which a
            Gaussian process learns one weight.
    """

    of: Callable[[IntArray], FloatArray]
    groups: tuple[int, ...]


def one_hot_features(space: Space) -> Features:
    """One-hot encoding of each choice, all 0 where it is inactive (DyNAS-T's custom encoding); a group is a choice."""
    most = int(space.option_counts.max(initial=1))

    def of(rows: IntArray) -> FloatArray:
        hot = (rows[:, :, None] == np.arange(most)) & space.active(rows)[:, :, None]
        return np.asarray(hot.reshape(len(rows), most * len(space.choices)), dtype=np.float64)

    return Features(of, tuple(np.repeat(np.arange(len(space.choices)), most).tolist()))


def contrast_features(space: Space) -> Features:
    """Contrasts of each choice (see `contrasts`), followed by their sums over each family of choices.

    A family is a set of choices with the same options, such as the heads of all blocks. Its sum is the total amount,
    wherever it is in the network, on which costs and accuracy depend most. A group is a choice or a family.
    """
    tables = [contrasts(choice) for choice in space.choices]
    most = int(space.option_counts.max(initial=1))
    owners = np.repeat(np.arange(len(tables)), [table.shape[1] for table in tables])
    # Table of the value of each feature (rows) for each option of its choice (columns). The last column stays 0, for an
    # inactive choice.
    values = np.zeros((len(owners), most + 1))
    for choice, table in enumerate(tables):
        values[owners == choice, : len(table)] = table.T
    each = np.arange(len(owners))
    kin = families(space)
    sums = np.zeros((len(owners), sum(tables[members[0]].shape[1] for members in kin)))
    kinship, start = [], 0
    for number, members in enumerate(kin, len(tables)):
        width = tables[members[0]].shape[1]
        # The division keeps the variance of a sum equal to that of a single choice, so that families of any size start
        # with the same weight.
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
    """Orthogonal contrasts of the options of a choice.

    The columns have mean 0 over the options and are orthogonal to each other. For an ordered choice they are
    polynomials of the sizes, linear first. Those of higher degree are scaled by one half, so that a predictor takes
    smooth effects to be more likely. For an unordered choice all options have the same distance from each other.

    Returns:
        Contrasts (options, columns).
    """
    count = len(choice.options)
    if not choice.ordered:
        # Options are taken in the order of their names, so that choices of a family that list the same options in
        # another order have the same contrast for each option.
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
    # The sign of each column of a QR decomposition is arbitrary; fix it, since the order of the rows could change it.
    signs = np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return np.asarray((columns * signs)[:, 1:] * scale * np.sqrt(count))


def families(space: Space) -> list[list[int]]:
    """Groups of at least two choices with the same options, as columns of the encoding.

    The order in which options are listed matters for ordered choices only.
    """
    found: dict[tuple[object, ...], list[int]] = {}
    for column, choice in enumerate(space.choices):
        options = tuple(choice.options) if choice.ordered else frozenset(choice.options)
        found.setdefault((options, choice.ordered), []).append(column)
    return [members for members in found.values() if len(members) > 1]


def ranks_by_name(choice: Choice) -> IntArray:
    """Rank of each option (options,) when the options are sorted by name."""
    return np.argsort(np.argsort([repr(option) for option in choice.options]))
