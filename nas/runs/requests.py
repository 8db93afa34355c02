"""The request of each command: frozen values, from which the command line derives its flags.

A field's docstring is the help of its flag. Only the annotations of tyro are used here: positional arguments, and the
headings under which the help lists a group of flags.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro.conf

from nas.settings import (
    Common,
    DataSettings,
    EvolveSettings,
    KitSettings,
    Limits,
    ModelSettings,
    Precision,
    ProfileSettings,
    PruneSettings,
    ResultSettings,
    Runtime,
    SearchSettings,
    SpaceSettings,
    SupernetSettings,
    TrainingSettings,
)

_Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
_Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_Result = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULT")]
_Own = Annotated[ModelSettings, tyro.conf.arg(name="own-network")]
_Elastic = Annotated[SpaceSettings, tyro.conf.arg(name="sub-network")]


@dataclass(frozen=True)
class FinetuneRequest:
    """Fine-tune a pre-trained model into a super-network, in a run folder; goes on where it stopped."""

    model: _Model
    """Folder of a pre-trained model and its tokenizer or image processor, a hub name, or your own module:factory."""
    out: Path
    """The run folder to make or to go on with."""
    data: DataSettings = field(default_factory=DataSettings)
    own: _Own = field(default_factory=ModelSettings)
    elastic: _Elastic = field(default_factory=SpaceSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    recipe: Annotated[SupernetSettings, tyro.conf.arg(name="super-network")] = field(default_factory=SupernetSettings)
    dry_run: bool = False
    """Only estimate time and memory, from a few steps."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class PruneRequest:
    """Prune a trained conv net into a front of really smaller ones, in a run folder; goes on where it stopped."""

    model: _Model
    """Folder of a trained ResNet of transformers, a hub name, or your own module:factory with --weights."""
    out: Path
    """The run folder to make or to go on with."""
    data: DataSettings = field(default_factory=DataSettings)
    own: _Own = field(default_factory=ModelSettings)
    settings: Annotated[PruneSettings, tyro.conf.arg(name="prune")] = field(default_factory=PruneSettings)
    limits: Limits = field(default_factory=Limits)
    dry_run: bool = False
    """Only estimate time and memory, from a few trained forms."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class EvolveRequest:
    """Evolve normalization-activation layers on your images, in a run folder; goes on where it stopped."""

    out: Path
    """The run folder to make or to go on with."""
    data: DataSettings = field(default_factory=DataSettings)
    settings: Annotated[EvolveSettings, tyro.conf.arg(name="evolve")] = field(default_factory=EvolveSettings)
    dry_run: bool = False
    """Only estimate the time, from one layer that passes all tests."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class RefineRequest:
    """Fine-tune one sub-network of a finished run further, on its own, and export it; goes on where it stopped."""

    run: _Run
    """The run folder."""
    out: Path
    """The folder to export to; replaced only when everything in it was checked."""
    candidate: str
    """chosen (by a search, within the limits), a number in front.csv, largest, smallest, or a JSON file of choices."""
    name: str = SearchSettings.name
    """The name of the search, for --candidate chosen or a number."""
    limits: Limits = field(default_factory=Limits)
    model: str | None = None
    """For a run of a network of your own: its module:factory again."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    dry_run: bool = False
    """Only estimate time and memory, from a few steps."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class SearchRequest:
    """Search a run's super-network on this machine; goes on where it stopped."""

    run: _Run
    """The run folder."""
    settings: Annotated[SearchSettings, tyro.conf.arg(name="search")] = field(default_factory=SearchSettings)
    limits: Limits = field(default_factory=Limits)
    model: str | None = None
    """For a run of a network of your own: its module:factory again."""
    dry_run: bool = False
    """Only estimate time and memory, from a few measured sub-networks."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class ReportRequest:
    """Draw how the fine-tuning went, and a search: its front with the full network and the chosen one marked."""

    run: _Run
    """The run folder."""
    name: str = SearchSettings.name
    """The search's name."""
    limits: Limits = field(default_factory=Limits)
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class ExportRequest:
    """Write the best sub-network within the limits: weights, ONNX and a card with figures from the test rows."""

    run: _Run
    """The run folder."""
    out: Path
    """The folder to write; replaced only when everything in it was checked."""
    name: str = SearchSettings.name
    """The search's name."""
    limits: Limits = field(default_factory=Limits)
    candidate: str | None = None
    """Its number in front.csv from 1, largest, smallest, or a JSON file of choices; None: best within the limits."""
    runtime: Runtime | None = None
    """What will run it; None: what the search was for."""
    precision: Precision | None = None
    """The number format it will compute in; None: what the search was for."""
    profile: str | None = None
    """Of several device profiles, the name of the one whose runtime and precision are written; None: the first."""
    model: str | None = None
    """For a run of your own network: its module:factory again. For an evolved layer: the network to put it into."""
    own: _Own = field(default_factory=ModelSettings)
    common: Common = field(default_factory=Common)


@dataclass(frozen=True, kw_only=True)
class SubjectRequest:
    """What is profiled: a run, a pre-trained model or a network of the user's own.

    The field `subject` names it; `model` is the network of a run of the user's own.
    """

    subject: _Model
    """A run folder, a folder or hub name of a model (config.json is enough), or your own module:factory."""
    own: _Own = field(default_factory=ModelSettings)
    elastic: _Elastic = field(default_factory=SpaceSettings)
    model: str | None = None
    """For a run of a network of your own: its module:factory again."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True, kw_only=True)
class ProfileRequest(SubjectRequest):
    """Measure some sub-networks on this machine, so that the latency of all others can be predicted anywhere."""

    out: Path
    """The profile to write (JSON) or to go on with."""
    settings: Annotated[ProfileSettings, tyro.conf.arg(name="profile")] = field(default_factory=ProfileSettings)
    dry_run: bool = False
    """Only estimate the time, from two sub-networks."""


@dataclass(frozen=True, kw_only=True)
class ProfileKitRequest(SubjectRequest):
    """Write a folder that profiles another device, without this project: networks, and a script that measures them."""

    out: Path
    """The folder to write, and then to copy to the device."""
    settings: Annotated[KitSettings, tyro.conf.arg(name="profile")] = field(default_factory=KitSettings)


@dataclass(frozen=True, kw_only=True)
class ProfileResultRequest(SubjectRequest):
    """Make the profile of what the script of `nas profile-kit` measured on another device."""

    result: _Result
    """The result.json that the script wrote there."""
    out: Path
    """The profile to write (JSON)."""
    settings: Annotated[ResultSettings, tyro.conf.arg(name="profile")] = field(default_factory=ResultSettings)
