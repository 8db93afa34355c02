"""The choice of one candidate of a search, by what was measured again and what that says of the others."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from nas.errors import NoFeasible
from nas.objectives import ACCURACY
from nas.profiling.verification import Verified
from nas.searching.estimation import Estimate
from nas.searching.measurement import Measurement
from nas.searching.objectives import on_every_device
from nas.searching.rescoring import change, estimates
from nas.searching.selection import comparable, select, select_by_estimates, with_estimates
from nas.searching.study import Study
from search_spaces import Candidate


def choose(
    study: Study, verified: Sequence[Verified], limits: Mapping[str, float], never: Candidate | None = None
) -> Measurement:
    """Select the best candidate within the limits, of those that are `choosable`, see `select_by_estimates`.

    Args:
        study: the study of the search.
        verified: its verified candidates.
        limits: by flag name, e.g. `max_latency_ms`, in addition to those of the objectives.
        never: a candidate that the others are only compared with.

    Raises:
        UserError: a limit on a quantity that the search did not measure.
        NoFeasible: no candidate meets the limits.
    """
    bounds = on_every_device(limits, [o.name for o in study.objectives])
    members, found = _choosable(study, verified)
    members = [member for member in members if member.candidate != never]
    known = [member for member in best_known(study.measurements, verified) if member.candidate != never]
    if never is not None and not any(member.state == "measured" for member in known):
        raise NoFeasible("no candidate but the full network was measured")
    again = {each.candidate: frozenset(each.measured) for each in verified}
    try:
        return select_by_estimates(members, study.objectives, bounds, found, lambda c: again.get(c, frozenset()))
    except NoFeasible:
        # The nearest of all that was measured is named, not only of what was measured again.
        select(known, study.objectives, bounds, found)
        raise


@dataclass(frozen=True)
class Accuracies:
    """The accuracy of a candidate, 0 to 1: as it was measured, and as estimated for new rows."""

    measured: float
    estimated: float


def accuracies_of_choice(
    study: Study,
    verified: Sequence[Verified],
    limits: Mapping[str, float],
    chosen: Candidate,
    never: Candidate | None = None,
) -> tuple[Accuracies, Accuracies] | None:
    """What a choice by estimates compared: of the chosen one, and of the one that was measured as the most accurate.

    The second is of those that `choose` had to choose from within the limits on costs. Arguments as for `choose`.

    Returns:
        Both; None where the choice did not go by estimates.
    """
    allowed, found = _choosable(study, verified)
    candidates = {member.candidate for member in allowed} & found.keys() - {never}
    if chosen not in candidates:
        return None
    known = {m.candidate: m for m in best_known(study.measurements, verified) if m.candidate in candidates}
    objectives = [replace(o, limit=None) if o.name == ACCURACY else o for o in study.objectives]
    objectives.sort(key=lambda objective: objective.name != ACCURACY)
    on_costs = {name: bound for name, bound in limits.items() if name.partition("_")[2] != ACCURACY}
    best = known[chosen]
    # What is expected of all candidates may meet a limit that no value of the search does.
    with suppress(NoFeasible):
        best = select([*known.values()], objectives, on_every_device(on_costs, [o.name for o in objectives]))
    return _accuracies(known[chosen], found), _accuracies(best, found)


def _accuracies(known: Measurement, found: Mapping[Candidate, Estimate]) -> Accuracies:
    return Accuracies(known.values[ACCURACY], found[known.candidate].value)


def choosable(study: Study, verified: Sequence[Verified]) -> list[Measurement]:
    """The candidates that may be chosen, with accuracies as estimated for new rows where there are hits.

    Without any verification these are all candidates of the study. Otherwise they are the verified ones and the rest of
    the front, with values as `expected` of them. The rest is left out if scores were verified in another precision than
    that of the search, because the two do not compare.
    """
    return comparable(*_choosable(study, verified))


def _choosable(study: Study, verified: Sequence[Verified]) -> tuple[list[Measurement], dict[Candidate, Estimate]]:
    """The candidates as `choosable` without estimates, and the estimates of accuracies."""
    again = {each.candidate for each in verified if each.measured}
    members, found = _known(study, verified)
    if again:
        scores = {o.name for o in study.objectives if o.direction == "maximize"}
        other_precision = any(scores & set(each.measured) and each.searched_rows is None for each in verified)
        allowed = again if other_precision else again | {member.candidate for member in study.front()}
        members = [member for member in members if member.candidate in allowed]
    return members, found


def next_to_measure(study: Study, verified: Sequence[Verified]) -> Measurement | None:
    """What to measure next so that the choice within the limits of the study is one that was measured again.

    None if it is, if there are no limits, or if no candidate that was not measured again meets them.
    """
    if all(objective.limit is None for objective in study.objectives):
        return None
    again = {each.candidate for each in verified}
    rest = [member for member in best_known(study.measurements, verified) if member.candidate not in again]
    try:
        best = select(expected(study, verified), study.objectives, {})
        if best.candidate not in again:
            return best
        select(choosable(study, verified), study.objectives, {})
    except NoFeasible:
        # Estimates may break a limit on accuracy that measured values meet: perhaps another candidate's does not.
        with suppress(NoFeasible):
            return select(rest, study.objectives, {})
    return None


def best_known(members: Sequence[Measurement], verified: Sequence[Verified]) -> list[Measurement]:
    """The members with measured values in place of predicted ones where there are any.

    Members that a runtime does not support are left out.
    """
    again = {each.candidate: each for each in verified}
    return [
        replace(member, values={**member.values, **again[member.candidate].measured})
        if member.candidate in again
        else member
        for member in members
        if member.candidate not in again or not again[member.candidate].refused
    ]


def expected(study: Study, verified: Sequence[Verified]) -> list[Measurement]:
    """The candidates as `best_known`, and those that were not measured again as their measurement would come out.

    The best of many scores or predictions is the best by luck too, so what a search says of those not yet measured
    again looks better than what was. So it is moved by what measuring made of others (`rescoring.change`), and where
    accuracies can be estimated for new rows, they are those estimates. Where the search scored another precision, only
    those of verified ones can. The others then look better than they are, so that the best of them are measured too,
    and the estimates are of more candidates than the front alone.
    """
    return with_estimates(*_known(study, verified))


def estimates_of(study: Study, verified: Sequence[Verified]) -> dict[Candidate, Estimate]:
    """The accuracy to expect on new rows, of the candidates whose right rows are known."""
    known = {each.candidate for each in verified if each.hits is not None}
    return {candidate: each for candidate, each in _known(study, verified)[1].items() if candidate in known}


def _known(study: Study, verified: Sequence[Verified]) -> tuple[list[Measurement], dict[Candidate, Estimate]]:
    """The candidates as `expected` without estimates, and the estimates of their accuracies."""
    members = _moved(study, verified)
    return members, _estimates(study, verified, members)


def _moved(study: Study, verified: Sequence[Verified]) -> list[Measurement]:
    """As `expected`, without estimates."""
    again = {each.candidate: each.measured for each in verified}
    changes = {o.name: change(o.name, _pairs(study, again, o.name)) for o in study.objectives}

    def moved(member: Measurement) -> Measurement:
        left = changes.keys() & member.values.keys() - again.get(member.candidate, {}).keys()
        return replace(member, values={**member.values, **{name: changes[name](member.values[name]) for name in left}})

    return [moved(member) for member in best_known(study.measurements, verified)]


def _pairs(study: Study, again: Mapping[Candidate, Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """The values of an objective that were measured again, each as the search has it and as measured."""
    searched = [member for member in study.measurements if name in member.values]
    return [(m.values[name], again[m.candidate][name]) for m in searched if name in again.get(m.candidate, {})]


def _estimates(study: Study, verified: Sequence[Verified], members: Sequence[Measurement]) -> dict[Candidate, Estimate]:
    """The accuracy to expect on new rows, of all `members`, which have the best known values of the costs.

    Of verified ones alone where the search scored another precision.
    """
    hits = {each.candidate: each.hits for each in verified if each.hits is not None}
    searched_rows = next((each.searched_rows for each in verified if each.hits is not None), None)
    costs = {member.candidate: member.values for member in members}
    searched = [member for member in study.measurements if member.candidate in costs]
    return estimates(searched, study.objectives, hits, searched_rows, costs)
