"""Predicted latency as an objective of a search: computed from a device profile, never measured."""

from dataclasses import dataclass

from hardware.profile import DeviceProfile, digest
from nas.errors import UserError
from nas.networks.policies import joined_space
from nas.profiling.prediction import LatencyPredictor
from nas.profiling.rows import fitted
from nas.profiling.subject import Subject, differences
from nas.searching.measurement import Objective
from nas.searching.translation import translation
from search_spaces import Candidate, Space, Supernet
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.inputs import Inputs


@dataclass(frozen=True)
class PredictedLatency:
    """Predicts the latency of encoded candidates on the device of a profile.

    Args:
        subject: the profiled network with the inputs of the profile.
        profile: the profile whose rows the predictor has learned from.
        predictor: predicts the ratio of a candidate's latency to the full network's.
        space: the space that candidates are encoded in: that of the super-network, possibly joined with another or
            with fewer options.
    """

    subject: Subject
    profile: DeviceProfile
    predictor: LatencyPredictor
    space: Space

    def __call__(self, encoded: IntArray) -> FloatArray:
        """Predicted latency in milliseconds (n,) of encoded candidates (n, k)."""
        rows = translation(self.space, self.subject.whole)(encoded)
        return self.predictor.mean(rows) * self.profile.full_ms

    def interval(self, candidate: Candidate) -> tuple[float, float]:
        """Predicted latency of one candidate and its standard deviation, in milliseconds."""
        whole = self.subject.whole
        mean, spread = self.predictor.predict(whole.encode([candidate]))
        full = self.profile.full_ms
        return float(mean[0]) * full, float(spread[0]) * full


def predicted_latency(profile: DeviceProfile, subject: Subject, space: Space) -> PredictedLatency:
    """Fit a predictor to the rows of `profile`, for candidates encoded in `space`.

    Raises:
        UserError: too few rows of the profile are stable, see `learned_rows`.
    """
    return PredictedLatency(subject, profile, fitted(profile, subject.whole, subject.kernels), space)


def latency_objective(name: str, predicted: PredictedLatency, limit: float | None = None) -> Objective:
    """The objective `name`: minimise the predicted latency in milliseconds."""
    return Objective(name, "minimize", limit, exact=predicted, source=digest(predicted.profile))


def objective_from_profile(
    profile: DeviceProfile,
    supernet: Supernet,
    example_inputs: Inputs,
    *,
    space: Space | None = None,
    name: str = "latency_ms",
    limit: float | None = None,
) -> Objective:
    """The objective to minimise latency in milliseconds, predicted from a profile and never measured in the search.

    Args:
        profile: a profile of this super-network with these inputs.
        supernet: in evaluation mode.
        example_inputs: inputs of the batch size and length of the profile.
        space: the space that is searched: that of the profile (None), possibly with fewer options. Where the profile
            has precisions by layer, it is the super-network's joined with them.
        name: name of the objective.
        limit: largest latency of a selected candidate.

    Raises:
        UserError: the profile is of another network or other inputs, or too few of its rows are stable.
    """
    whole = joined_space(supernet, profile.precisions)
    subject = Subject(profile.model.name, supernet, example_inputs, whole, profile.precisions)
    wrong = differences(profile, subject.fingerprint)
    if wrong:
        raise UserError(f"the profile must be of this super-network and these inputs: {wrong[0]}")
    predicted = predicted_latency(profile, subject, whole if space is None else space)
    return latency_objective(name, predicted, limit)
