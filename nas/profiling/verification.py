"""Verification: measure a candidate again, on the files of its deployment and on its devices."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from hardware.backend import Runner
from nas.errors import NotTaken
from nas.objectives import is_latency, of_its_kind
from nas.searching.estimation import Hits
from nas.searching.measurement import Measurement
from search_spaces import Candidate


@dataclass(frozen=True)
class Verified:
    """The verification of one candidate; values are by the name of the objective, in its unit.

    Args:
        candidate: the sub-network.
        predicted: values in the search: latencies predicted from profiles, the accuracy of the float32 network.
        measured: values measured afterwards, without unstable ones.
        unstable: objectives whose measurement did not become stable.
        refused: objectives whose runtime does not support the sub-network, or gives no number of their kind for it; it
            can then not be chosen.
        hits: which validation rows are right; None if the score was not measured again, or is not a share of rows.
        searched_rows: on how many of them the search scored the very same network; None if it scored another precision.
    """

    candidate: Candidate
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    unstable: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    hits: Hits | None = None
    searched_rows: int | None = None

    @property
    def done(self) -> frozenset[str]:
        """The objectives that need no further measurement."""
        return frozenset(self.measured) | self.refused

    def with_newer(self, newer: "Verified") -> "Verified":
        """Merge with a later verification of the same candidate, on other devices or repeated; newer values win."""
        measured = {**self.measured, **newer.measured}
        # A stable measurement supersedes an unstable one.
        unstable = (self.unstable | newer.unstable) - set(measured)
        predicted, refused = {**self.predicted, **newer.predicted}, self.refused | newer.refused
        scored = newer if newer.hits is not None else self
        return Verified(self.candidate, predicted, measured, unstable, refused, scored.hits, scored.searched_rows)


MeasureAgain = Callable[[Candidate], float | None]
"""Measures one value of a candidate; None if it is unstable, and raises NotTaken if the runtime does not support it."""


@dataclass(frozen=True)
class Remeasuring:
    """What is measured of a candidate after a search.

    Args:
        measures: functions that measure, by the name of the objective.
        hits: filled by the function that measures the score: which rows each candidate has right.
        same: objectives that are measured of the very network that the search measured, on more rows: the search did
            not predict these.
        searched_rows: on how many rows the search scored these very networks; None if it scored another precision.
        run: the files of a candidate, loaded; None where nothing is written. Raises NotTaken as the measures do.
    """

    measures: Mapping[str, MeasureAgain]
    hits: Mapping[Candidate, Hits] = field(default_factory=dict)
    same: frozenset[str] = frozenset()
    searched_rows: int | None = None
    run: Callable[[Candidate], Runner] | None = None

    def joined(self, measures: Mapping[str, MeasureAgain]) -> "Remeasuring":
        """With further measures."""
        return replace(self, measures={**self.measures, **measures})

    def without(self, names: Collection[str]) -> "Remeasuring":
        """Without the objectives that are measured already."""
        return replace(self, measures={name: each for name, each in self.measures.items() if name not in names})


def verify(
    member: Measurement, again: Remeasuring, on_refused: Callable[[str, NotTaken], None] | None = None
) -> Verified:
    """Measure a member of a front again.

    Args:
        member: the member with its values in the search.
        again: what is measured.
        on_refused: called with the name of the objective if its runtime does not support the sub-network, or gives no
            number for it.

    Returns:
        The predicted and the measured values.
    """
    # Latencies are kept even if this machine cannot measure them: another one may do so later.
    names = set(again.measures) - again.same
    predicted = {name: value for name, value in member.values.items() if is_latency(name) or name in names}
    found: dict[str, float | None] = {}
    for name, measure in again.measures.items():
        try:
            found[name] = _measured(name, measure, member.candidate)
        except NotTaken as error:
            if on_refused is not None:
                on_refused(name, error)
    measured = {name: value for name, value in found.items() if value is not None}
    unstable, refused = frozenset(found) - set(measured), frozenset(again.measures) - set(found)
    hits = again.hits.get(member.candidate)
    return Verified(member.candidate, predicted, measured, unstable, refused, hits, again.searched_rows)


def _measured(name: str, measure: MeasureAgain, candidate: Candidate) -> float | None:
    """What a function measures; raises NotTaken as that does, and for what no record of it can hold, such as NaN."""
    value = measure(candidate)
    if value is not None and not of_its_kind(name, value):
        raise NotTaken(f"its {name} is {value}")
    return value
