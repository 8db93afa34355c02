"""The three networks that `simq_nas.py` searches, each with its rows, its spaces and the deployment that it is for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from runs_of_data import OwnNetwork, Part, balanced_halves, images, texts

from hardware.backend import Backend
from hardware.deployment import Deployment
from hardware.inputs import first_row, split
from hardware.policy import PrecisionChoices
from hardware.profile import BY_LAYER, DeviceProfile, Precision
from hardware.resizing import Resizer
from nas import Objective
from nas.data.split import Split, make_split
from nas.networks.policies import joined_space
from nas.networks.quantized import QuantizedNetworks, calibration_rows
from nas.networks.recalibration import SubNetworks
from nas.profiling.objective import latency_objective, predicted_latency
from nas.profiling.subject import Subject
from nas.runs.folder import RunFolder
from nas.runs.loading import LoadedRun, load_run
from nas.runs.precisions import precision_choices
from nas.runs.requests import FinetuneRequest
from nas.searching.measurement import Exact
from nas.seeds import generator
from nas.settings import PrecisionSettings, SpaceSettings, TrainingSettings
from search_spaces import Candidate, Space, Supernet, exact_costs
from search_spaces.inputs import Inputs
from search_spaces.quantization import is_precision

SEED, TOKENS = 0, 128
RUNTIME = "openvino"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        steps: of the fine-tuning.
        budget: evaluations of a row that searches.
        searched_rows: validation rows that searches are scored on.
        verified_rows: at most so many of the others verify what was found; None: all.
        calibration_rows: training rows that files are calibrated on.
        profiled: sub-networks of a device profile.
        tolerance: of their latencies.
        points: verified at most, of each row.
        budgets: of accuracy control and of the knapsack.
        joint: random candidates that are compared with their files.
        policies: of the full network that are compared with their files.
        timed: candidates whose evaluation is timed.
        rounds: timed calls of a verified file.
    """

    steps: int = 300
    budget: int = 100
    searched_rows: int = 400
    verified_rows: int | None = None
    calibration_rows: int = 128
    profiled: int = 60
    tolerance: float = 0.05
    points: int = 6
    budgets: int = 6
    joint: int = 30
    policies: int = 20
    timed: int = 7
    rounds: int = 60


SMALL = Sizes(
    steps=30,
    budget=10,
    searched_rows=100,
    verified_rows=200,
    calibration_rows=16,
    profiled=12,
    tolerance=0.2,
    points=2,
    budgets=2,
    joint=4,
    policies=4,
    timed=2,
    rounds=12,
)
FULL = Sizes(steps=2000, budget=400, searched_rows=1000, calibration_rows=300, profiled=120, joint=60, policies=40)


@dataclass(frozen=True)
class Problem:
    """A fine-tuned super-network with its rows.

    Args:
        name: of the model.
        supernet: in evaluation mode.
        train: training rows: calibration, and the sensitivities of the layers.
        searched: validation rows that searches are scored on.
        verified: the other validation rows, which files are scored on.
        test: read for the picked points alone.
        example: inputs of two rows, by name, of the length that latency is for.
        precisions: what layers may compute in.
        sizes: how much is measured.
        norm_rows: training rows for the statistics of batch norms, as the fine-tuning saw them.
    """

    name: str
    supernet: Supernet
    train: Split
    searched: Split
    verified: Split
    test: Split
    example: Inputs
    precisions: PrecisionChoices
    sizes: Sizes
    norm_rows: Split | None = None
    _write: Resizer = field(default_factory=Resizer, init=False, repr=False)

    @cached_property
    def space(self) -> Space:
        """Architecture and precisions."""
        return joined_space(self.supernet, self.precisions)

    @cached_property
    def policies(self) -> Space:
        """The same with the full architecture alone."""
        return full_architecture(self.space)

    @property
    def full(self) -> Candidate:
        """The full network in float32."""
        return self.space.full()

    @cached_property
    def networks(self) -> SubNetworks:
        """Sub-networks in float32."""
        return SubNetworks(self.supernet, self.norm_rows)

    def quantized(self) -> QuantizedNetworks:
        """Candidates by fake quantization; a new one remembers no calibration."""
        return QuantizedNetworks(self.networks, self.supernet, self.train, SEED)

    @cached_property
    def calibration(self) -> list[Inputs]:
        """Training rows, each by itself, for the ranges of activations in files."""
        return calibration_rows(self.train, self.sizes.calibration_rows, SEED)

    def deployment(self, precision: Precision) -> Deployment:
        """OpenVINO with one thread, for one row."""
        return self.subject(precision).deployment(RUNTIME, precision, 1)

    def backend(self, precision: Precision) -> Backend:
        """One that writes many files: what it knows of the last network is used for its next policy."""
        return self.deployment(precision).backend(self._write)

    def subject(self, precision: Precision) -> Subject:
        """What a device profile by layer, or of one precision, is of."""
        inputs = first_row(self.example)
        if precision == BY_LAYER:
            return Subject(self.name, self.supernet, inputs, self.space, self.precisions)
        return Subject(self.name, self.supernet, inputs, self.supernet.space)

    def objectives(self, profile: DeviceProfile, space: Space) -> list[str | Objective]:
        """Accuracy, latency as a profile predicts it, and size; of candidates of `space`."""
        predicted = predicted_latency(profile, self.subject(profile.precision), space)
        return ["accuracy", latency_objective("latency_ms", predicted), "size_mib"]

    def costs(self, profile: DeviceProfile, space: Space) -> tuple[Exact, Exact]:
        """The formulas of latency and of size, of candidates encoded in `space`."""
        predicted = predicted_latency(profile, self.subject(profile.precision), space)
        return predicted, exact_costs(self.supernet, dict(split(self.example)[1]), space)["size_mib"]


def full_architecture(space: Space) -> Space:
    """A joined space in which precisions alone are left to choose."""
    narrowed = [
        choice if is_precision(choice.name) else replace(choice, options=tuple(choice.options[-1:]))
        for choice in space.choices
    ]
    options = {choice.name: choice.options for choice in narrowed}
    found = []
    for choice in narrowed:
        if choice.active_if is not None:
            parent, active = choice.active_if
            choice = replace(choice, active_if=(parent, tuple(each for each in active if each in options[parent])))
        found.append(choice)
    return Space(tuple(found))


@dataclass(frozen=True)
class Model:
    """How a run is made from the data.

    Args:
        request: (data folder, folder of the run, steps) -> the request for its fine-tuning.
        module: `module:factory` of a network of one's own.
    """

    request: Callable[[Path, Path, int], FinetuneRequest]
    module: str | None = None


_TEXTS: dict[str, Part | list[Part]] = {
    "train": ("train", 0, 5000),
    "validation": [("train", 5000, 6920), ("dev", 0, 872)],
    "test": ("test", 0, 1821),
}
_RESNET = OwnNetwork(
    "cifar_networks:resnet56",
    "cifar10_resnet56",
    SpaceSettings(depth="1.0", width="1.0", channels="0.25,0.5,0.75,1.0"),
)
_VIT = OwnNetwork(
    "cifar_networks:vit",
    "cifar10_vit",
    SpaceSettings(depth="4,5,6", heads="0.5,0.75,1.0", ffn="0.25,0.5,0.75,1.0", drop_order="spread"),
)


def _minilm(data: Path, folder: Path, steps: int) -> FinetuneRequest:
    training = TrainingSettings(steps=steps, learning_rate=1e-4, freeze_embeddings=True)
    return texts(data, folder, _TEXTS, training)


def _images(network: OwnNetwork, learning_rate: float) -> Callable[[Path, Path, int], FinetuneRequest]:
    def request(data: Path, folder: Path, steps: int) -> FinetuneRequest:
        parts: dict[str, Part | list[Part]] = {"train": ("train20k", 0, 20_000), **balanced_halves(data)}
        training = TrainingSettings(steps=steps, batch_size=64, learning_rate=learning_rate, augment=True)
        return images(data, folder, parts, training, network=network)

    return request


MODELS = {
    "minilm": Model(_minilm),
    "vit": Model(_images(_VIT, 5e-4), _VIT.model),
    "resnet": Model(_images(_RESNET, 2e-3), _RESNET.model),
}


def load_problem(name: str, run: Path, sizes: Sizes) -> Problem:
    """The problem of a fine-tuned run."""
    loaded = load_run(RunFolder(run), "cpu", MODELS[name].module)
    validation = loaded.split("validation")
    order = generator(SEED, "searched rows").permutation(len(validation))
    searched, others = np.split(order, [min(sizes.searched_rows, len(validation) // 2)])
    return Problem(
        name,
        loaded.supernet,
        loaded.split("train"),
        _part(loaded, validation, np.sort(searched).tolist()),
        _part(loaded, validation, np.sort(others[: sizes.verified_rows]).tolist()),
        loaded.split("test"),
        loaded.example(TOKENS),
        precision_choices(PrecisionSettings(quantize=True), loaded.supernet.model, RUNTIME),
        sizes,
        loaded.calibration(),
    )


def _part(loaded: LoadedRun, split: Split, rows: Sequence[int]) -> Split:
    tokens = loaded.record.request.get("max_tokens")
    length = tokens if isinstance(tokens, int) else TOKENS
    return make_split([split.rows[row] for row in rows], split.labels[rows], loaded.preprocessor, length, split.task)
