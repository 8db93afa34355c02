"""A run whose fine-tuning is done, loaded for the commands that come after it."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from hardware.deployment import Deployment
from hardware.inputs import device_of
from hardware.policy import PrecisionChoices
from hardware.registry import device_for
from nas.data.split import Preprocessor, Split
from nas.errors import UserError
from nas.learning.augmentation import augmented
from nas.networks.described import check_weights
from nas.networks.loading import bare_network, device_name
from nas.networks.networks import Networks
from nas.networks.policies import joined_space
from nas.networks.preprocessing import configured
from nas.networks.pretrained import example_inputs, load_preprocessor
from nas.networks.quantized import QuantizedNetworks, calibration_rows
from nas.networks.recalibration import SubNetworks
from nas.profiling.sizes import with_multiples
from nas.profiling.subject import Subject
from nas.runs.folder import RunFolder, RunRecord
from nas.runs.products import PRODUCTS, Meaning, check_finished
from nas.searching.relative_latency import LatencySettings
from nas.settings import DataSettings, SearchSettings
from search_spaces import Candidate, Supernet, has_batch_norms
from search_spaces.inputs import Inputs


@dataclass(frozen=True)
class LoadedRun:
    """The super-network of a run, in evaluation mode, and the way to its data."""

    folder: RunFolder
    record: RunRecord
    supernet: Supernet
    preprocessor: Preprocessor

    @property
    def max_tokens(self) -> int:
        """Where the texts of the run are cut off, where the model takes as many."""
        tokens = self.record.request.get("max_tokens")
        return tokens if isinstance(tokens, int) else DataSettings.max_tokens

    def split(self, name: str) -> Split:
        """The rows of "train", "validation" or "test"; UserError when they are damaged or not those of the run."""
        path = self.folder.data / f"{name}.parquet"
        rows = Split.load(path, self.preprocessor, max_tokens=self.max_tokens)
        wanted = {str(part): count for part, count in self.record.rows.items()}.get(name, 0)
        if len(rows) != wanted or rows.task.name != self.record.task.name:
            raise UserError(
                f"{path} must hold the {wanted} rows of this run's {self.record.task.name}, it holds {len(rows)} of "
                f"{rows.task.name}; put a copy in its place, or begin anew in another folder"
            )
        return rows

    def calibration(self) -> Split | None:
        """Training rows as the network saw them, where sub-networks need them for their batch norms."""
        if not has_batch_norms(self.supernet.model):
            return None
        return augmented(self.split("train")) if self.record.request.get("augment") else self.split("train")

    @property
    def meaning(self) -> Meaning:
        """What follows from what the run holds."""
        return PRODUCTS[self.record.product]

    def networks(self) -> Networks:
        """The networks of its candidates."""
        return self.meaning.networks(self.folder, self.supernet, self.calibration)

    def quantized_networks(self) -> QuantizedNetworks:
        """The sub-networks as they compute with the precision by layer that a candidate has."""
        return QuantizedNetworks(SubNetworks(self.supernet, self.calibration()), self.supernet, self.split("train"))

    def extract(self, candidate: Candidate) -> nn.Module:
        """A sub-network as a plain module, in evaluation mode, its batch-norm statistics its own."""
        return self.networks().extract(candidate)

    def int8_calibration(self, count: int = SearchSettings.calibration_rows) -> list[Inputs]:
        """Training rows as inputs of one row each, from which INT8 takes the ranges of activations; always the same."""
        return calibration_rows(self.split("train"), count)

    def default_deployment(self) -> Deployment:
        """How networks run where no search says otherwise: PyTorch in float32."""
        tokens = LatencySettings.tokens if self.record.kind == "text" else None
        return self.on_its_device(Deployment(tokens=tokens))

    def on_its_device(self, deployment: Deployment) -> Deployment:
        """The same deployment where its runtime computes networks of this super-network."""
        return replace(deployment, device=device_for(deployment.runtime, device_of(self.supernet)))

    def example(self, tokens: int, batch: int = 2) -> dict[str, Tensor]:
        """Inputs without padding, texts of that many tokens."""
        return example_inputs(self.supernet.model, self.record.kind, self.preprocessor, tokens=tokens, batch=batch)

    def subject(
        self, tokens: int, batch: int = 1, multiple_of: int = 1, precisions: PrecisionChoices | None = None
    ) -> Subject:
        """What is profiled: the super-network, measured with that many rows of that many tokens.

        Args:
            tokens: length of a text.
            batch: rows of an input.
            multiple_of: leaves out the sub-networks with other sizes.
            precisions: what their layers may compute in, where precision goes by layer.
        """
        name = Path(str(self.record.request.get("model"))).name
        space = with_multiples(joined_space(self.supernet, precisions), multiple_of)
        return Subject(name, self.supernet, self.example(tokens, batch), space, precisions)


def load_run(folder: RunFolder, device: str, model: str | None = None) -> LoadedRun:
    """Read a finished fine-tuning; UserError where it is damaged or not finished.

    Args:
        folder: of the run.
        device: auto takes a GPU when there is one.
        model: `module:factory` of a network of the user's own, as it was given to the fine-tuning.
    """
    record = folder.read()
    if record.product not in PRODUCTS:
        raise UserError(f"{folder.path} must hold networks, it holds {record.product}")
    check_finished(folder, record.product)
    if model is None and not (folder.supernet / "config.json").is_file():
        raise UserError(f"{folder.path} is of a network of your own: name it again, --model module:factory")
    module = None if model is None else bare_network(model, len(record.classes))
    try:
        supernet = Supernet.load(folder.supernet, module)
    except ValueError as error:
        raise UserError(f"the super-network of the run cannot be read: {error}") from error
    check_weights(supernet, str(folder.supernet))
    supernet.eval()
    supernet.to(device_name(device))
    preprocessor = load_preprocessor(folder.supernet, record.kind, record.task)
    return LoadedRun(folder, record, supernet, configured(preprocessor, supernet.model, str(folder.supernet)))
