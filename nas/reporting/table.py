"""The front of a search as a table, `front.csv`: what the command and the report point to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.files import write_text_atomic
from nas.profiling.choice import estimates_of
from nas.profiling.verification import Verified
from nas.searching.estimation import Estimate
from nas.searching.measurement import Measurement
from nas.searching.study import Study


@dataclass(frozen=True)
class Marks:
    """What is marked in a report besides the front: the full network and the chosen candidate, where measured."""

    full: Measurement | None
    chosen: Measurement | None


def write_front(study: Study, marks: Marks, path: Path, verified: Sequence[Verified] = ()) -> None:
    """Write front.csv: one row a member of the front, best in the first objective first, and the full network last.

    Columns: number (of a member of the front, from 1; `nas export --candidate` takes it), role ("front", "chosen",
    "full"), the objectives, `measured_<objective>` for what was measured again as it is delivered, `estimated_accuracy`
    with its interval (`_low`, `_high`) for what to expect on new rows, and every choice of the space (empty where
    inactive).
    """
    members = study.front()
    count = len(members)
    roles = ["chosen" if marks.chosen and m.candidate == marks.chosen.candidate else "front" for m in members]
    listed = {measurement.candidate for measurement in members}
    for role, extra in (("chosen", marks.chosen), ("full", marks.full)):
        if extra is not None and extra.candidate not in listed:
            members, roles = [*members, extra], [*roles, role]
            listed.add(extra.candidate)
    if marks.full is not None:
        roles = [
            f"{role}, full" if m.candidate == marks.full.candidate and role != "full" else role
            for m, role in zip(members, roles, strict=True)
        ]
    write_text_atomic(path, _csv(study, members, roles, count, verified))


def measured_again(member: Measurement, verified: Sequence[Verified]) -> dict[str, float]:
    """Values of a candidate that were measured again after the search, as `measured_<objective>`."""
    found = next((each.measured for each in verified if each.candidate == member.candidate), {})
    return {f"measured_{name}": value for name, value in found.items()}


def estimate_of(found: Estimate | None) -> dict[str, float]:
    """The accuracy to expect on new rows, with its 95 % interval, by column; empty where there is none."""
    if found is None:
        return {}
    names = ("estimated_accuracy", "estimated_accuracy_low", "estimated_accuracy_high")
    return dict(zip(names, (found.value, found.low, found.high), strict=True))


def _csv(
    study: Study, members: Sequence[Measurement], roles: Sequence[str], count: int, verified: Sequence[Verified]
) -> str:
    import pandas

    again = dict.fromkeys(f"measured_{name}" for each in verified for name in each.measured)
    found = estimates_of(study, verified)
    again |= dict.fromkeys(name for each in found.values() for name in estimate_of(each))
    rows = [
        {
            "number": number if number <= count else None,
            "role": role,
            **{objective.name: member.values[objective.name] for objective in study.objectives},
            **measured_again(member, verified),
            **estimate_of(found.get(member.candidate)),
            **dict(member.candidate),
        }
        for number, (role, member) in enumerate(zip(roles, members, strict=True), 1)
    ]
    columns = [
        "number",
        "role",
        *(o.name for o in study.objectives),
        *again,
        *(choice.name for choice in study.space.choices),
    ]
    return pandas.DataFrame(rows, columns=columns).astype({"number": "Int64"}).to_csv(index=False)
