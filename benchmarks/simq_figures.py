"""What `simq_nas.py` concludes: which points of a front are verified, hypervolumes, picks, and its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from harness import Figures
from simq_files import FP32, Verified

from nas.data.accuracy import paired_difference
from nas.searching.pareto import front, hypervolume
from predictors import kendall_tau
from search_spaces.arrays import BoolArray, FloatArray

JOINT, INT8 = "joint", "int8"
ALLOWED = 1.5
"""Points below INT8 that the fastest point may be for `latency_over_int8_within_1_5`."""
_LEVELS = (0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0)
_GOALS = {
    "hypervolume_over_best_other": "at least 1",
    "hypervolume_over_accuracy_control": "at least 1",
    "hypervolume_over_knapsack": "at least 1",
    "latency_over_int8": "at least 1.3, further 2",
    "size_over_int8": "at least 1.3, further 2",
    "latency_pick_minus_int8_points": "at least 0",
    "size_pick_minus_int8_points": "at least 0",
    "latency_over_int8_within_1_5": "at least 2",
    "truth_tau_joint": "at least 0.9, above truth_tau_joint_fp32",
    "truth_tau_policy": "at least 0.7",
    "truth_error_points": "at most 0.5",
    "evaluation_cost_ratio": "at most 1.3",
}
Points = Mapping[str, Sequence[Verified]]
"""The verified points of every row."""


def targets(name: str) -> dict[str, str]:
    """The target of each figure of a model."""
    without = ("latency_over_int8_within_1_5",) if name == "minilm" else ("size_over_int8",)
    goals = {figure: goal for figure, goal in _GOALS.items() if figure not in without}
    if name != "minilm":
        goals["latency_over_int8"] = "at least 1.3"
    return {f"{name}_{figure}": goal for figure, goal in goals.items()}


def spread_along(values: FloatArray, reference: Sequence[float], most: int) -> list[int]:
    """At most `most` rows of `values` (n, m), all minimised, that together have about the largest hypervolume.

    Of the rows on the front, the one that adds most is taken again and again. Once none adds anything, none is taken.
    """
    chosen: list[int] = []
    rest = np.flatnonzero(front(values)).tolist()
    volume = 0.0
    while rest and len(chosen) < most:
        volumes = [hypervolume(values[[*chosen, index]], reference) for index in rest]
        best = int(np.argmax(volumes))
        if volumes[best] <= volume:
            break
        volume = volumes[best]
        chosen.append(rest.pop(best))
    return chosen


def volume_of(points: Sequence[Verified], full: Verified, below: float) -> float:
    """Hypervolume of verified points: shares of accuracy, of the full network's latency and of its size.

    The reference point has the latency and size of the full network in float32 and an accuracy `below` its own.
    """
    values = np.array([[-each.accuracy, each.latency, each.size_mib / full.size_mib] for each in points])
    return hypervolume(values.reshape(-1, 3), [below - full.accuracy, 1.0, 1.0])


def volumes_of(points: Points, below: float) -> dict[str, float]:
    """The hypervolume of every row."""
    full = points[FP32][0]
    return {row: volume_of(found, full, below) for row, found in points.items()}


@dataclass(frozen=True)
class Picks:
    """Points of the joint front, by verified values: of those at least as accurate as the full network in INT8.

    Args:
        fastest: of these; None where there is none.
        smallest: of these; likewise.
        within: the fastest of those that lose at most 1.5 points.
    """

    fastest: Verified | None
    smallest: Verified | None
    within: Verified | None

    @property
    def names(self) -> list[str]:
        """The distinct points."""
        return list(dict.fromkeys(each.name for each in (self.fastest, self.smallest, self.within) if each is not None))


def picks(points: Points) -> Picks:
    """What is picked of the joint front."""
    int8 = points[INT8][0]

    def least(by: str, lost: float) -> Verified | None:
        # Shares of the same rows: equal numbers of right ones count as equal.
        allowed = [each for each in points[JOINT] if each.accuracy >= int8.accuracy - lost - 1e-9]
        return min(allowed, key=lambda each: float(getattr(each, by)), default=None)

    return Picks(least("latency", 0.0), least("size_mib", 0.0), least("latency", ALLOWED / 100))


def row_figures(points: Points, below: float) -> Figures:
    """Hypervolumes of the joint row over others, and what is picked of it beside the full network in INT8."""
    volumes, chosen, int8 = volumes_of(points, below), picks(points), points[INT8][0]
    others = {row: volume for row, volume in volumes.items() if row != JOINT}
    best = max(others.values())
    figures = {}
    for figure, volume in (
        ("best_other", best),
        ("accuracy_control", others["accuracy_control"]),
        ("knapsack", others["knapsack"]),
    ):
        if volume > 0:
            figures[f"hypervolume_over_{figure}"] = volumes[JOINT] / volume
    if chosen.fastest is not None:
        figures["latency_over_int8"] = int8.latency / chosen.fastest.latency
    if chosen.smallest is not None:
        figures["size_over_int8"] = int8.size_mib / chosen.smallest.size_mib
    if chosen.within is not None:
        figures["latency_over_int8_within_1_5"] = int8.latency / chosen.within.latency
    return figures


def pick_figures(chosen: Picks, right: Mapping[str, BoolArray]) -> Figures:
    """Test accuracy of the picks less that of the full network in INT8, in points, with 95 % intervals.

    Args:
        chosen: the picks.
        right: which test rows each of them and INT8 has right.
    """
    figures: Figures = {}
    for figure, point in (("latency_pick", chosen.fastest), ("size_pick", chosen.smallest)):
        if point is not None:
            found = paired_difference(right[point.name], right[INT8])
            figures[f"{figure}_minus_int8_points"] = found.points
            figures[f"{figure}_minus_int8_points_low"] = found.low
            figures[f"{figure}_minus_int8_points_high"] = found.high
    return figures


def truth_figures(joint: Mapping[str, Any], policy: Mapping[str, Any], ratios: Sequence[float]) -> Figures:
    """Agreement of what a search sees with what files are.

    Args:
        joint: accuracies of random joint candidates: `search`, `files` and `fp32`.
        policy: accuracies and output errors of policies of the full network: `search`, `files`, `search_error`,
            `files_error` and `plain_error`.
        ratios: processor time of a quantized evaluation over that of the same sub-network in float32.
    """
    apart = np.abs(np.array([*joint["search"], *policy["search"]]) - np.array([*joint["files"], *policy["files"]]))
    return {
        "truth_tau_joint": kendall_tau(joint["files"], joint["search"]),
        "truth_tau_joint_fp32": kendall_tau(joint["files"], joint["fp32"]),
        "truth_tau_policy": kendall_tau(policy["files_error"], policy["search_error"]),
        "truth_tau_policy_plain": kendall_tau(policy["files_error"], policy["plain_error"]),
        "truth_error_points": 100 * float(apart.mean()),
        "evaluation_cost_ratio": float(np.median(ratios)),
    }


def table(points: Points, searched: Mapping[str, Mapping[str, float]], below: float) -> str:
    """Every row with its verified points, and then all rows side by side.

    Args:
        points: of every row.
        searched: what the search of a row measured of a point, by its name; empty where nothing was searched.
        below: see `volume_of`.
    """
    full, volumes = points[FP32][0], volumes_of(points, below)
    ms = float(np.median([each.reference_ms for found in points.values() for each in found]))
    lines = [f"{'':26}{'accuracy %':>11}{'searched %':>11}{'ms':>9}{'x faster':>9}{'MiB':>9}{'x smaller':>10}"]
    for row, found in points.items():
        lines.append(f"{row}: hypervolume {volumes[row]:.5f}")
        for each in sorted(found, key=lambda each: each.latency):
            accuracy = searched.get(each.name, {}).get("accuracy")
            before = "" if accuracy is None else f"{100 * accuracy:.2f}"
            lines.append(
                f"  {each.name:24}{100 * each.accuracy:11.2f}{before:>11}{ms * each.latency:9.2f}"
                f"{1 / each.latency:9.2f}{each.size_mib:9.2f}{full.size_mib / each.size_mib:10.2f}"
            )
    return "\n".join([*lines, "", *_side_by_side(points)])


def _side_by_side(points: Points) -> list[str]:
    """The fastest and the smallest point of each row that is at most so far from the full network's accuracy."""
    full = points[FP32][0]
    lines = ["x faster / x smaller than the full network in float32, of points that keep its accuracy plus so much:"]
    lines.append(f"{'points':>8}" + "".join(f"{row[:15]:>17}" for row in points))
    for level in _LEVELS:
        cells = []
        for found in points.values():
            allowed = [each for each in found if each.accuracy >= full.accuracy + level / 100 - 1e-9]
            fast = max((1 / each.latency for each in allowed), default=None)
            small = max((full.size_mib / each.size_mib for each in allowed), default=None)
            cells.append("-" if fast is None or small is None else f"{fast:.2f} / {small:.2f}")
        lines.append(f"{level:>+8.1f}" + "".join(f"{cell:>17}" for cell in cells))
    return lines
