"""A map of cells as a chart: a column for each of some networks, a row for each of their layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.reporting.charts import INK, Figure, base_layout, label

_ROW, _FEW_COLUMNS, _MOST_TITLES = 16, 12, 20


@dataclass(frozen=True)
class CellKind:
    """How cells of one kind look: the words of the legend and the colour."""

    name: str
    color: str


@dataclass(frozen=True)
class CellColumn:
    """A column of a map of cells.

    Args:
        title: on the axis.
        texts: lines of foreign text that each cell shows first.
        cells: for each row its kind and its words; a kind that is unknown is not drawn.
        number: of the column in the table of members; None: it is not there.
        mark: a word above the column, which is then framed.
    """

    title: str
    texts: tuple[str, ...]
    cells: tuple[tuple[str, str], ...]
    number: int | None = None
    mark: str = ""


def cells_chart(
    whole: Sequence[str], rows: Sequence[str], columns: Sequence[CellColumn], kinds: Mapping[str, CellKind]
) -> Figure:
    """A map of cells; they are bars, since Plotly draws heat maps as pictures, which the policy of the page refuses.

    Args:
        whole: names of the first rows, which stand apart.
        rows: names of the other rows.
        columns: from left to right.
        kinds: of cells, in the order of the legend.
    """
    places = [*range(len(whole)), *(len(whole) + 0.5 + number for number in range(len(rows)))]
    top, bottom = -1.6 if any(column.mark for column in columns) else -0.6, places[-1] + 0.6
    tall = _ROW * (bottom - top)
    layout = base_layout(height=round(tall) + 72)
    layout |= {"barmode": "overlay", "hovermode": "closest"}
    layout["margin"] |= {"b": 12}
    # Above the titles of the columns.
    layout["legend"] |= {"y": 1 + 26 / tall, "traceorder": "normal"}
    fixed = {"showgrid": False, "fixedrange": True}
    titled = _titled(columns)
    layout["xaxis"] |= {
        **fixed,
        "side": "top",
        "range": [-0.6, max(len(columns), _FEW_COLUMNS) - 0.4],
        "tickvals": titled,
        "ticktext": [label(columns[place].title) for place in titled],
        "tickfont": {"size": 11},
    }
    layout["yaxis"] |= {
        **fixed,
        "range": [bottom, top],
        "tickvals": places,
        "ticktext": [label(name) for name in (*whole, *rows)],
        "tickfont": {"size": 11},
    }
    frames = [(place, column.mark) for place, column in enumerate(columns) if column.mark]
    layout["shapes"] = [
        {
            "type": "rect",
            "x0": place - 0.5,
            "x1": place + 0.5,
            "y0": -0.55,
            "y1": places[-1] + 0.55,
            "line": {"color": INK, "width": 2},
        }
        for place, _ in frames
    ]
    layout["annotations"] = [
        {
            "x": place,
            "y": -1.05,
            "text": label(mark),
            "showarrow": False,
            "font": {"size": 11},
            "xanchor": "right" if len(columns) > 2 * _FEW_COLUMNS and len(columns) - place <= 2 else "center",
        }
        for place, mark in frames
    ]
    return {"data": _bars(places, columns, kinds), "layout": layout}


def _bars(places: Sequence[float], columns: Sequence[CellColumn], kinds: Mapping[str, CellKind]) -> list[Figure]:
    """A trace for all cells of a column that say the same, since what they say is the most of the page."""
    traces: list[Figure] = []
    for kind, look in kinds.items():
        first = True
        for number, column in enumerate(columns):
            said = "<br>".join(map(_in_template, column.texts))
            # A frame is seen beside narrower cells, whatever their colour.
            width = 0.74 if column.mark else 0.9
            for words in dict.fromkeys(words for cell, words in column.cells if cell == kind):
                at = [place for place, cell in zip(places, column.cells, strict=True) if cell == (kind, words)]
                trace = {
                    "type": "bar",
                    "orientation": "h",
                    "name": label(look.name),
                    "legendgroup": kind,
                    "showlegend": first,
                    "marker": {"color": look.color},
                    "y": at,
                    "x": [width] * len(at),
                    "base": round(number - width / 2, 2),
                    "width": 0.88,
                    "hovertemplate": f"{said}<br>%{{y}}: {_in_template(words)}<extra></extra>",
                }
                traces.append(trace | ({"customdata": [column.number] * len(at)} if column.number else {}))
                first = False
    return traces


def _titled(columns: Sequence[CellColumn]) -> list[int]:
    """The columns whose titles have room, what is marked among them."""
    step = -(-len(columns) // _MOST_TITLES)
    marked = [place for place, column in enumerate(columns) if column.mark]
    free = [n for n in range(0, len(columns), max(1, step)) if all(abs(n - place) >= step for place in marked)]
    return sorted({*marked, *free})


def _in_template(text: str) -> str:
    """As `label`, where Plotly would put something in for `%{...}`."""
    return label(text).replace("%{", "%&#123;")
