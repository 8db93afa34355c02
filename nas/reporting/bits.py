"""The bits of every layer over the front: a map with a column for each member and a row for each layer."""

from collections.abc import Sequence

from nas.objectives import is_latency, quantity
from nas.reporting.charts import ACCENT, INK, CellColumn, CellKind, cells_chart
from nas.reporting.members import Member, Members, described
from nas.reporting.page import Block, Chart, Note
from nas.reporting.precisions import BITS, Precisions
from nas.reporting.words import shortened
from nas.searching.measurement import Objective

_MOST_COLUMNS, _MOST_NAME = 60, 34
_GONE = "gone"
# Warm colours for small weights alone, cold ones for what computes in the precision too; with any sight they differ.
KINDS = {
    "int4-weights": CellKind("4 bits, weights alone", "#c2571a"),
    "int8-weights": CellKind("8 bits, weights alone", "#ecab54"),
    "int8": CellKind("8 bits", "#9fcdf5"),
    "bfloat16": CellKind("16 bits", ACCENT),
    "float32": CellKind("32 bits", INK),
    _GONE: CellKind("not there: its block is dropped", "#dfe4ea"),
}
"""How each precision is drawn, in the order of the legend."""


def bits_of(members: Members) -> tuple[Block, ...]:
    """The map of bits over the members of the front; nothing where precisions are not chosen or the front is empty."""
    precisions = Precisions.of(members.study.space)
    shown = [m for m in members.shown if m.number is not None or "chosen" in m.role]
    if precisions is None or not shown:
        return ()
    ordered = _ordered(shown, members.study.objectives)
    drawn = _thinned(ordered)
    names, left_out = short_names(precisions.layers)
    whole = [*(["embeddings"] if precisions.embeddings else []), "everything else"]
    columns = [_column(member, members, precisions) for member in drawn]
    said = f"A column is a member of the front by its number{_order(members.study.objectives)}; "
    said += "a row is a layer, in the order of the network"
    said += f" and without {shortened(left_out, 60)} in its name. " if left_out else ". "
    said += "Point at a cell to read it; a click on it picks its member in the table above."
    if len(drawn) < len(ordered):
        said += f" {len(drawn)} of the {members.count:,} members are shown; front.csv has all."
    return (Note(said), Chart("bits", cells_chart(whole, names, columns, KINDS)))


def short_names(paths: Sequence[str]) -> tuple[list[str], str]:
    """Names of layers without what most of them begin with, and what that is; as they are where two would be alike."""
    common = _common(paths)
    names = [_without(path, common) for path in paths]
    if len(set(names)) < len(names):
        names, common = list(paths), ()
    # The end of a path says more than its beginning.
    return [each if len(each) <= _MOST_NAME else f"…{each[1 - _MOST_NAME :]}" for each in names], ".".join(common)


def _common(paths: Sequence[str]) -> tuple[str, ...]:
    """The longest beginning of at least half of the paths, up to the number of a block."""
    common: tuple[str, ...] = ()
    split = [tuple(path.split(".")[:-1]) for path in paths]
    while len(paths) > 1:
        deep = len(common)
        following = [parts[deep] for parts in split if parts[:deep] == common and len(parts) > deep]
        best = max(dict.fromkeys(following), key=following.count, default="0")
        if best.isdecimal() or 2 * following.count(best) < len(paths):
            break
        common += (best,)
    return common


def _without(path: str, common: Sequence[str]) -> str:
    parts = path.split(".")
    same = 0
    while same < min(len(common), len(parts) - 1) and parts[same] == common[same]:
        same += 1
    return ".".join(parts[same:])


def _column(member: Member, members: Members, precisions: Precisions) -> CellColumn:
    candidate = member.measurement.candidate
    embeddings = [_said(precisions.of_embeddings(candidate))] if precisions.embeddings else []
    layers = [
        _said(precisions.of_layer(candidate, path), precisions.asymmetric(candidate, path))
        for path in precisions.layers
    ]
    return CellColumn(
        title=str(member.number or "–"),
        texts=described(members, member),
        cells=(*embeddings, _said(precisions.of_rest(candidate)), *layers),
        number=member.number,
        mark="chosen" if "chosen" in member.role else "",
    )


def _said(precision: str | None, asymmetric: bool = False) -> tuple[str, str]:
    """The kind of a cell, and its words."""
    if precision is None:
        return _GONE, KINDS[_GONE].name
    bits = f"{BITS[precision]} bits ({precision}" if precision in BITS else f"({shortened(precision, 24)}"
    return precision, f"{bits}, asymmetric weights)" if asymmetric else f"{bits})"


def _ordered(shown: Sequence[Member], objectives: Sequence[Objective]) -> list[Member]:
    """By the second objective, as the front is drawn from left to right; with one objective as in the table."""
    if len(objectives) < 2:
        return list(shown)
    by = objectives[1]
    return sorted(shown, key=lambda member: by.sign * member.delivered(by.name))


def _order(objectives: Sequence[Objective]) -> str:
    if len(objectives) < 2:
        return ""
    by = objectives[1]
    if is_latency(by.name):
        return ", fastest first"
    return f", {'smallest' if by.direction == 'minimize' else 'highest'} {quantity(by.name).label} first"


def _thinned(ordered: Sequence[Member]) -> list[Member]:
    """As many as there is room for, evenly, the ends and the chosen one among them."""
    if len(ordered) <= _MOST_COLUMNS:
        return list(ordered)
    places = {round(index * (len(ordered) - 1) / (_MOST_COLUMNS - 1)) for index in range(_MOST_COLUMNS)}
    return [m for place, m in enumerate(ordered) if place in places or "chosen" in m.role]
