"""Training data of the latency predictors, from the rows of a profile."""

from collections.abc import Sequence

import numpy as np

from hardware.profile import DeviceProfile, ProfileRow
from nas.errors import UserError
from nas.profiling.prediction import LatencyPredictor, PredictorKind
from predictors import Quality, quality
from search_spaces import Candidate, Kernels, Space
from search_spaces.arrays import FloatArray, IntArray

_FOLDS = 5


def learned_rows(profile: DeviceProfile, space: Space) -> tuple[IntArray, FloatArray]:
    """Training data from the stable rows of a profile.

    Returns:
        Encoded candidates (n, k) and their ratios to the full network (n,). A candidate with several rows appears once,
        with the mean of its ratios.

    Raises:
        UserError: the full network is not stable, fewer than half of the rows are, or a row is not a candidate of
            `space`.
    """
    if not profile.reference.stable:
        raise UserError(
            "the latency of the profiled full network did not get stable; stop what else runs on that machine and "
            "profile it anew"
        )
    stable = [row for row in profile.rows if row.timing.stable and profile.ratio(row.timing) > 0]
    if not stable or 2 * len(stable) < len(profile.rows):
        raise UserError(
            f"the latency of {len(profile.rows) - len(stable)} of {len(profile.rows)} profiled sub-networks did not "
            "get stable; stop what else runs on that machine and repeat the command, which measures them anew"
        )
    found: dict[Candidate, list[float]] = {}
    for row, candidate in zip(stable, candidates_of(stable, space), strict=True):
        found.setdefault(candidate, []).append(profile.ratio(row.timing))
    return space.encode(found), np.array([np.mean(each) for each in found.values()])


def candidates_of(rows: Sequence[ProfileRow], space: Space) -> list[Candidate]:
    """What was measured in the rows of a profile; UserError where that is not of this space."""
    try:
        return [space.candidate(row.candidate) for row in rows]
    except ValueError as error:
        raise UserError(f"the rows of the profile must be of this network's sub-networks: {error}") from error


def fitted(
    profile: DeviceProfile, space: Space, kernels: Kernels, kind: PredictorKind = "combined"
) -> LatencyPredictor:
    """Fit a predictor of latency ratios to all stable rows; raises UserError as `learned_rows`."""
    return LatencyPredictor(space, kernels, kind).fit(*learned_rows(profile, space))


def held_out(
    profile: DeviceProfile, space: Space, kernels: Kernels, kind: PredictorKind = "combined"
) -> Quality | None:
    """Quality of the predictor in five-fold cross-validation; None for fewer than ten candidates.

    Raises:
        UserError: as `learned_rows`.
    """
    rows, ratios = learned_rows(profile, space)
    if len(rows) < 2 * _FOLDS:
        return None
    # Rows are in the order of measurement, so each fold has some of the random, designed and adaptive ones.
    fold = np.arange(len(rows)) % _FOLDS
    mean, spread = np.zeros((2, len(rows)))
    for each in range(_FOLDS):
        out = fold == each
        mean[out], spread[out] = LatencyPredictor(space, kernels, kind).fit(rows[~out], ratios[~out]).predict(rows[out])
    return quality(ratios, mean, spread)
