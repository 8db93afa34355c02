"""The front of a search: to hover over, and as a table that sorts, with the command that exports each member."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nas.objectives import ACCURACY, quantity
from nas.profiling.choice import estimates_of
from nas.profiling.verification import Verified
from nas.reporting.charts import Axis, Cloud, front_chart
from nas.reporting.page import Block, Cell, Chart, Drawing, Note, Row, Table
from nas.reporting.precisions import Precisions
from nas.reporting.strips import Strips
from nas.reporting.table import Marks
from nas.reporting.words import Figures
from nas.searching.estimation import Estimate
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study
from search_spaces.space import Candidate

_MOST_MEMBERS, _MOST_OTHERS = 500, 1000
_ORDER = "order of measurement"
_T = TypeVar("_T")

Command = Callable[[str | None, str], str]
"""(candidate, or None for the chosen one; folder) -> the command that exports it."""


@dataclass(frozen=True)
class Member:
    """A sub-network on the front, or marked beside it.

    Args:
        measurement: as the search had it.
        order: of its measurement, from 1.
        number: in the front, from 1; None: it is not in it.
        again: what was measured again, by the name of the objective.
        role: "chosen", "full network", both or nothing.
        command: that exports it.
        estimate: of its accuracy on new rows, where there is one.
    """

    measurement: Measurement
    order: int
    number: int | None
    again: Mapping[str, float]
    role: str
    command: str
    estimate: Estimate | None = None

    def delivered(self, name: str) -> float:
        """The value as measured again where it was, else as the search had it."""
        return self.again.get(name, self.measurement.values[name])


@dataclass(frozen=True)
class Members:
    """What is shown of a search.

    Args:
        study: the search.
        shown: members of the front, and what is marked beside them.
        count: members of the front, shown or not.
        dominated: within the limits and not on the front, by order of measurement; some of them where there are many.
        beyond: beyond a limit, likewise.
        counts: of the dominated and of those beyond a limit, shown or not.
        words: for the values of each objective.
    """

    study: Study
    shown: tuple[Member, ...]
    count: int
    dominated: tuple[tuple[int, Measurement], ...]
    beyond: tuple[tuple[int, Measurement], ...]
    counts: tuple[int, int]
    words: Mapping[str, Figures]

    @classmethod
    def of(cls, study: Study, marks: Marks, verified: Sequence[Verified], command: Command) -> "Members":
        """Gather them; `command` makes the command that exports a candidate."""
        front, again = study.front(), {each.candidate: each.measured for each in verified}
        expected = estimates_of(study, verified)
        numbers = {m.candidate: number for number, m in enumerate(front, 1)}
        measured = [(order, m) for order, m in enumerate(study.measurements, 1) if m.state == "measured"]
        orders = {m.candidate: order for order, m in measured}
        marked = [m for m in (marks.chosen, marks.full) if m is not None]
        listed = _thinned(front, _MOST_MEMBERS)
        extra = list(dict.fromkeys(m.candidate for m in marked if m.candidate not in {m.candidate for m in listed}))
        beside = [m for candidate in extra if (m := study.find(candidate)) is not None]
        shown = []
        for m in [*listed, *beside]:
            number, role = numbers.get(m.candidate), _role(m, marks)
            spec = str(number) if number else None if "chosen" in role else "largest"
            out = f"exported-{number or ('chosen' if spec is None else spec)}"
            order = orders.get(m.candidate, 0)
            measured_again, estimate = again.get(m.candidate, {}), expected.get(m.candidate)
            shown.append(Member(m, order, number, measured_again, role, command(spec, out), estimate))
        apart = {m.candidate for m in front} | {m.candidate for m in beside}
        others = [(order, m) for order, m in measured if m.candidate not in apart]
        good = [each for each in others if _meets(each[1], study.objectives)]
        beyond = [each for each in others if not _meets(each[1], study.objectives)]
        words = {o.name: Figures(o.name, [m.values[o.name] for _, m in measured]) for o in study.objectives}
        thinned = tuple(_thinned(good, _MOST_OTHERS)), tuple(_thinned(beyond, _MOST_OTHERS))
        return cls(study, tuple(shown), len(front), *thinned, (len(good), len(beyond)), words)

    @property
    def chosen(self) -> Member | None:
        """The chosen one."""
        return next((m for m in self.shown if "chosen" in m.role), None)

    @property
    def full(self) -> Member | None:
        """The full network, where it was measured."""
        return next((m for m in self.shown if "full" in m.role), None)

    @property
    def estimated(self) -> str | None:
        """The objective of which there are estimates for new rows; None where there are none."""
        return ACCURACY if any(m.estimate for m in self.shown) else None

    @property
    def front(self) -> list[Member]:
        """Those shown that are on the front."""
        return [m for m in self.shown if m.number is not None]


def front_figure(members: Members) -> tuple[Block, ...]:
    """The front among all that was measured, to hover over."""
    if not members.shown and not members.dominated and not members.beyond:
        return (Note("Nothing was measured yet."),)
    objectives = members.study.objectives
    axes = [Axis(quantity(o.name).axis, _scaled_limit(o)) for o in objectives]
    if len(objectives) == 1:
        axes.append(Axis(_ORDER))
    step = None
    if len(objectives) == 2:
        step = "hv" if objectives[1].direction == "minimize" else "vh"
    figure = front_chart(axes, _clouds(members, step is not None), across=1, up=0, step=step)
    caption = "Point at a candidate for its figures; a click on a member of the front picks its row below."
    if any(o.limit is not None for o in objectives):
        caption += " Dashed lines are the limits of the search."
    if any(m.again for m in members.front):
        caption += " Hollow points are members as the search had them, filled ones as they were measured again."
    left = members.count + sum(members.counts) - len(members.front) - len(members.dominated) - len(members.beyond)
    if left:
        caption += f" {left:,} points are left out, evenly, to keep this page small; the study has them all."
    return (Chart("front-chart", figure, caption),)


def table_of(members: Members) -> tuple[Block, ...]:
    """The members of the front as a table."""
    if not members.shown:
        return (Note("No measured sub-network meets the limits of the search yet."),)
    objectives, space = members.study.objectives, members.study.space
    strips, precisions = Strips.of(space), Precisions.of(space)
    heads = ["number"]
    for objective in objectives:
        axis = quantity(objective.name).axis
        heads += [axis, f"{axis} on new rows"] if objective.name == members.estimated else [axis]
    heads += [choice.name for choice in strips.singles]
    heads += ["precision"] if precisions else []
    rows = tuple(_row(member, members, strips, precisions) for member in members.shown)
    best = members.chosen or members.shown[0]
    size = (strips.width, strips.height)
    blocks: list[Block] = [Table(tuple(heads), rows, ", ".join(strips.names), strips.background(), size, best.command)]
    notes = []
    if strips.lanes:
        notes.append("Strips show the sizes of each block relative to the largest; point at one to read them.")
    if precisions is not None:
        notes.append("Precisions sort by the mean of their bits over the layers.")
    if any(member.again for member in members.shown):
        notes.append("Large figures are as measured again after the search, small ones as the search had them.")
    if members.estimated:
        notes.append(
            "On new rows: as estimated from all validation rows, with the 95 % interval; the choice goes by it."
        )
    if len(members.front) < members.count:
        notes.append(f"{len(members.front):,} of the {members.count:,} members are shown; front.csv has all.")
    notes.append("A click on a row shows the command that exports it.")
    return (*blocks, Note(" ".join(notes)))


def _row(member: Member, members: Members, strips: Strips, precisions: Precisions | None) -> Row:
    candidate, values = member.measurement.candidate, member.measurement.values
    cells: list[Cell | Drawing] = [Cell(str(member.number or "–"), member.number, member.role)]
    for objective in members.study.objectives:
        words, name = members.words[objective.name], objective.name
        small = f"search {words.number(values[name])}" if name in member.again else ""
        cells.append(Cell(words.number(member.delivered(name)), member.delivered(name), small))
        if name == members.estimated:
            cells.append(_expected(member.estimate, words))
    for choice in strips.singles:
        option = candidate[choice.name]
        cells.append(Cell("–" if option is None else str(option), option))
    if precisions is not None:
        shown, small = precisions.parts(candidate)
        cells.append(Cell(shown, precisions.mean_bits(candidate), small))
    if strips.lanes:
        cells.append(Drawing(strips.bars(candidate), "\n".join(strips.said(candidate))))
    return Row(tuple(cells), member.number, "chosen" in member.role, member.command)


def _expected(estimate: Estimate | None, words: Figures) -> Cell:
    if estimate is None:
        return Cell("–")
    return Cell(words.number(estimate.value), estimate.value, interval_of(estimate, words))


def interval_of(estimate: Estimate, words: Figures) -> str:
    """The 95 % interval of an estimate."""
    return f"{words.number(estimate.low)} to {words.number(estimate.high)}"


def _clouds(members: Members, steps: bool) -> list[Cloud]:
    """The points from those behind to those before."""
    space = members.study.space
    names, strips, precisions = [o.name for o in members.study.objectives], Strips.of(space), Precisions.of(space)

    def sizes(candidate: Candidate) -> tuple[str, ...]:
        said = [] if precisions is None else [precisions.said(candidate)]
        return (*strips.said(candidate), *said)

    def others(kind: str, name: str, found: Sequence[tuple[int, Measurement]], count: int) -> Cloud:
        texts = tuple((f"measured as number {order}", *_said(members, m)) for order, m in found)
        return Cloud(
            kind, f"{name} ({count:,})", _values(names, [(dict(m.values), order) for order, m in found]), texts
        )

    def marks(kind: str, name: str, found: Sequence[Member]) -> Cloud:
        texts = tuple((*described(members, m), *sizes(m.measurement.candidate)) for m in found)
        numbers = tuple(m.number or 0 for m in found)
        return Cloud(kind, name, _values(names, [(_delivered(names, m), m.order) for m in found]), texts, numbers)

    front = members.front
    again = [m for m in front if m.again]
    searched = [(dict(m.measurement.values), m.order) for m in front]
    clouds = []
    if members.beyond:
        clouds.append(others("beyond", "beyond a limit", members.beyond, members.counts[1]))
    if members.dominated:
        clouds.append(others("dominated", "dominated", members.dominated, members.counts[0]))
    if steps:
        line = sorted(searched, key=lambda each: each[0][names[1]])
        clouds.append(Cloud("steps", "", _values(names, line)))
    if again:
        clouds.append(Cloud("moves", "", _moves(names, again)))
        predicted = [(dict(m.measurement.values), m.order) for m in again]
        texts = tuple((f"number {m.number}, as the search had it", *_said(members, m.measurement)) for m in again)
        clouds.append(Cloud("predicted", "front in the search", _values(names, predicted), texts))
    name = "front, measured again" if again else "Pareto front"
    clouds.append(marks("front", f"{name} ({members.count:,})", front))
    for kind, found in (("full", members.full), ("chosen", members.chosen)):
        if found is not None:
            clouds.append(marks(kind, "full network" if kind == "full" else kind, [found]))
    empty: tuple[float | None, ...] = (None,)
    clouds.append(Cloud("picked", "", (empty,) * max(2, len(names))))
    return clouds


def described(members: Members, member: Member) -> tuple[str, ...]:
    """A member in a few lines: number and role, and what was measured and is expected of it."""
    return (*_head(member), *_said(members, member.measurement, member.again), *_hoped(members, member))


def _values(
    names: Sequence[str], found: Sequence[tuple[Mapping[str, float], int]]
) -> tuple[tuple[float | None, ...], ...]:
    """For each axis the values of all points, in its unit; with one objective the second axis is their order."""
    columns = [tuple(values[name] * quantity(name).scale for values, _ in found) for name in names]
    return (*columns, *([tuple(float(order) for _, order in found)] if len(names) == 1 else []))


def _moves(names: Sequence[str], again: Sequence[Member]) -> tuple[tuple[float | None, ...], ...]:
    """Lines from what the search had to what was measured again."""
    ends = _values(names, [(dict(m.measurement.values), m.order) for m in again])
    starts = _values(names, [(_delivered(names, m), m.order) for m in again])
    return tuple(
        tuple(value for pair in zip(one, other, strict=True) for value in (*pair, None))
        for one, other in zip(ends, starts, strict=True)
    )


def _delivered(names: Sequence[str], member: Member) -> dict[str, float]:
    return {name: member.delivered(name) for name in names}


def _head(member: Member) -> tuple[str, ...]:
    number = [] if member.number is None else [f"number {member.number}"]
    return (", ".join([*number, *([member.role] if member.role else [])]),)


def _said(members: Members, measurement: Measurement, again: Mapping[str, float] | None = None) -> tuple[str, ...]:
    """A line for each objective; with both values where it was measured again."""
    lines = []
    for name, words in members.words.items():
        text = f"{words.known.label} {words((again or {}).get(name, measurement.values[name]))}"
        lines.append(f"{text} (search: {words(measurement.values[name])})" if again and name in again else text)
    return tuple(lines)


def _hoped(members: Members, member: Member) -> tuple[str, ...]:
    if members.estimated is None or member.estimate is None:
        return ()
    words = members.words[members.estimated]
    return (f"on new rows {words(member.estimate.value)} [{interval_of(member.estimate, words)}]",)


def _role(measurement: Measurement, marks: Marks) -> str:
    chosen = marks.chosen is not None and measurement.candidate == marks.chosen.candidate
    full = marks.full is not None and measurement.candidate == marks.full.candidate
    return ", ".join(["chosen"] * chosen + ["full network"] * full)


def _meets(measurement: Measurement, objectives: Sequence[Objective]) -> bool:
    return all(o.limit is None or o.sign * measurement.values[o.name] <= o.sign * o.limit for o in objectives)


def _scaled_limit(objective: Objective) -> float | None:
    return None if objective.limit is None else objective.limit * quantity(objective.name).scale


def _thinned(found: Sequence[_T], most: int) -> list[_T]:
    """At most so many, evenly, the ends among them."""
    if len(found) <= most:
        return list(found)
    return [found[round(index * (len(found) - 1) / (most - 1))] for index in range(most)]
