"""Maps with a column for each member of the front and a row for each layer: which members, what order and names."""

from collections.abc import Callable, Mapping, Sequence

from nas.objectives import is_latency, quantity
from nas.reporting.cells import CellColumn, CellKind, cells_chart
from nas.reporting.members import Member, Members, described
from nas.reporting.page import Block, Chart, Note
from nas.reporting.words import shortened
from nas.searching.measurement import Objective
from search_spaces.space import Candidate

_MOST_COLUMNS, _MOST_NAME = 60, 34
GONE = "gone"
"""The kind of a cell whose layer a candidate does not have."""
GONE_KIND = CellKind("not there: its block is dropped", "#dfe4ea")


def layer_map(
    name: str,
    members: Members,
    paths: Sequence[str],
    cells_of: Callable[[Candidate], Sequence[tuple[str, str]]],
    kinds: Mapping[str, CellKind],
    whole: Sequence[str] = (),
) -> tuple[Block, ...]:
    """The map and what is said above it, a column for each member of the front; nothing where the front is empty.

    Args:
        name: of the chart, unique in the page.
        members: the front.
        paths: of the layers, a row each.
        cells_of: kind and words of every cell in the column of a candidate, those of `whole` first.
        kinds: how cells look.
        whole: names of rows above those of the layers.
    """
    shown = [member for member in members.shown if member.number is not None or "chosen" in member.role]
    if not shown:
        return ()
    in_order = _ordered(shown, members.study.objectives)
    drawn = _thinned(in_order)
    names, left_out = short_names(paths)
    columns = [
        CellColumn(
            title=str(member.number or "–"),
            texts=described(members, member),
            cells=tuple(cells_of(member.measurement.candidate)),
            number=member.number,
            mark="chosen" if "chosen" in member.role else "",
        )
        for member in drawn
    ]
    said = f"A column is a member of the front by its number{_order_said(members.study.objectives)}; "
    said += "a row is a layer, in the order of the network"
    said += f" and without {shortened(left_out, 60)} in its name. " if left_out else ". "
    said += "Point at a cell to read it; a click on it picks its member in the table above."
    if len(drawn) < len(in_order):
        said += f" {len(drawn)} of the {members.count:,} members are shown; front.csv has all."
    return (Note(said), Chart(name, cells_chart(whole, names, columns, kinds)))


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


def _ordered(shown: Sequence[Member], objectives: Sequence[Objective]) -> list[Member]:
    """By the second objective, as the front is drawn from left to right; with one objective as in the table."""
    if len(objectives) < 2:
        return list(shown)
    by = objectives[1]
    return sorted(shown, key=lambda member: by.sign * member.delivered(by.name))


def _order_said(objectives: Sequence[Objective]) -> str:
    if len(objectives) < 2:
        return ""
    by = objectives[1]
    if is_latency(by.name):
        return ", fastest first"
    return f", {'smallest' if by.direction == 'minimize' else 'highest'} {quantity(by.name).label} first"


def _thinned(members: Sequence[Member]) -> list[Member]:
    """As many as there is room for, evenly, the ends and the chosen one among them."""
    if len(members) <= _MOST_COLUMNS:
        return list(members)
    places = {round(index * (len(members) - 1) / (_MOST_COLUMNS - 1)) for index in range(_MOST_COLUMNS)}
    return [m for place, m in enumerate(members) if place in places or "chosen" in m.role]
