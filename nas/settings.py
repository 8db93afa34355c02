"""What the commands can be told: frozen values, from which the command line derives its flags."""

from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Common:
    """What every command can be told."""

    seed: int = 0
    """Seeds every random draw."""
    device: str = "auto"
    """Where the work runs: auto, cpu, cuda, cuda:1 or mps."""
    config: Path | None = None
    """A JSON or TOML file with values for these flags; a flag given here goes before it."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""
    debug: bool = False
    """Show where in the code an error arose."""


@dataclass(frozen=True)
class DataSettings:
    """The data: texts or images with one class each."""

    data: str
    """A CSV, TSV, Parquet or JSON-lines file, a folder of images or of such files, or the name of a hub data set."""
    text: str | None = None
    """Column of the texts (default: found by its usual names)."""
    image: str | None = None
    """Column of the images (default: found by its usual names)."""
    label: str | None = None
    """Column of the labels (default: found by its usual names)."""
    data_config: str | None = None
    """Configuration of a hub data set, e.g. sst2 of nyu-mll/glue."""
    max_tokens: int = 128
    """Texts are cut off here."""


@dataclass(frozen=True)
class TrainingSettings:
    """Fine-tuning of the super-network."""

    steps: int = 500
    """Optimiser steps; each trains the full network and one random sub-network."""
    batch_size: int = 32
    """Rows of one step."""
    learning_rate: float = 1e-4
    """Peak of the learning rate; it warms up and decays to zero."""


@dataclass(frozen=True)
class SearchSettings:
    """The search among the sub-networks."""

    objectives: str = "accuracy,latency_ms"
    """What to improve, separated by commas: accuracy, latency_ms, macs, parameters, size_mib."""
    budget: int = 60
    """How many sub-networks are measured."""
    name: str = "default"
    """A run folder can hold several searches; this one's name."""
    algorithm: str = "linas"
    """linas, nsga2 or random."""


@dataclass(frozen=True)
class Limits:
    """What a chosen sub-network must keep, measured on the validation rows."""

    min_accuracy: float | None = None
    """At least this accuracy (0 to 1)."""
    max_latency_ms: float | None = None
    """At most this latency in milliseconds."""
    max_macs: float | None = None
    """At most so many multiply-accumulates for one input."""
    max_parameters: float | None = None
    """At most so many parameters."""
    max_size_mib: float | None = None
    """At most this size in MiB."""

    def given(self) -> dict[str, float]:
        """The limits that were set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}
