"""The latency that a device profile predicts, as an objective of a search: computed, and never measured."""

from dataclasses import dataclass

from hardware.profile import DeviceProfile, digest
from nas.profiling.prediction import LatencyPredictor
from nas.profiling.rows import fitted
from nas.profiling.subject import Subject
from nas.searching.measurement import Objective
from nas.searching.translation import translation
from search_spaces import Candidate, Space
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
