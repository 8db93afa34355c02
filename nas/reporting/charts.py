"""The charts of a report as data that Plotly draws in the browser; the only home of plotly.

A figure is a dictionary of Plotly's `data` and `layout`. One whose axes can be chosen has `axes` besides: for each axis
its title, its limit and the values of every trace, from which `assets/page.js` fills in x and y. Labels are read by
Plotly as HTML with a few tags, so every text that comes from elsewhere goes through `label`.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.learning.finetuned import ProbeRecord

Figure = dict[str, Any]
Value = float | None

INK, ACCENT, GREY, PALE, GRID = "#1c2430", "#0b65c2", "#a9b4c0", "#c9d1d9", "#e9edf1"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Axis:
    """What can be on an axis of the front.

    Args:
        title: quantity and unit.
        limit: of the search, in the unit of the axis; None where there is none.
    """

    title: str
    limit: float | None = None


@dataclass(frozen=True)
class Cloud:
    """Points that look alike.

    Args:
        kind: one of the keys of `_LOOKS`.
        name: in the legend; empty: not in it.
        values: for each axis the values of all points, in its unit; None breaks a line.
        texts: of each point, lines of foreign text; none: the points do not answer the pointer.
        numbers: of the points in the table of members.
    """

    kind: str
    name: str
    values: tuple[tuple[Value, ...], ...]
    texts: tuple[tuple[str, ...], ...] = ()
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of a chart over numbers, e.g. a hypervolume over evaluations."""

    name: str
    across: Sequence[float]
    up: Sequence[Value]
    color: str = ACCENT
    style: dict[str, Any] = field(default_factory=dict)


def _marker(size: int, color: str, symbol: str = "circle", outline: float = 0.0, **more: Any) -> Figure:
    edge = color if "open" in symbol else "#ffffff"
    return {
        "mode": "markers",
        "marker": {"size": size, "symbol": symbol, "color": color, "line": {"width": outline, "color": edge}, **more},
    }


_LOOKS: dict[str, Figure] = {
    "beyond": _marker(7, PALE, "x-thin-open", 1.3),
    "dominated": _marker(7, GREY, opacity=0.75),
    "steps": {"mode": "lines", "line": {"width": 1.2, "color": ACCENT, "dash": "dot"}},
    "moves": {"mode": "lines", "line": {"width": 1, "color": ACCENT}, "opacity": 0.6},
    "predicted": _marker(9, ACCENT, "circle-open", 1.3),
    "front": _marker(10, ACCENT, outline=1),
    "chosen": _marker(21, INK, "circle-open", 2.2),
    "full": _marker(15, INK, "star"),
    "picked": _marker(17, ACCENT, "circle-open", 2),
}
"""How the points of each kind look; lines connect them where they have one."""


def plotly_source() -> str:
    """Plotly's own JavaScript, all of it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def unneeded_styles(source: str) -> list[str]:
    """Ids of style elements that Plotly's script adds for maps, unless an element of that id is there already."""
    return sorted(set(re.findall(r'if\(!document\.getElementById\("([0-9a-f]{64})"\)\)', source)))


def label(text: str) -> str:
    """Text as Plotly's labels show it, whatever tags it holds."""
    return html.escape(text, quote=False)


def front_chart(axes: Sequence[Axis], clouds: Sequence[Cloud], across: int, up: int, step: str | None) -> Figure:
    """Candidates over two of the axes, which the page lets its reader choose where there are more.

    Args:
        axes: what can be on an axis.
        clouds: drawn in this order.
        across: the axis that is horizontal at first.
        up: the axis that is vertical at first.
        step: shape of the line of the kind "steps", e.g. "hv".
    """
    layout = base_layout(height=520)
    layout["legend"]["itemsizing"] = "constant"
    return {
        "data": [_trace(cloud, step) for cloud in clouds],
        "layout": layout,
        "axes": [
            {
                "name": axis.title,
                "title": label(axis.title),
                "limit": axis.limit,
                "values": [_rounded(cloud.values[number]) for cloud in clouds],
            }
            for number, axis in enumerate(axes)
        ],
        "across": across,
        "up": up,
    }


def line_chart(lines: Sequence[Line], across: str, up: str, *, height: int = 340) -> Figure:
    """Lines over a common axis."""
    layout = base_layout(height=height)
    layout["xaxis"] |= {"title": {"text": label(across)}, "rangemode": "tozero"}
    layout["yaxis"]["title"] = {"text": label(up)}
    layout["showlegend"] = len(lines) > 1
    layout["hovermode"] = "x unified" if len(lines) <= 4 else "closest"
    return {"data": [_line(line) for line in lines], "layout": layout}


def graph_chart(nodes: Mapping[int, tuple[str, tuple[float, float]]], edges: Sequence[tuple[int, int]]) -> Figure:
    """A graph whose edges go upwards.

    Args:
        nodes: by number, the words of each node and where it is: across and up.
        edges: from number to number.
    """
    layout = base_layout(height=120 + 62 * round(max(up for _, (_, up) in nodes.values())))
    hidden = {"visible": False, "fixedrange": True}
    layout["xaxis"] |= hidden
    layout["yaxis"] |= hidden
    layout["showlegend"] = False
    lines: Figure = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "line": {"color": GREY, "width": 1.5}}
    ends = [(nodes[a][1], nodes[b][1]) for a, b in edges]
    lines["x"] = [value for (x, _), (to, _) in ends for value in (x, to, None)]
    lines["y"] = [value for (_, y), (_, to) in ends for value in (y, to, None)]
    points = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [x for _, (x, _) in nodes.values()],
        "y": [y for _, (_, y) in nodes.values()],
        "text": [label(words) for words, _ in nodes.values()],
        "textposition": "middle right",
        "marker": {"size": 13, "color": ACCENT, "line": {"width": 1.5, "color": "#ffffff"}},
        "hoverinfo": "text",
    }
    return {"data": [lines, points], "layout": layout}


def training_chart(probes: Sequence[ProbeRecord], epoch_steps: int, up: str, scale: float) -> Figure:
    """Scores of the largest, the smallest and some random sub-networks over the epochs of a fine-tuning."""
    epochs = [probe.step / epoch_steps for probe in probes]

    def scaled(values: Sequence[Value]) -> list[Value]:
        return [None if value is None else scale * value for value in values]

    count = max(len(probe.random) for probe in probes)
    drawn = [
        Line(
            f"random {number + 1}" if count > 1 else "random",
            epochs,
            scaled([probe.random[number] if number < len(probe.random) else None for probe in probes]),
            GREY,
            {"line": {"width": 1.2}, "legendgroup": "random"},
        )
        for number in range(count)
    ]
    drawn += [
        Line("largest", epochs, scaled([probe.largest for probe in probes]), INK),
        Line("smallest", epochs, scaled([probe.smallest for probe in probes]), ACCENT),
    ]
    figure = line_chart(drawn, "epochs", up)
    figure["layout"]["hovermode"] = "x unified"
    for number, trace in enumerate(figure["data"][:count]):
        trace |= {"showlegend": number == 0, "name": "random" if number == 0 else trace["name"]}
    return figure


def agreement_chart(truth: Sequence[float], predicted: Sequence[float], spreads: Sequence[float], title: str) -> Figure:
    """What was predicted over what was measured, with intervals, and the line on which both are equal."""
    layout = base_layout(height=340)
    layout["xaxis"]["title"] = {"text": label(f"measured {title}")}
    layout["yaxis"]["title"] = {"text": label("predicted from those before")}
    layout["showlegend"] = False
    low, high = min([*truth, *predicted]), max([*truth, *predicted])
    line = {"width": 1, "color": GREY, "dash": "dot"}
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": _rounded(truth),
        "y": _rounded(predicted),
        "error_y": {"array": _rounded(spreads), "color": ACCENT, "thickness": 0.7, "width": 0},
        "marker": {"size": 7, "color": ACCENT, "opacity": 0.8},
        "hovertemplate": "measured %{x:.4g}<br>predicted %{y:.4g}<extra></extra>",
    }
    equal = {"type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "line": line, "hoverinfo": "skip"}
    return {"data": [equal, points], "layout": layout}


def _trace(cloud: Cloud, step: str | None) -> Figure:
    trace: Figure = {"type": "scatter", "name": label(cloud.name), "showlegend": bool(cloud.name), **_LOOKS[cloud.kind]}
    trace["meta"] = cloud.kind
    if cloud.kind == "steps" and step is not None:
        trace["line"] = {**trace["line"], "shape": step}
    if cloud.texts:
        trace |= {"text": ["<br>".join(map(label, lines)) for lines in cloud.texts], "hoverinfo": "text"}
    else:
        trace["hoverinfo"] = "skip"
    if cloud.numbers:
        trace["customdata"] = list(cloud.numbers)
    return trace


def _line(line: Line) -> Figure:
    few = len(line.across) <= 60
    return {
        "type": "scatter",
        "mode": "lines+markers" if few else "lines",
        "name": label(line.name),
        "x": _rounded(line.across),
        "y": _rounded(line.up),
        "marker": {"size": 5},
        **line.style,
        "line": {"color": line.color, "width": 2, **line.style.get("line", {})},
        "hovertemplate": "%{y:.4g}",
    }


def base_layout(height: int) -> Figure:
    """What all figures have in common; the height in pixels."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": PALE, "automargin": True, "ticks": ""}
    return {
        "height": height,
        "font": {"family": _FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 12, "t": 12, "b": 48},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": PALE, "font": {"color": INK}, "align": "left"},
        "xaxis": {**axis},
        "yaxis": {**axis},
    }


def _rounded(values: Sequence[Value]) -> list[Value]:
    """Six digits are more than a screen has; they keep the page small."""
    return [None if value is None else float(f"{value:.6g}") for value in values]
