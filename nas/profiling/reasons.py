"""Why a search's sub-network was chosen, in one sentence, where its figures alone do not say so."""

from collections.abc import Mapping, Sequence

from nas.objectives import ACCURACY
from nas.profiling.choice import accuracies_of_choice
from nas.profiling.verification import Verified
from nas.searching.study import Study
from search_spaces import Candidate

_MOST_DECIMALS = 3


def reason(
    study: Study,
    verified: Sequence[Verified],
    limits: Mapping[str, float],
    chosen: Candidate,
    never: Candidate | None = None,
) -> str:
    """What is said of a choice that went by an estimate of the accuracy; arguments as for `choice.choose`.

    Returns:
        A sentence without its full stop. Nothing where no limit on the accuracy went by the estimate, and the chosen
        one is the most accurate as measured, or something else comes before accuracy in the search.
    """
    found = accuracies_of_choice(study, verified, limits, chosen, never)
    if found is None:
        return ""
    own, best = found
    shown = _percentages([own.measured, own.estimated, best.measured, best.estimated])
    corrected = "an estimate that corrects the measured accuracy for luck"
    if study.objectives[0].name == ACCURACY and own.measured < best.measured:
        return (
            f"Chosen by {corrected}: {shown[0]} measured, {shown[1]} estimated; the most accurate as measured "
            f"has {shown[2]}, and {shown[3]} estimated"
        )
    limited = any(name.partition("_")[2] == ACCURACY for name in limits)
    if limited or any(o.name == ACCURACY and o.limit is not None for o in study.objectives):
        return f"The limit on accuracy goes by {corrected}: {shown[0]} measured, {shown[1]} estimated"
    return ""


def _percentages(values: Sequence[float]) -> list[str]:
    """Shares as percentages, with as many decimals as tell those apart that differ."""
    shown: list[str] = []
    for decimals in range(1, _MOST_DECIMALS + 1):
        shown = [f"{100 * value:.{decimals}f} %" for value in values]
        if len(set(shown)) == len(set(values)):
            break
    return shown
