"""SimQ-NAS: a sub-network and the precision of each of its layers, in one search (arXiv 2312.13301).

The paper joins the genes of the architecture with one gene a layer that says whether it is quantized, evaluates a
candidate by slicing its sub-network and quantizing it, and searches with LINAS. Differs: a candidate is scored by fake
quantization with ranges from one pass of its architecture, where the paper quantizes each one; precisions may be more
than two; calibration rows are training rows alone; the search begins with what the sensitivities of the layers propose;
and the front is quantized, scored and measured as the files that will be delivered before one of them is chosen.

`simq_nas` is the algorithm box, with steps numbered as in docs/simq-nas.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Unpack

from hardware.deployment import Deployment
from hardware.inputs import device_of
from hardware.policy import PrecisionChoices
from hardware.profile import BY_LAYER
from nas.data.split import Split
from nas.errors import UserError
from nas.networks.policies import joined_space
from nas.networks.quantized import QuantizedNetworks, calibration_rows
from nas.networks.recalibration import SubNetworks
from nas.profiling.choice import choosable, choose
from nas.profiling.deployed_candidates import measures_of_files
from nas.profiling.front import verify_front
from nas.profiling.verification import Verified
from nas.searching.evaluation import check_counts
from nas.searching.first_policies import StartedLinas
from nas.searching.linas import LinasConfig
from nas.searching.measurement import Measurement, Objective
from nas.searching.relative_latency import LatencySettings
from nas.searching.rescoring import rivals
from nas.searching.study import Running, Study
from nas.searching.supernet_search import search
from search_spaces import Supernet
from search_spaces.inputs import Inputs


@dataclass(frozen=True)
class SimqNasConfig:
    """Settings of SimQ-NAS.

    Args:
        precisions: what every layer may compute in.
        runtime: that the network is quantized for, `openvino` or `onnxruntime`.
        starts: how many candidates the search begins with that sensitivities of the layers propose.
        calibration_rows: training rows that the files of the front are calibrated on.
        linas: settings of the search.

    Raises:
        UserError: `starts` or `calibration_rows` is below 1.
    """

    precisions: PrecisionChoices = field(default_factory=PrecisionChoices)
    runtime: str = "openvino"
    starts: int = 6
    calibration_rows: int = 128
    linas: LinasConfig = field(default_factory=LinasConfig)

    def __post_init__(self) -> None:
        check_counts(starts=self.starts, calibration_rows=self.calibration_rows)


@dataclass(frozen=True)
class SimqNas:
    """What SimQ-NAS found.

    Args:
        study: every candidate that was scored by fake quantization.
        verified: the front and its rivals as files: their score, size and, where it was measured, latency.
    """

    study: Study
    verified: Sequence[Verified]

    def front(self) -> list[Measurement]:
        """The verified candidates that may be chosen, with the values of their files."""
        return choosable(self.study, self.verified)

    def select(self, **limits: float) -> Measurement:
        """The best within limits such as `max_latency_ms=8`, by the values of the files; raises NoFeasible."""
        return choose(self.study, self.verified, limits)


def simq_nas(
    supernet: Supernet,
    train: Split,
    validation: Split,
    objectives: Sequence[str | Objective],
    *,
    budget: int,
    seed: int,
    config: SimqNasConfig | None = None,
    example_inputs: Inputs | None = None,
    **running: Unpack[Running],
) -> SimqNas:
    """Search the sub-networks of a super-network together with the precision of every layer.

    Args:
        supernet: fine-tuned.
        train: training rows: ranges and sensitivities come from them.
        validation: rows that the search is scored on.
        objectives: names or objectives, accuracy first, e.g. `["accuracy", "size_mib"]`.
        budget: number of candidates to score.
        seed: of every random draw.
        config: the settings; None: the defaults.
        example_inputs: see `nas.search`.
        running: storage, workers and callbacks, see `nas.searching.study.Running`.

    Raises:
        UserError: as `nas.search`; a runtime without precision by layer; no layer that can be quantized.
        NoFeasible: the smallest candidate already exceeds a limit.
    """
    config = config or SimqNasConfig()
    deployment = Deployment(config.runtime, BY_LAYER)
    try:
        deployment.check()
    except ValueError as error:
        raise UserError(str(error)) from error
    # 1. One space: the choices of the architecture, and one of precision for each layer.
    space = joined_space(supernet, config.precisions)
    # 2. Candidates are scored by fake quantization, with ranges from training rows.
    networks = QuantizedNetworks(SubNetworks(supernet, train), supernet, train, seed)
    latency = LatencySettings(runtime=config.runtime, precision=BY_LAYER)
    # 3. The search begins with what the sensitivities of the layers propose.
    # 4. LINAS over the joint genome: predictors, and an evolution on their predictions.
    study = search(
        supernet,
        space,
        validation,
        objectives,
        budget=budget,
        seed=seed,
        algorithm=StartedLinas(networks, config.starts, config.linas),
        networks=networks,
        example_inputs=example_inputs,
        latency=latency,
        estimate=False,
        **running,
    )
    # 5. The front and its rivals as files of the runtime: quantized once an architecture, scored and measured.
    return SimqNas(study, _verified(study, supernet, networks, validation, deployment, config.calibration_rows, seed))


def _verified(
    study: Study,
    supernet: Supernet,
    networks: QuantizedNetworks,
    validation: Split,
    deployment: Deployment,
    rows: int,
    seed: int,
) -> list[Verified]:
    with (
        TemporaryDirectory() as scratch,
        measures_of_files(
            networks,
            deployment,
            validation,
            [objective.name for objective in study.objectives],
            example=dict(validation.batch([0, 1])),
            calibration=partial(calibration_rows, networks.train, rows, seed),
            device=device_of(supernet),
            searched_rows=len(validation),
        ) as again,
    ):
        others = rivals(study.measurements, study.objectives, len(validation))
        return verify_front(Path(scratch), study, again, others)
