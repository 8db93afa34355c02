"""The channels that every layer keeps over the front: a map with a column for each member and a row for each layer."""

from functools import partial

from nas.reporting.cells import CellKind
from nas.reporting.charts import ACCENT, INK
from nas.reporting.columns import GONE, GONE_KIND, layer_map
from nas.reporting.members import Members
from nas.reporting.page import Block
from search_spaces.space import Candidate, Choice

_PREFIX = "channels."
KINDS = {
    "all": CellKind("all channels", INK),
    "most": CellKind("three quarters and more", ACCENT),
    "half": CellKind("half and more", "#6fb1ee"),
    "quarter": CellKind("a quarter and more", "#c5dff6"),
    "few": CellKind("less", "#ecab54"),
    GONE: GONE_KIND,
}
"""How each share of the channels is drawn, in the order of the legend."""
_LEAST = (("most", 0.75), ("half", 0.5), ("quarter", 0.25))


def channels_of(members: Members) -> tuple[Block, ...]:
    """The map of channels over the members of the front; nothing where none are chosen or the front is empty."""
    choices = [choice for choice in members.study.space.choices if choice.name.startswith(_PREFIX)]
    if not choices:
        return ()
    paths = [choice.name.removeprefix(_PREFIX) for choice in choices]
    return layer_map("channels", members, paths, partial(_cells, choices), KINDS)


def _cells(choices: list[Choice], candidate: Candidate) -> list[tuple[str, str]]:
    return [_cell(candidate[choice.name], choice.options[-1]) for choice in choices]


def _cell(kept: object, full: object) -> tuple[str, str]:
    """The kind of a cell, and its words."""
    if not isinstance(kept, int) or not isinstance(full, int):
        return GONE, GONE_KIND.name
    kind = next((name for name, least in _LEAST if kept >= least * full), "few")
    return ("all" if kept == full else kind), f"{kept:,} of {full:,} channels"
