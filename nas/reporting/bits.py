"""The bits of every layer over the front: a map with a column for each member and a row for each layer."""

from functools import partial

from nas.reporting.cells import CellKind
from nas.reporting.charts import ACCENT, INK
from nas.reporting.columns import GONE, GONE_KIND, layer_map
from nas.reporting.members import Members
from nas.reporting.page import Block
from nas.reporting.precisions import BITS, Precisions
from nas.reporting.words import shortened
from search_spaces.space import Candidate

# Warm colours for small weights alone, cold ones for what computes in the precision too; with any sight they differ.
KINDS = {
    "int4-weights": CellKind("4 bits, weights alone", "#c2571a"),
    "int8-weights": CellKind("8 bits, weights alone", "#ecab54"),
    "int8": CellKind("8 bits", "#9fcdf5"),
    "bfloat16": CellKind("16 bits", ACCENT),
    "float32": CellKind("32 bits", INK),
    GONE: GONE_KIND,
}
"""How each precision is drawn, in the order of the legend."""


def bits_of(members: Members) -> tuple[Block, ...]:
    """The map of bits over the members of the front; nothing where precisions are not chosen or the front is empty."""
    precisions = Precisions.of(members.study.space)
    if precisions is None:
        return ()
    whole = [*(["embeddings"] if precisions.embeddings else []), "everything else"]
    return layer_map("bits", members, precisions.layers, partial(_cells, precisions), KINDS, whole)


def _cells(precisions: Precisions, candidate: Candidate) -> list[tuple[str, str]]:
    """The kind and the words of every cell of a column."""
    embeddings = [_said(precisions.of_embeddings(candidate))] if precisions.embeddings else []
    layers = [
        _said(precisions.of_layer(candidate, path), precisions.asymmetric(candidate, path))
        for path in precisions.layers
    ]
    return [*embeddings, _said(precisions.of_rest(candidate)), *layers]


def _said(precision: str | None, asymmetric: bool = False) -> tuple[str, str]:
    """The kind of a cell, and its words."""
    if precision is None:
        return GONE, GONE_KIND.name
    bits = f"{BITS[precision]} bits ({precision}" if precision in BITS else f"({shortened(precision, 24)}"
    return precision, f"{bits}, asymmetric weights)" if asymmetric else f"{bits})"
