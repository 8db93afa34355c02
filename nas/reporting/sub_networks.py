"""How the sub-networks of a pruned network were searched: their fronts, and how many forms were trained."""

from collections.abc import Mapping

from nas.objectives import quantity
from nas.pruning.stages import ERROR
from nas.reporting.charts import Line, line_chart
from nas.reporting.page import Block, Chart, Facts, Note, Section
from nas.searching.study import Study

_COLORS = ("#0b65c2", "#c2571a", "#3b8a3e", "#8a3b7d", "#1c2430", "#ecab54")


def sub_network_sections(studies: Mapping[str, Study], errors: Mapping[str, float]) -> tuple[Section, ...]:
    """The section on the searches of the sub-networks; nothing where none has begun.

    Args:
        studies: by the name of the sub-network.
        errors: of the original through the detector of each sub-network.
    """
    if not studies:
        return ()
    blocks: list[Block] = [
        _chart(studies),
        Facts("Forms", tuple(_row(name, studies[name], errors) for name in studies)),
    ]
    how = (
        "A form of a sub-network is trained on the features that the original feeds it, and judged by the detector "
        "that follows it; whole networks join the fronts by how much error each form costs for what it keeps."
    )
    return (Section("sub-networks", "Sub-networks searched", (Note(how), *blocks)),)


def _chart(studies: Mapping[str, Study]) -> Chart:
    lines = []
    for number, (name, study) in enumerate(studies.items()):
        cost = next(o.name for o in study.objectives if o.name != ERROR)
        front = sorted((m.values[cost], m.values[ERROR]) for m in study.front())
        across, up = [x for x, _ in front], [100 * y for _, y in front]
        lines.append(Line(f"sub-network {name}", across, up, _COLORS[number % len(_COLORS)]))
    axis = quantity(next(o.name for o in next(iter(studies.values())).objectives if o.name != ERROR)).label
    return Chart(
        "sub-network-fronts", line_chart(lines, f"{axis} of the sub-network", "error through the detector (%)")
    )


def _row(name: str, study: Study, errors: Mapping[str, float]) -> tuple[str, str]:
    failed = sum(each.state == "failed" for each in study.measurements)
    parts = [f"{len(study.measurements):,} trained", f"{len(study.front()):,} on the front"]
    parts += [f"{failed:,} failed"] if failed else []
    parts += [f"error of the original {100 * errors[name]:.1f} %"] if name in errors else []
    return f"sub-network {name}", ", ".join(parts)
