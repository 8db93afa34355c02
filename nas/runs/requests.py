"""What a command is asked for, as one object that is handed from step to step."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from nas.errors import UserError
from nas.settings import (
    Common,
    DataSettings,
    Limits,
    ModelSettings,
    Precision,
    ProfileSettings,
    Runtime,
    SearchSettings,
    SpaceSettings,
    SupernetSettings,
    TrainingSettings,
)

_MOST = 2**20


@dataclass(frozen=True)
class FinetuneRequest:
    """What to fine-tune into a super-network, and how.

    Args:
        model: a model folder or hub name, or `module:factory`.
        data: the rows to fine-tune on.
        own: what a network of the user's own needs.
        elastic: the sub-networks.
        training: of all fine-tuning.
        recipe: of a super-network's.
        common: seed and device.
    """

    model: str
    data: DataSettings
    own: ModelSettings = field(default_factory=ModelSettings)
    elastic: SpaceSettings = field(default_factory=SpaceSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    recipe: SupernetSettings = field(default_factory=SupernetSettings)
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class FurtherRequest:
    """Which sub-network of a run to fine-tune further, and how.

    Args:
        run: a finished fine-tuning.
        candidate: `chosen` (the best within the limits of the search `name`), `largest`, `smallest`, or a JSON file
            with the candidate's choices.
        name, limits: for `chosen`.
        training: as far as it goes for plain fine-tuning.
        common: seed and device.
        network: `module:factory` of a run's own network.
    """

    run: Path
    candidate: str
    name: str = "default"
    limits: Limits = field(default_factory=Limits)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    common: Common = field(default_factory=Common)
    network: str | None = None


@dataclass(frozen=True)
class SearchRequest:
    """Which super-network to search, and how.

    Args:
        run: a finished fine-tuning.
        settings: of the search.
        limits: what a sub-network must meet to be offered.
        common: seed and device.
        network: `module:factory` of a run's own network.
    """

    run: Path
    settings: SearchSettings = field(default_factory=SearchSettings)
    limits: Limits = field(default_factory=Limits)
    common: Common = field(default_factory=Common)
    network: str | None = None


@dataclass(frozen=True)
class ExportRequest:
    """Which sub-network of a search to export: the best within the limits.

    Args:
        run: a finished fine-tuning.
        name: of the search.
        limits: what the sub-network must meet.
        common: seed and device.
        network: `module:factory` of a run's own network.
    """

    run: Path
    name: str = SearchSettings.name
    limits: Limits = field(default_factory=Limits)
    common: Common = field(default_factory=Common)
    network: str | None = None
    candidate: str | None = None
    """Its number in front.csv from 1, largest, smallest, or a JSON file with its choices (default: the best within the
    limits)."""
    runtime: Runtime | None = None
    """Write another deployment than the search was for: what runs it."""
    precision: Precision | None = None
    """In which that computes."""
    profile: str | None = None
    """Of several device profiles, the name of the one whose runtime and precision are written."""


@dataclass(frozen=True)
class ProfileRequest:
    """What to profile, and how.

    Args:
        model: a run folder, a model folder or hub name, or `module:factory`.
        settings: what is measured.
        own: what a network of the user's own needs.
        elastic: the sub-networks, where `model` is no run.
        common: seed and device.
        network: `module:factory` of a run's own network.

    Raises:
        UserError: a number out of its range.
    """

    model: str
    settings: ProfileSettings = field(default_factory=ProfileSettings)
    own: ModelSettings = field(default_factory=ModelSettings)
    elastic: SpaceSettings = field(default_factory=SpaceSettings)
    common: Common = field(default_factory=Common)
    network: str | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "tokens", "budget", "multiple_of"):
            value = getattr(self.settings, name)
            if value is not None and not 1 <= value <= _MOST:
                raise UserError(f"--{name.replace('_', '-')} must be from 1 to {_MOST}, got {value}")
        for name in ("minutes", "tolerance"):
            value = getattr(self.settings, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name} must be above 0 and finite, got {value}")
