"""The stages of a pruning in a folder: what is done is found there again, and a kill loses what is in flight alone.

```
pruning.json          what it is of: the network, the rows, the settings
features/             the original's features at the boundaries; gone when all searches are done
detectors/            the feature detectors, and the error of the original through each
searches/<number>/    study.journal of a sub-network, and kept/: the trained weights of its front
```
"""

import copy
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from nas.data.split import Split
from nas.errors import UserError
from nas.files import recover_folder, replacing_folder
from nas.learning.checkpoint import model_fingerprint
from nas.learning.training import fit
from nas.pruning.boundaries import OUTPUT, FeatureRows, around, cached_features
from nas.pruning.candidates import CandidateTraining, judged
from nas.pruning.config import EmoPmsConfig
from nas.pruning.detectors import FeatureDetector, detector_loss, untrained
from nas.pruning.impairment import Base, Form
from nas.pruning.inheritance import importance_orders
from nas.pruning.weights import form_weights, read_weights
from nas.records import Record, Scalar, Share, read_record, write_record
from nas.searching.kept import KeepingFront, KeptFiles
from nas.searching.measurement import Measurement, Objective
from nas.searching.nsga2 import nsga2
from nas.searching.pace import recorded_identity
from nas.searching.study import Study, load_study
from nas.seeds import generator, torch_seed
from nas.workers import Map
from search_spaces import Space, Supernet, exact_costs
from search_spaces.pruning import Partition, SubNetwork
from search_spaces.supernets.costs import CostFunction
from search_spaces.weights import save_weights

ERROR = "error"
"""The objective of every sub-network beside its cost: the share of validation rows wrong through its detector."""
OnResult = Callable[[str, Measurement, int], None]
_TRAIN_ANEW = "remove {} to train the detectors anew"


class MadeOf(Record):
    """`pruning.json`: fingerprints of what a pruning is of."""

    version: Literal[1] = 1
    network: str
    rows: list[str]
    settings: dict[str, Scalar | list[str]]


class DetectorErrors(Record):
    """`detectors/errors.json`: the error (0..1) of the original through the detector of each sub-network."""

    version: Literal[1] = 1
    errors: dict[str, Share]


class Stages:
    """The stages of one pruning.

    Args:
        folder: of the stages.
        parts: the original and its sub-networks.
        train: rows that detectors and forms are trained on.
        validation: rows that errors are of.
        config: the settings.

    Raises:
        UserError: `folder` was begun with other weights, rows or settings.
    """

    def __init__(self, folder: Path, parts: Partition, train: Split, validation: Split, config: EmoPmsConfig) -> None:
        # Workers get paths of it.
        self._folder, self._parts, self._config = folder.resolve(), parts, config
        self._splits = {"train": train, "validation": validation}
        self._features: dict[str, list[FeatureRows]] = {}
        self._network = model_fingerprint(parts.model)
        self._same_pruning()

    def _same_pruning(self) -> None:
        rows = [split.fingerprint() for split in self._splits.values()]
        made_of = MadeOf(network=self._network, rows=rows, settings=self._config.identity())
        path = self._folder / "pruning.json"
        if not path.is_file():
            write_record(path, made_of)
            return
        before = read_record(path, MadeOf)
        other = [name for name in ("network", "rows", "settings") if getattr(before, name) != getattr(made_of, name)]
        if other:
            raise UserError(
                f"{self._folder} holds a pruning of another {' and other '.join(other)}; repeat the first command, or "
                "name another folder"
            )

    @property
    def subnetworks(self) -> Sequence[SubNetwork]:
        """Those that are searched, in the order of the network."""
        return self._parts.subnetworks

    def files(self, name: str) -> KeptFiles:
        """The trained weights of the forms of a sub-network."""
        return KeptFiles(self._folder / "searches" / name / "kept")

    def _journal(self, name: str) -> Path:
        return self._folder / "searches" / name / "study.journal"

    def searched(self, run: Map, on_result: OnResult | None) -> dict[str, Study]:
        """The searches of all sub-networks, side by side where `run` has several processes; by name."""
        done = searches_of(self._folder)
        self._check_spaces(done)
        self._check_weights(done)
        if self._complete(done):
            self._remove_features()
            return {each.name: done[each.name] for each in self.subnetworks}
        # Before the searches begin: each of them reads features and detectors, and computes neither.
        self.features("train")
        detectors = self.detectors
        searches = [
            partial(self._search, number, detectors[number], run, on_result) for number in range(len(self.subnetworks))
        ]
        # In one process a second training at a time would only take turns with the first.
        studies = [search() for search in searches] if run is map else _side_by_side(searches)
        self._remove_features()
        return {each.name: study for each, study in zip(self.subnetworks, studies, strict=True)}

    def _remove_features(self) -> None:
        shutil.rmtree(self._folder / "features", ignore_errors=True)
        self._features.clear()

    def _check_spaces(self, done: Mapping[str, Study]) -> None:
        """UserError for a study that is there and of another network."""
        for each in self.subnetworks:
            if each.name in done and done[each.name].space != each.space:
                raise UserError(
                    f"{self._journal(each.name)} must be the search of this network's sub-network {each.name}, it has "
                    "other channels; put a copy in its place, or remove it"
                )

    def _check_weights(self, done: Mapping[str, Study]) -> None:
        """UserError for weights that cannot be read, before anything is trained or measured that would need them."""
        for path in sorted((self._folder / "detectors").glob("*.safetensors")):
            read_weights(path, _TRAIN_ANEW.format(path.parent))
        for each in self.subnetworks:
            files, study = self.files(each.name), done.get(each.name)
            for member in study.front() if study else ():
                form_weights(files, each, member.candidate)

    def _complete(self, done: Mapping[str, Study]) -> bool:
        """Whether all searches have spent their budget."""
        return all(
            each.name in done and len(done[each.name].measurements) >= min(self._config.budget, each.space.size())
            for each in self.subnetworks
        )

    def features(self, split: str) -> list[FeatureRows]:
        """The rows of every sub-network, of `train` or `validation`."""
        if split not in self._features:
            folder = self._folder / "features" / split
            self._features[split] = cached_features(self._parts, self._splits[split], folder, self._network)
        return self._features[split]

    @cached_property
    def detectors(self) -> list[nn.Module]:
        """The trained detector of each sub-network, frozen and in evaluation mode."""
        folder = self._folder / "detectors"
        recover_folder(folder)
        if not folder.is_dir():
            self._train_detectors(folder)
        rows = self.features("validation")
        found = [self._untrained(number, rows) for number in range(len(self.subnetworks))]
        for number, detector in enumerate(found):
            if isinstance(detector, FeatureDetector):
                path = folder / f"{number}.safetensors"
                detector.load_state_dict(read_weights(path, _TRAIN_ANEW.format(folder)))
            for parameter in detector.parameters():
                parameter.requires_grad_(False)
            detector.eval()
        return found

    def bases(self) -> dict[str, Base]:
        """Cost and error of every sub-network as it is in the original."""
        if not (self._folder / "detectors").is_dir():
            # Removed by hand after the searches.
            self._train_detectors(self._folder / "detectors")
            self._remove_features()
        errors = base_errors(self._folder)
        missing = [each.name for each in self.subnetworks if each.name not in errors]
        if missing:
            raise UserError(
                f"{self._folder / 'detectors'} must have an error for each sub-network, it has none for {missing[0]}; "
                + _TRAIN_ANEW.format("that folder")
            )
        return {each.name: Base(self._full_cost(each), errors[each.name]) for each in self.subnetworks}

    def _full_cost(self, subnetwork: SubNetwork) -> float:
        return float(self._costs[subnetwork.name](subnetwork.space.encode([subnetwork.space.full()]))[0])

    def forms(self, studies: dict[str, Study]) -> list[Form]:
        """The fronts of all sub-networks."""
        return [
            Form(name, member.candidate, member.values[self._config.cost], member.values[ERROR])
            for name, study in studies.items()
            for member in study.front()
        ]

    def _train_detectors(self, folder: Path) -> None:
        train, validation = self.features("train"), self.features("validation")
        errors = {}
        with replacing_folder(folder) as part:
            for number, each in enumerate(self.subnetworks):
                detector = self._untrained(number, validation)
                if isinstance(detector, FeatureDetector):
                    fit(detector, train[number], detector_loss, self._config.detectors)
                    save_weights(detector, part / f"{number}.safetensors")
                error, _ = judged(each.module.eval(), detector, validation[number])
                if math.isnan(error):
                    raise UserError(
                        f"the network's features behind sub-network {each.name} must be numbers on every validation "
                        "row, some are not; prune another network, or leave out these rows"
                    )
                errors[each.name] = error
            write_record(part / "errors.json", DetectorErrors(errors=errors))

    def _untrained(self, number: int, rows: Sequence[FeatureRows]) -> nn.Module:
        """What classifies behind a sub-network: a new detector, or the rest of the original where none is needed."""
        shapes = [each.batch([0])[OUTPUT].shape for each in rows[number:]]
        channels = [shape[1] for shape in shapes if len(shape) == 4]
        if len(channels) <= 1:
            rest = [each.module for each in self.subnetworks[number + 1 :]]
            return copy.deepcopy(nn.Sequential(*rest, self._parts.head))
        return untrained(channels, self._outputs(rows), torch_seed(self._config.seed, "detector", number))

    @torch.no_grad()
    def _outputs(self, rows: Sequence[FeatureRows]) -> int:
        """Number of classes of the original."""
        return int(self._parts.head.eval()(rows[-1].batch([0, 1])[OUTPUT]).shape[-1])

    def _search(self, number: int, detector: nn.Module, run: Map, on_result: OnResult | None) -> Study:
        """The search of one sub-network: its cost, which is exact, against its error."""
        each, config = self.subnetworks[number], self._config
        train, validation = self.features("train")[number], self.features("validation")[number]
        if config.form_rows is not None:
            train = train.take(config.form_rows, generator(config.seed, "rows of forms"))
        orders = None
        if config.inheritance == "importance":
            orders = importance_orders(each.module, each.space, detector, train, config.seed)
        files, cost = self.files(each.name), self._costs[each.name]
        training = CandidateTraining(
            each, detector, train, validation, config.forms, config.constrained, orders, files, cost
        )
        journal = self._journal(each.name)
        journal.parent.mkdir(parents=True, exist_ok=True)
        return nsga2(
            each.space,
            training,
            [Objective(config.cost, exact=cost), Objective(ERROR)],
            budget=config.budget,
            seed=config.seed,
            config=replace(config.nsga2, starts=spread(each.space, config.nsga2.population // 2, config.seed)),
            storage=journal,
            pool=run,
            give_up=True,
            on_result=_Watch(KeepingFront(files), each.name, on_result),
        )

    @cached_property
    def _costs(self) -> dict[str, CostFunction]:
        """By the name of a sub-network, the cost of its encoded forms (n, k), (n,)."""
        # Two rows of what each of them reads.
        examples = around(self._parts, self._splits["train"].batch([0, 1]))
        return {
            each.name: exact_costs(Supernet(each.module, each.space), (example,))[self._config.cost]
            for each, example in zip(self.subnetworks, examples, strict=False)
        }


class _Watch:
    """What follows a search: it keeps the files of the front, and tells the caller."""

    def __init__(self, keeping: KeepingFront, name: str, on_result: OnResult | None) -> None:
        self._keeping, self._name, self._on_result = keeping, name, on_result

    def begin(self, study: Study) -> None:
        """See `KeepingFront.begin`."""
        self._keeping.begin(study)

    def __call__(self, measurement: Measurement, number: int) -> None:
        self._keeping(measurement, number)
        if self._on_result is not None:
            self._on_result(self._name, measurement, number)


def spread(space: Space, count: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Candidates from the original to the smallest, encoded: channels drawn around a share that falls evenly.

    Channels drawn each by itself give candidates of about half the size, all of them.
    """
    rng = generator(seed, "spread of channels")
    last = np.array([len(choice.options) - 1 for choice in space.choices])
    shares = np.linspace(1.0, 0.0, max(count, 2))[:, None]
    drawn = shares + rng.uniform(-0.15, 0.15, (len(shares), len(last)))
    rows = np.rint(np.clip(drawn, 0, 1) * last).astype(np.int64)
    rows[0], rows[-1] = last, 0
    return tuple(tuple(int(index) for index in row) for row in rows)


def searches_of(folder: Path) -> dict[str, Study]:
    """The searches of a pruning as far as they are, finished or not; by the name of the sub-network."""
    journals = sorted(folder.glob("searches/*/study.journal"), key=lambda path: (len(path.parent.name), path))
    # A kill at the beginning of a search leaves a journal without a study.
    found = {path.parent.name: load_study(path) for path in journals if recorded_identity(path)}
    for name, study in found.items():
        if len(study.objectives) != 2 or ERROR not in {objective.name for objective in study.objectives}:
            raise UserError(
                f"the search of sub-network {name} in {folder} must have a cost and an error, it has "
                f"{', '.join(objective.name for objective in study.objectives)}; put a copy in its place, or remove it"
            )
    return found


def base_errors(folder: Path) -> dict[str, float]:
    """The error of the original through the detector of each sub-network; empty where none is trained yet."""
    path = folder / "detectors" / "errors.json"
    return dict(read_record(path, DetectorErrors).errors) if path.is_file() else {}


def _side_by_side(searches: Sequence[Callable[[], Study]]) -> list[Study]:
    """The results of searches that run in threads and share one pool."""
    threads = ThreadPoolExecutor(len(searches), thread_name_prefix="nas-search")
    try:
        running = [threads.submit(search) for search in searches]
        # The first that fails ends the others: nobody waits for a result that is of no use.
        done, _ = wait(running, return_when=FIRST_EXCEPTION)
        for each in done:
            each.result()
        return [each.result() for each in running]
    finally:
        # Where one of them failed, or the command was interrupted, the pool ends the others.
        threads.shutdown(wait=False, cancel_futures=True)
