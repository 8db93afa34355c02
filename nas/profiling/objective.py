"""The latency that a device profile predicts, as an objective of a search: computed, and never measured."""

from dataclasses import dataclass

from hardware.inputs import Inputs
from hardware.profile import DeviceProfile, digest
from nas.errors import UserError
from nas.profiling.prediction import LatencyPredictor
from nas.profiling.rows import fitted
from nas.profiling.subject import Subject, differences
from nas.searching.measurement import Objective
from nas.searching.translation import translation
from search_spaces import Candidate, Space, Supernet
from search_spaces.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class PredictedLatency:
    """Milliseconds on the device of a profile, of candidates encoded in `space`.

    Args:
        subject: the network that was profiled, with the inputs of the profile.
        profile: its rows were learned from.
        predictor: of ratios.
        space: of the encoded candidates: that of the super-network, joined with another or with fewer options.
    """

    subject: Subject
    profile: DeviceProfile
    predictor: LatencyPredictor
    space: Space

    def __call__(self, encoded: IntArray) -> FloatArray:
        """Encoded candidates (n, k) to milliseconds (n,)."""
        rows = translation(self.space, self.subject.supernet.space)(encoded)
        return self.predictor.mean(rows) * self.profile.full_ms

    def interval(self, candidate: Candidate) -> tuple[float, float]:
        """Predicted milliseconds of one candidate and their standard deviation."""
        whole = self.subject.supernet.space
        mean, spread = self.predictor.predict(whole.encode([candidate]))
        full = self.profile.full_ms
        return float(mean[0]) * full, float(spread[0]) * full


def predicted_latency(profile: DeviceProfile, subject: Subject, space: Space) -> PredictedLatency:
    """What `profile` predicts of candidates encoded in `space`; UserError where its rows do not tell anything."""
    return PredictedLatency(subject, profile, fitted(profile, subject.supernet.space, subject.kernels), space)


def latency_objective(name: str, predicted: PredictedLatency, limit: float | None = None) -> Objective:
    """Least predicted milliseconds, as `name`."""
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
    """The objective of least latency in milliseconds, computed from a profile and never measured in the search.

    Args:
        profile: of this super-network with these inputs.
        supernet: in evaluation mode.
        example_inputs: as they were profiled.
        space: of the search: that of the super-network (None), joined with another, or with fewer options.
        name: of the objective.
        limit: bound that a selected candidate must meet.

    Raises:
        UserError: a profile of something else, or one whose rows do not tell anything.
    """
    subject = Subject(profile.model.name, supernet, example_inputs, supernet.space)
    wrong = differences(profile, subject.asked)
    if wrong:
        raise UserError(f"the profile must be of this super-network and these inputs: {wrong[0]}")
    predicted = predicted_latency(profile, subject, supernet.space if space is None else space)
    return latency_objective(name, predicted, limit)
