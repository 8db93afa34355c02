"""Turn the results of `instatune_common.py` into figures, a table and a picture."""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figures, Harness
from instatune_common import SHARES, Bench, Problem, Result
from instatune_hidden import hidden_figures, hidden_states

from nas.data.accuracy import PairedDifference, paired_difference

NO_LOSS, ONE_POINT = 0.0, 1.0
ONCE_NO_LOSS = 0.2
"""What the tables of version 0.1 called no loss; printed as well."""


@dataclass(frozen=True)
class TableRow:
    """A line of the table: the test accuracy of a network, and its difference from the plain one in points."""

    label: str
    saved: float
    correct: Sequence[bool]
    beside: PairedDifference

    def line(self) -> str:
        gap = f"{self.beside.points:+6.2f}  {self.beside.low:+6.2f} .. {self.beside.high:+6.2f}"
        return f"{self.label:<34} {100 * self.saved:6.1f} {100 * np.mean(self.correct):7.2f}   {gap}"


@dataclass(frozen=True)
class Outcome:
    """The results of all stages of a problem; each list has one `Result` per seed.

    Args:
        plain: by kind, "equal steps" and "equal time".
        reference: the kind of `plain` that is the better by validation.
        ours, prefix: see `Bench`.
        alone: by share.
        fifth: by share, for the five sizes of `SHARES`.
        hidden: results of `instatune_hidden.hidden_states`; empty where they are not judged.
    """

    plain: Mapping[str, list[Result]]
    reference: str
    ours: list[Result]
    prefix: list[Result]
    alone: Mapping[float, list[Result]]
    fifth: Mapping[float, list[Result]] = field(default_factory=dict)
    hidden: list[Result] = field(default_factory=list)


def compare(
    harness: Harness,
    problem: Problem,
    seeds: Sequence[int],
    title: str,
    targets: Mapping[str, str],
    before: Sequence[float] = (),
) -> None:
    """Run all stages, print the table and the figures, and draw the picture (in --out or the current folder).

    Args:
        harness: runs and keeps the stages.
        problem: network, data and settings.
        seeds: of the trainings.
        title: of the picture.
        targets: of the figures, by name.
        before: test accuracies in percent of version 0.1, for `SHARES`; empty where there are none.
    """
    out: Path | None = harness.options.out
    picture = (out or Path()) / f"{problem.name}.png"
    with tempfile.TemporaryDirectory() as scratch:
        outcome = _run([Bench(harness, problem, seed, out or Path(scratch)) for seed in seeds])
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(outcome, title, picture)
    print(f"{text(outcome)}\n\nPicture: {picture}\n", file=sys.stderr if harness.options.json else sys.stdout)
    all_figures = figures(outcome)
    if before:
        all_figures["gain_over_before"] = gain_over(before, outcome)
    found = {f"{problem.prefix}{name}": value for name, value in all_figures.items()}
    harness.report(found, {f"{problem.prefix}{name}": target for name, target in targets.items()}, seeds)


def _run(benches: Sequence[Bench]) -> Outcome:
    """Run the stages that are not stored, and collect the results of all."""
    plain: dict[str, list[Result]] = {"equal steps": [], "equal time": []}
    ours, prefix = [], []
    alone: dict[float, list[Result]] = {share: [] for share in benches[0].problem.shares}
    fifth: dict[float, list[Result]] = {share: [] for share in SHARES}
    hidden = []
    for bench in benches:
        equal, found = bench.equal_steps(), bench.ours()
        plain["equal steps"].append(equal)
        plain["equal time"].append(bench.equal_time(found["seconds"]))
        ours.append(found)
        prefix.append(bench.prefix())
        if bench.problem.judges_hidden_states:
            hidden.append(hidden_states(bench))
        for share, runs in alone.items():
            runs.append(bench.alone(_pick(found, share)["encoded"]))
        for share, runs in fifth.items():
            runs.append(bench.alone_in_a_fifth(_pick(found, share)["encoded"], found["seconds"]))
    reference = max(plain, key=lambda kind: float(np.mean([run["validation_accuracy"] for run in plain[kind]])))
    return Outcome(plain, reference, ours, prefix, alone, fifth, hidden)


def table(outcome: Outcome) -> list[TableRow]:
    """The lines of the table: each network scored on test rows, compared with the plain one."""
    reference = _joined(outcome.plain[outcome.reference])

    def row(label: str, saved: float, correct: list[bool]) -> TableRow:
        return TableRow(label, saved, correct, paired_difference(correct, reference))

    rows = [row(f"(a) full network alone, {kind}", 0.0, _joined(runs)) for kind, runs in outcome.plain.items()]
    for way, runs in (("ours", outcome.ours), ("(b) prefixes, no order", outcome.prefix)):
        rows.append(row(f"{way}, largest", 0.0, _joined(runs, lambda run: run["largest_test_correct"])))
        for share in outcome.alone:
            saved = float(np.mean([_pick(run, share)["saved"] for run in runs]))
            correct = _joined(runs, lambda run, share=share: _pick(run, share)["test_correct"])
            rows.append(row(f"{way}, pick for {100 * share:g} %", saved, correct))
    for label, trained in (("(c) extracted, alone", outcome.alone), ("(c2) a fifth of the time", outcome.fifth)):
        for share, runs in trained.items():
            saved = float(np.mean([_pick(run, share)["saved"] for run in outcome.ours]))
            rows.append(row(f"{label}, {100 * share:g} %", saved, _joined(runs)))
    return rows


def figures(outcome: Outcome) -> Figures:
    """The reported figures and the numbers that they are computed from, by name."""
    rows = {row.label: row for row in table(outcome)}
    ours = {share: rows[f"ours, pick for {100 * share:g} %"] for share in outcome.alone}
    paper = {share: rows[f"(b) prefixes, no order, pick for {100 * share:g} %"] for share in outcome.alone}
    largest = rows["ours, largest"].beside
    found: Figures = {
        "macs_saved_no_loss": _saved(ours, NO_LOSS),
        "macs_saved_one_point": _saved(ours, ONE_POINT),
        "largest_minus_plain": largest.points,
        "largest_minus_plain_low": largest.low,
        "largest_minus_plain_high": largest.high,
        "order_gain": float(np.mean([ours[share].beside.points - paper[share].beside.points for share in ours])),
        "macs_saved_no_loss_prefix": _saved(paper, NO_LOSS),
        "macs_saved_one_point_prefix": _saved(paper, ONE_POINT),
        "macs_saved_two_tenths": _saved(ours, ONCE_NO_LOSS),
        "macs_saved_two_tenths_prefix": _saved(paper, ONCE_NO_LOSS),
    }
    if outcome.fifth:
        rivals = {share: rows[f"(c2) a fifth of the time, {100 * share:g} %"] for share in outcome.fifth}
        found["least_over_alone_points"] = min(
            ours[share].beside.points - rivals[share].beside.points for share in rivals
        )
    if outcome.hidden:
        found |= hidden_figures(outcome.hidden)
    for kind, runs in outcome.plain.items():
        name = kind.replace(" ", "_")
        found[f"plain_{name}_test_accuracy"] = float(np.mean(_joined(runs)))
        found[f"plain_{name}_seconds"] = float(np.mean([run["seconds"] for run in runs]))
    found["ours_seconds"] = float(np.mean([run["seconds"] for run in outcome.ours]))
    return found


def gain_over(before: Sequence[float], outcome: Outcome) -> float:
    """Mean over the shares of the old tables of the test accuracy in points, less the one before in percent."""
    accuracies = [
        np.mean(_joined(outcome.ours, lambda run, share=share: _pick(run, share)["test_correct"])) for share in SHARES
    ]
    return float(np.mean(100 * np.array(accuracies) - np.array(before)))


def _saved(rows: Mapping[float, TableRow], points: float) -> float:
    """Largest share up to which no sub-network loses more than `points`; 0 if the smallest share does."""
    reached = 0.0
    for share, row in rows.items():
        if row.beside.points < -points:
            break
        reached = share
    return reached


def text(outcome: Outcome) -> str:
    """The table as text."""
    title = f"{'network':<34} saved %  test %   points beside (a), {outcome.reference}, 95 % interval"
    return "\n".join([title, *(row.line() for row in table(outcome))])


def draw(outcome: Outcome, title: str, path: Path) -> None:
    """Draw accuracy against the share of saved multiply-accumulates, with the front of the first seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=150, layout="constrained")
    first = outcome.ours[0]
    axes.scatter(
        *_percent(zip(first["saved"], first["accuracy"], strict=True)),
        s=14,
        color="#d3d8dd",
        label="measured (validation)",
    )
    axes.plot(*_percent(first["front"]), color="#1f6fb4", linewidth=1, label="searched front (validation)")
    groups = {
        "ours": ("o", "#1f6fb4"),
        "(b)": ("s", "#d9480f"),
        "(c)": ("^", "#2b8a3e"),
        "(c2)": ("v", "#868e96"),
        "(a)": ("*", "#222222"),
    }
    rows = table(outcome)
    for start, (marker, colour) in groups.items():
        chosen = [row for row in rows if row.label.startswith(start)]
        if not chosen:
            continue
        positions = _percent((row.saved, float(np.mean(row.correct))) for row in chosen)
        name = chosen[0].label.partition(", ")[0]
        axes.scatter(*positions, marker=marker, s=60, color=colour, label=f"{name} (test)", zorder=3)
    level = 100 * float(np.mean(_joined(outcome.plain[outcome.reference])))
    axes.axhline(level, color="#222222", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlabel="multiply-accumulates saved (%)", ylabel="accuracy (%)", ylim=(level - 12, None))
    axes.set_title(title, loc="left")
    axes.grid(color="#eceff2", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, facecolor="white")
    pyplot.close(figure)


def _percent(pairs: Any) -> tuple[list[float], list[float]]:
    listed = list(pairs)
    return [100 * x for x, _ in listed], [100 * y for _, y in listed]


def _pick(run: Result, share: float) -> Result:
    found: Result = run["picks"][f"{share:g}"]
    return found


def _joined(runs: Sequence[Result], correct: Callable[[Result], list[bool]] | None = None) -> list[bool]:
    """Concatenate the test results of all seeds."""
    return [value for run in runs for value in (correct(run) if correct else run["test_correct"])]
