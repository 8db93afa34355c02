"""The page of an evolution of layers: what was tried and rejected, and the best layers as graphs and formulas."""

import statistics
from collections.abc import Mapping, Sequence

from nas.evolving.evonorm import RankedLayer, rejections
from nas.records import Scalar
from nas.reporting.charts import Line, graph_chart, line_chart
from nas.reporting.page import Block, Cell, Chart, Facts, Note, Page, Row, Section, Table
from nas.reporting.words import name_only
from nas.searching.study import Study
from search_spaces.graphs import LayerGraph
from search_spaces.graphs.operations import INDEX_SETS, INITIAL

_DRAWN = 5


def layers_page(study: Study[LayerGraph], ranked: Sequence[RankedLayer], request: Mapping[str, Scalar]) -> Page:
    """The page of an evolution, finished or not.

    Args:
        study: every layer that was tried.
        ranked: the best after the longer training, best first; empty while that is not done.
        request: of the command, by flag.
    """
    accepted = sum(each.state == "measured" for each in study.measurements)
    return Page(
        title="Evolved layers",
        kicker="EvoNorm",
        summary=f"{len(study.measurements):,} layers tried, {accepted:,} of them train in every network.",
        sections=(
            Section("best", "Best layers", _best(ranked)),
            Section("graphs", "As graphs", _graphs(ranked)),
            Section("search", "Search", _search(study)),
            Section("request", "Request", (Facts("Evolution", _facts(request)),)),
        ),
    )


def _best(ranked: Sequence[RankedLayer]) -> tuple[Block, ...]:
    if not ranked:
        return (Note("No layer was trained for longer yet."),)
    names = list(dict.fromkeys(name for row in ranked for name in row.accuracies))
    rows = tuple(
        Row(
            (
                Cell(str(number), number),
                Cell(row.formula),
                Cell(f"{100 * row.mean:.1f}", row.mean),
                *(_accuracy(row.accuracies.get(name)) for name in names),
            ),
            marked=number == 1,
        )
        for number, row in enumerate(ranked, 1)
    )
    heads = ("number", "layer", "mean accuracy (%)", *(f"{name} (%)" for name in names))
    note = (
        "A scale and a shift of each channel follow every layer. Accuracies are of validation rows, after the longer "
        "training."
    )
    return (Table(heads, rows), Note(note))


def _accuracy(value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(f"{100 * value:.1f}", value)


def _graphs(ranked: Sequence[RankedLayer]) -> tuple[Block, ...]:
    return tuple(_graph(number, row) for number, row in enumerate(ranked[:_DRAWN], 1))


def _graph(number: int, row: RankedLayer) -> Chart:
    """The nodes by their height above the inputs, with the edges between them."""
    graph = row.graph.canonical()
    used = {index for node in graph.nodes for index in node.inputs if index < len(INITIAL)}
    heights = dict.fromkeys(range(len(INITIAL)), 0)
    names = dict(enumerate(INITIAL))
    edges: list[tuple[int, int]] = []
    for index, node in enumerate(graph.nodes, len(INITIAL)):
        heights[index] = 1 + max(heights[each] for each in node.inputs)
        names[index] = node.op + (f" {INDEX_SETS[node.over]}" if node.over else "")
        edges += [(each, index) for each in node.inputs]
    shown = [index for index in names if index >= len(INITIAL) or index in used]
    rows: dict[int, list[int]] = {}
    for index in shown:
        rows.setdefault(heights[index], []).append(index)
    places = {
        index: (place - (len(level) - 1) / 2, float(height))
        for height, level in rows.items()
        for place, index in enumerate(level)
    }
    figure = graph_chart({names_key: (names[names_key], places[names_key]) for names_key in shown}, edges)
    return Chart(f"graph-{_letters(number)}", figure, row.formula, f"Number {number}")


def _letters(number: int) -> str:
    """A number in letters, as names of charts are."""
    return "abcdefghij"[number % 10]


def _search(study: Study[LayerGraph]) -> tuple[Block, ...]:
    best, counts, so_far = [], [], 0.0
    for number, each in enumerate(study.measurements, 1):
        if each.state == "measured":
            so_far = max(so_far, statistics.mean(each.values.values()))
        counts.append(float(number))
        best.append(100 * so_far if so_far else None)
    facts = Facts("Rejected", tuple((test, f"{count:,}") for test, count in rejections(study.measurements).items()))
    if not so_far:
        return (facts,)
    line = Line("best", counts, best, style={"mode": "lines", "line": {"shape": "hv"}})
    return (Chart("best-so-far", line_chart([line], "layers tried", "best mean accuracy (%)")), facts)


def _facts(request: Mapping[str, Scalar]) -> tuple[tuple[str, str], ...]:
    said = [(name, value) for name, value in request.items() if value not in (None, False, "")]
    return tuple((name.replace("_", "-")[:60], name_only(value)) for name, value in said[:60])
