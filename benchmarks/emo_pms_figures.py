"""What the EMO-PMS benchmark concludes from scored networks: volumes, gains and rank correlations, and its table."""

from collections.abc import Mapping, Sequence

import numpy as np
from emo_pms_picks import Network
from harness import Figures
from scipy.stats import kendalltau

from nas.data.accuracy import paired_difference
from nas.searching.pareto import hypervolume

BELOW = 0.1
"""How far the error of the reference point of hypervolumes is above the original's."""
GAINS = (0.5, 0.6)
"""Shares of saved multiply-accumulates for which rows are compared with Torch-Pruning."""
OURS, UNCONSTRAINED, WHOLE, WHOLE_TIME, PEERS = "ours", "unconstrained", "whole", "whole-time", "torch-pruning"
TARGETS = {
    "hypervolume_over_whole_equal_evaluations": "at least 1",
    "hypervolume_over_whole_equal_time": "at least 1",
    "time_over_whole": "below 0.5",
    **{f"error_gain_{100 * share:g}": "above 0 points" for share in GAINS},
    "ranking_tau": "above ranking_tau_unconstrained",
}
Rows = Mapping[str, Sequence[Network]]


def volume(networks: Sequence[Network], original: Network) -> float:
    """Hypervolume of test error and multiply-accumulates.

    The reference point has the original's multiply-accumulates, and an error that is `BELOW` above its own; both are
    divided by that, so that a network without multiply-accumulates and with the original's error has a volume of 1.
    """
    values = [[(each.error - original.error) / BELOW, 1 - each.macs_saved] for each in networks]
    # A network as wrong as the reference has no volume, also where its floats differ in the last digit.
    return hypervolume(np.array(values).reshape(-1, 2).round(9), [1.0, 1.0])


def volume_figures(rows: Rows, original: Network) -> Figures:
    """Our volume over those of whole networks, where they have one."""
    others = {
        "hypervolume_over_whole_equal_evaluations": volume(rows[WHOLE], original),
        "hypervolume_over_whole_equal_time": volume(rows[WHOLE_TIME], original),
    }
    ours = volume(rows[OURS], original)
    return {name: ours / other for name, other in others.items() if other > 0}


def best(networks: Sequence[Network], share: float) -> Network | None:
    """Of the networks that save a share, the one of the least error on validation rows; None if there is none."""
    enough = [each for each in networks if each.macs_saved >= share]
    return min(enough, key=lambda each: each.validation_error, default=None)


def gain_figures(seeds: Sequence[Rows]) -> Figures:
    """How many points the best of Torch-Pruning has wrong more than ours, over the test rows of all seeds."""
    found: Figures = {}
    for share in GAINS:
        pairs = [(best(rows[OURS], share), best(rows[PEERS], share)) for rows in seeds]
        both = [(ours.right, peer.right) for ours, peer in pairs if ours is not None and peer is not None]
        if both:
            gain = paired_difference(*(np.concatenate(each) for each in zip(*both, strict=True)))
            name = f"error_gain_{100 * share:g}"
            found |= {name: gain.points, f"{name}_low": gain.low, f"{name}_high": gain.high}
    return found


def tau(errors: Sequence[float]) -> float | None:
    """Rank correlation (-1..1) of errors with their position; None where it is not defined."""
    if len(set(errors)) < 2:
        return None
    return float(kendalltau(range(len(errors)), errors).statistic)


def tau_figures(errors: Mapping[str, Sequence[float]]) -> Figures:
    """How well the rankings of sub-networks order the errors of the networks along them, by figure."""
    return {name: value for name, each in errors.items() if (value := tau(each)) is not None}


def means(seeds: Sequence[Figures]) -> Figures:
    """The mean of each figure over the seeds that have it."""
    names = dict.fromkeys(name for figures in seeds for name in figures)
    return {name: float(np.mean([figures[name] for figures in seeds if name in figures])) for name in names}


def table(rows: Rows, original: Network, seconds: Mapping[str, float], notes: Mapping[str, str]) -> str:
    """All networks with what they save and their errors, under the time that their rows took, with a word on each."""
    width = max(len(each.name) for networks in rows.values() for each in (*networks, original))
    head = f"{'':{width + 2}} MACs saved  parameters saved  error, test  error, validation (all in %)"
    lines = [head, _line(original, width)]
    for row, networks in rows.items():
        told = f"; {notes[row]}" if row in notes else ""
        lines.append(f"{row}: hypervolume {volume(networks, original):.4f}, {seconds[row]:.0f} s{told}")
        lines += [_line(each, width) for each in networks]
    return "\n".join(lines)


def _line(network: Network, width: int) -> str:
    saved = f"{100 * network.macs_saved:10.1f}  {100 * network.parameters_saved:16.1f}"
    return f"  {network.name:{width}} {saved}  {100 * network.error:11.2f}  {100 * network.validation_error:17.2f}"
