"""Verify the front of a search on the files of its deployment and on the devices of its profiles.

A search scores float32 networks and may use predicted latencies, while the result is delivered as files in one runtime
and precision. The members of the front are therefore measured on such files before one of them is chosen.
"""

from collections.abc import Sequence
from pathlib import Path

from nas.console import Bar, say
from nas.errors import NotTaken
from nas.objectives import quantity
from nas.profiling.choice import next_to_measure
from nas.profiling.verification import Remeasuring, Verified, verify
from nas.profiling.verified_record import read_verified, write_verified
from nas.searching.measurement import Measurement
from nas.searching.study import Study
from nas.settings import SearchSettings
from search_spaces import Candidate

MOST_VERIFIED = SearchSettings.verify
_MAX_FURTHER = 10
"""Largest number of candidates beside the front that are measured, so that the best is one that was measured."""


def verify_front(
    folder: Path, study: Study, again: Remeasuring, rivals: Sequence[Measurement] = (), most: int = MOST_VERIFIED
) -> list[Verified]:
    """Measure the front again and, if there are limits, the best candidates until one meets them as measured.

    Results of an earlier call are reused, and every new result is written at once, so that an interrupted verification
    continues.

    Args:
        folder: folder of the search.
        study: the study of the search.
        again: what is measured.
        rivals: candidates off the front that are measured too, because noise may have kept them off it.
        most: members of the front that are measured at most: with limits the best of them, else spread evenly.

    Returns:
        All verified candidates, including those of earlier calls.

    Raises:
        UserError: the record is damaged.
    """
    if not again.measures:
        return read_verified(folder, study.space)
    found = {each.candidate: each for each in read_verified(folder, study.space)}

    def missing(candidate: Candidate) -> Remeasuring:
        before = found.get(candidate)
        return again if before is None else again.without(before.done)

    def measure(member: Measurement) -> Verified:
        before, new = found.get(member.candidate), verify(member, missing(member.candidate), _say_refused)
        # Keep what was measured on other devices: the folder may be carried from one to the next.
        found[member.candidate] = before.with_newer(new) if before else new
        write_verified(folder, list(found.values()))
        return found[member.candidate]

    limited = any(objective.limit is not None for objective in study.objectives)
    # Without limits the same command goes on with the next ones of a long front.
    left = [member for member in study.front()[: most if limited else None] if missing(member.candidate).measures]
    front = left if limited else _spread(left, most)
    known = {member.candidate for member in study.front()}
    front += [member for member in rivals if member.candidate not in known and missing(member.candidate).measures]
    with Bar("Measuring the front", len(front)) as bar:
        for number, member in enumerate(front, 1):
            bar.update(number, _shown(measure(member)))
    # Measured values may break a limit that those of the search met, or be worse than they looked. The best candidate
    # may then be another one, perhaps outside the front, which must be measured as well.
    further = next_to_measure(study, list(found.values()))
    if further is not None:
        with Bar("Measuring candidates beside the front", _MAX_FURTHER) as bar:
            for number in range(1, _MAX_FURTHER + 1):
                bar.update(number, _shown(measure(further)))
                further = next_to_measure(study, list(found.values()))
                if further is None:
                    break
    return list(found.values())


def _spread(front: Sequence[Measurement], most: int) -> list[Measurement]:
    """At most `most` members, spread evenly along the front, including its ends."""
    if len(front) <= most:
        return list(front)
    return [front[round(index * (len(front) - 1) / max(1, most - 1))] for index in range(most)]


def _say_refused(name: str, why: NotTaken) -> None:
    say(f"{name} of one sub-network is not measured, so that it is not offered: {why}")


def _shown(verified: Verified) -> str:
    """The measured values for a progress bar, beside the predicted ones where there are any."""
    parts = []
    for name, value in verified.measured.items():
        known = quantity(name)
        predicted = verified.predicted.get(name)
        before = "" if predicted is None else f"{known.shown(predicted)} predicted, "
        parts.append(f"{known.label} {before}{known.shown(value)} measured")
    return ", ".join(parts)
