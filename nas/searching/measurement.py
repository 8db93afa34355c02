"""Objectives, and what measuring candidates gives: values, or why there are none."""

import errno
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from nas.errors import UserError
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Candidate

Exact = Callable[[IntArray], FloatArray]
Evaluate = Callable[[Sequence[Candidate]], npt.ArrayLike]
Own = Callable[[Candidate], float]

_MAX_REASON = 500
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclass(frozen=True)
class Objective:
    """One quantity to improve.

    Args:
        name: e.g. `accuracy`, `latency_ms`, `macs`.
        direction: "minimize" or "maximize".
        limit: bound that a selected candidate must meet, a raw value: at most when minimised, at least when maximised.
        exact: encoded candidates (n, k) -> raw values (n,); such an objective is computed and never predicted.
        source: what `exact` was made of, such as a digest of data: a study goes on with the same only.

    Raises:
        UserError: an empty name, another direction, a limit that is not finite.
    """

    name: str
    direction: Literal["minimize", "maximize"] = "minimize"
    limit: float | None = None
    exact: Exact | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise UserError("an objective must have a name, got an empty one")
        if self.direction not in ("minimize", "maximize"):
            raise UserError(f"direction of {self.name} must be minimize or maximize, got {self.direction!r}")
        if self.limit is not None and not math.isfinite(self.limit):
            raise UserError(f"limit of {self.name} must be a finite number, got {self.limit}")

    @property
    def sign(self) -> float:
        """1 where smaller is better, -1 where larger is: raw value times sign is minimised."""
        return 1.0 if self.direction == "minimize" else -1.0


@dataclass(frozen=True)
class Measurement:
    """What became of one candidate: raw values by objective name, empty when it failed for `reason`.

    `known`: it was measured elsewhere and given to the search, outside of its budget.
    """

    candidate: Candidate
    values: Mapping[str, float]
    state: Literal["measured", "failed"]
    reason: str | None
    seconds: float
    known: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))


def violations(values: FloatArray, objectives: Sequence[Objective]) -> FloatArray:
    """By how much each row of minimised `values` (n, m) breaks the limits, (n,): a sum of shares of the limits."""
    total = np.zeros(len(values))
    for column, objective in zip(np.asarray(values, dtype=np.float64).T, objectives, strict=True):
        if objective.limit is not None:
            excess = np.where(np.isnan(column), np.inf, column - objective.sign * objective.limit)
            total += np.maximum(excess, 0.0) / (abs(objective.limit) or 1.0)
    return total


def measure(evaluate: Evaluate, candidates: list[Candidate], objectives: Sequence[Objective]) -> list[Measurement]:
    """Evaluate one chunk; a candidate with an exception or a value that is not finite has failed, the others have not.

    Raises:
        UserError: `evaluate` gave an array of another shape than (candidates, objectives), or raised one itself.
        OSError: the disk takes no more, as `evaluate` found.
    """
    start = time.perf_counter()
    try:
        raw = evaluate(candidates)
    except UserError:
        # Wrong settings: no candidate is to blame, and the next one would fare alike.
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            raise
        if len(candidates) > 1:
            return [result for candidate in candidates for result in measure(evaluate, [candidate], objectives)]
        reason = f"{type(error).__name__}: {error}"[:_MAX_REASON]
        return [Measurement(candidates[0], {}, "failed", reason, time.perf_counter() - start)]
    seconds = (time.perf_counter() - start) / len(candidates)
    values = _checked(raw, len(candidates), objectives)
    return [_measurement(c, row, objectives, seconds) for c, row in zip(candidates, values.tolist(), strict=True)]


def _checked(raw: npt.ArrayLike, rows: int, objectives: Sequence[Objective]) -> FloatArray:
    expected = (rows, len(objectives))
    try:
        values = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        got = f"{type(raw).__name__}: {error}"
        raise UserError(f"evaluate must return numbers of shape {expected}, got {got}") from error
    if values.shape != expected:
        names = ", ".join(objective.name for objective in objectives)
        raise UserError(
            f"evaluate must return shape {expected}, one row a candidate and one column each for {names}, "
            f"got shape {values.shape}"
        )
    return values


def _measurement(
    candidate: Candidate, row: list[float], objectives: Sequence[Objective], seconds: float
) -> Measurement:
    named = {objective.name: value for objective, value in zip(objectives, row, strict=True)}
    bad = [f"{name} is {value}" for name, value in named.items() if not math.isfinite(value)]
    if bad:
        return Measurement(candidate, {}, "failed", ", ".join(bad), seconds)
    return Measurement(candidate, named, "measured", None, seconds)


@dataclass(frozen=True)
class Staged:
    """An evaluation in two stages: what any process can measure, and what only this one may.

    Latencies compare only where they were measured side by side in one process, so they stay here, one candidate at a
    time and in order, whatever the workers do meanwhile.

    Args:
        anywhere: candidates -> (n, m - h), the objectives that are not in `here`, in their order.
        here: candidate -> raw value, by the name of the objective; called where the others did not fail.
        objectives: all of them, in their order.
    """

    anywhere: Evaluate
    here: Mapping[str, Own]
    objectives: tuple[Objective, ...]

    @property
    def function(self) -> Callable[[list[Candidate]], list[Measurement]]:
        """Measures a chunk, as far as that can be done anywhere; all that it needs can be sent to another process."""
        # The formulas of exact objectives stay here: they are not needed and may be large.
        elsewhere = tuple(replace(o, exact=None) for o in self.objectives if o.name not in self.here)
        return partial(measure, self.anywhere, objectives=elsewhere)

    def completed(self, measurement: Measurement) -> Measurement:
        """The measurement with the objectives that stay in this process; raises as `measure`."""
        if not self.here or measurement.state == "failed":
            return measurement

        def evaluate(candidates: Sequence[Candidate]) -> list[list[float]]:
            return [[own(candidate) for own in self.here.values()] for candidate in candidates]

        added = measure(evaluate, [measurement.candidate], [Objective(name) for name in self.here])[0]
        seconds = measurement.seconds + added.seconds
        if added.state == "failed":
            return replace(added, seconds=seconds, known=measurement.known)
        both = {**measurement.values, **added.values}
        return replace(measurement, values={o.name: both[o.name] for o in self.objectives}, seconds=seconds)
