"""A page as data, and that data as one HTML file which needs nothing else.

A page is a list of sections, a section a list of blocks. Each kind of block has one drawer in `_DRAWERS`, so a further
kind is a dataclass and a function. Every text is escaped where it is drawn, and the policy at the head of the page lets
the browser run and load nothing but the scripts and styles that were written here, by their hashes.
"""

import base64
import hashlib
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas.files import write_text_atomic
from nas.reporting.charts import Figure, plotly_source, unneeded_styles


@dataclass(frozen=True)
class Note:
    """A paragraph; a quiet one is a remark."""

    text: str
    quiet: bool = True


@dataclass(frozen=True)
class Card:
    """One large figure.

    Args:
        label: what it is.
        value: with its unit.
        change: how it compares, in a few words.
        beside: what it is compared with.
        share: of the figure that it is compared with, 0 to 1, drawn as a bar; None: no bar.
    """

    label: str
    value: str
    change: str = ""
    beside: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Cards:
    """Large figures, side by side, under a title."""

    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Chart:
    """A figure of `nas.reporting.charts`.

    Args:
        name: unique in the page; letters and hyphens.
        figure: what Plotly draws.
        caption: a sentence under it.
        title: above it.
    """

    name: str
    figure: Figure
    caption: str = ""
    title: str = ""


@dataclass(frozen=True)
class Pair:
    """Blocks side by side, where the screen is wide enough."""

    blocks: tuple["Block", ...]


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a value to sort by, what is shown, and a second line in small type."""

    shown: str
    value: float | str | None = None
    small: str = ""


@dataclass(frozen=True)
class Drawing:
    """A cell with bars on a background that all rows share; `title` tells them in words."""

    path: str
    title: str


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        cells: one for each column.
        number: by which charts know it; None: they do not.
        marked: whether it is set off.
        command: what the table shows below it while the row is picked.
    """

    cells: tuple[Cell | Drawing, ...]
    number: int | None = None
    marked: bool = False
    command: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose columns sort by a click on their heads.

    Args:
        heads: of the columns, by which they sort.
        drawings: head of the last column, where it holds drawings, by which nothing can be sorted.
        rows: in the order at first.
        background: path that the drawings of all rows have in common.
        size: width and height of the drawings.
        command: shown below at first.
    """

    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    drawings: str = ""
    background: str = ""
    size: tuple[int, int] = (0, 0)
    command: str = ""


Block = Note | Cards | Chart | Pair | Facts | Table


@dataclass(frozen=True)
class Section:
    """A part of a page; `anchor` is unique in it, letters and hyphens."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """What a page says.

    Args:
        title: heading.
        kicker: small line above it.
        summary: sentences below it.
        sections: in their order; those without blocks are left out.
    """

    title: str
    kicker: str
    summary: str
    sections: tuple[Section, ...]


def write_page(page: Page, path: Path) -> None:
    """Write the page as one file, replaced as a whole."""
    write_text_atomic(path, drawn(page))


def drawn(page: Page) -> str:
    """The page as HTML."""
    style, code, plotly = _asset("page.css"), _asset("page.js"), plotly_source()
    sections = [section for section in page.sections if section.blocks]
    links = "".join(f'<a href="#{section.anchor}">{_text(section.title)}</a>' for section in sections)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy([plotly, code], [style, ""])}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(page.title)}</title>",
            f"<style>{style}</style>\n</head>\n<body>",
            f'<header><p class="kicker">{_text(page.kicker)}</p><h1>{_text(page.title)}</h1>',
            f'<p class="summary">{_text(page.summary)}</p><nav>{links}</nav></header>\n<main>',
            *map(_section, sections),
            "</main>",
            # The policy would refuse these styles, and the browser would report an error for each.
            *(f'<template id="{each}"></template>' for each in unneeded_styles(plotly)),
            f"<script>{plotly}</script>",
            f"<script>{code}</script>",
            "</body>\n</html>\n",
        ]
    )


def _policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Nothing from elsewhere; of this page the given scripts and styles, by their hashes.

    Plotly adds empty style elements, which it then fills by calls that no policy covers, and sets style attributes.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src-elem {' '.join(map(_hash, styles))}",
            "style-src-attr 'unsafe-inline'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (files("nas.reporting") / "assets" / name).read_text(encoding="utf-8")


def _text(text: object) -> str:
    return html.escape(str(text))


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="{section.anchor}"><h2>{_text(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    return _DRAWERS[type(block)](block)


def _note(note: Note) -> str:
    kind = ' class="quiet"' if note.quiet else ""
    return f"<p{kind}>{_text(note.text)}</p>"


def _cards(cards: Cards) -> str:
    return f'<h3>{_text(cards.title)}</h3><div class="cards">{"".join(map(_card, cards.cards))}</div>'


def _card(card: Card) -> str:
    bar = ""
    if card.share is not None:
        share = 100 * min(1.0, max(0.0, card.share))
        bar = (
            '<svg class="share" viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="all" width="100" height="3"/><rect class="part" width="{share:.1f}" height="3"/></svg>'
        )
    change = f'<p class="change">{_text(card.change)}</p>' if card.change else ""
    beside = f'<p class="beside">{_text(card.beside)}</p>' if card.beside else ""
    return (
        f'<div class="card"><p class="label">{_text(card.label)}</p>'
        f'<p class="value">{_text(card.value)}</p>{bar}{change}{beside}</div>'
    )


def _chart(chart: Chart) -> str:
    title = f"<h3>{_text(chart.title)}</h3>" if chart.title else ""
    caption = f"<figcaption>{_text(chart.caption)}</figcaption>" if chart.caption else ""
    height = int(chart.figure["layout"]["height"])
    return (
        f'<figure class="chart" id="{chart.name}">{title}<div class="plot" style="height:{height}px"></div>'
        f'{caption}<script type="application/json">{_json(chart.figure)}</script></figure>'
    )


def _json(value: object) -> str:
    """JSON in which no character can end the script that holds it, or begin a comment there."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _pair(pair: Pair) -> str:
    blocks = "".join(f"<div>{_block(block)}</div>" for block in pair.blocks)
    return f'<div class="pair">{blocks}</div>'


def _facts(facts: Facts) -> str:
    title = f"<h3>{_text(facts.title)}</h3>" if facts.title else ""
    rows = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.rows)
    return f'<div class="facts">{title}<dl>{rows}</dl></div>'


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col"><button type="button">{_text(head)}</button></th>' for head in table.heads)
    if table.drawings:
        heads += f'<th scope="col" class="plain">{_text(table.drawings)}</th>'
    rows = "\n".join(_row(row, table.size) for row in table.rows)
    shared = ""
    if table.background:
        shared = f'<svg class="shared" aria-hidden="true"><path id="full-sizes" d="{table.background}"/></svg>'
    command = ""
    if table.command:
        command = (
            f'<div class="command"><code tabindex="0">{_text(table.command)}</code>'
            '<button type="button" class="copy">Copy</button></div>'
        )
    return (
        f'{shared}<div class="members"><div class="scroll"><table><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>{command}</div>"
    )


def _row(row: Row, size: tuple[int, int]) -> str:
    number = "" if row.number is None else f' data-number="{row.number}"'
    command = f' data-command="{_text(row.command)}" tabindex="0"' if row.command else ""
    marked = ' class="marked"' if row.marked else ""
    cells = "".join(_drawing(cell, size) if isinstance(cell, Drawing) else _cell(cell) for cell in row.cells)
    return f"<tr{marked}{number}{command}>{cells}</tr>"


def _cell(cell: Cell) -> str:
    small = f"<small>{_text(cell.small)}</small>" if cell.small else ""
    kind = ' class="number"' if isinstance(cell.value, (int, float)) else ""
    value = "" if cell.value is None else f' data-value="{_text(cell.value)}"'
    return f"<td{kind}{value}>{_text(cell.shown)}{small}</td>"


def _drawing(cell: Drawing, size: tuple[int, int]) -> str:
    width, height = size
    return (
        f'<td class="strip"><svg width="{width}" height="{height}" role="img"><title>{_text(cell.title)}</title>'
        f'<use href="#full-sizes"/><path d="{cell.path}"/></svg></td>'
    )


_DRAWERS: dict[type, Callable[[Any], str]] = {
    Note: _note,
    Cards: _cards,
    Chart: _chart,
    Pair: _pair,
    Facts: _facts,
    Table: _table,
}
