"""A trained ResNet on CIFAR-10 with its rows, and the settings that all rows of the EMO-PMS benchmark share."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar import splits
from cifar_networks import ResNet
from safetensors.torch import load_file
from torch import nn

from nas.data.accuracy import predict
from nas.data.split import Split
from nas.learning.optimizer import Sgd
from nas.learning.schedule import Cosine
from nas.learning.training_config import TrainingConfig
from nas.networks.recalibration import SubNetworks
from nas.pruning.config import Cost, EmoPmsConfig
from nas.searching.nsga2 import Nsga2Config
from nas.seeds import generator
from search_spaces import Candidate, Space, Supernet, exact_costs
from search_spaces.arrays import BoolArray
from search_spaces.pruning import Partition, partition
from search_spaces.supernets.costs import CostFunction

SHARES = (0.4, 0.5, 0.6)
"""Of the original's multiply-accumulates that the three networks of a row save at least."""
EXAMPLE = {"pixels": torch.zeros(2, 3, 32, 32)}
COST: Cost = "macs"


def _training(epochs: int, learning_rate: float) -> TrainingConfig:
    return TrainingConfig(
        epochs=epochs,
        batch_size=64,
        learning_rate=learning_rate,
        weight_decay=1e-4,
        warmup_share=0.0,
        clip_norm=1.0,
        optimizer=Sgd(momentum=0.9, nesterov=True, decay_all=True),
        schedule=Cosine(),
    )


# What decided on these is the error of a few networks on validation rows.
DETECTORS = _training(10, 0.1)
FORMS = _training(1, 0.3)
FINAL = replace(_training(3, 0.02), batch_size=32)


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        budget: forms of each sub-network that are trained.
        population: of the search of each sub-network; whole networks have half as many more.
        images: training images of forms.
        detector_images: training images of the detectors, the former among them.
        searched: validation rows of all searches and picks.
        ranked: validation rows of the networks along the ranking.
        final_images: training images of the last training.
        final_epochs: its epochs.
        final_rate: its learning rate.
        tested: test rows.
        peers: networks of Torch-Pruning for each share that are trained.
    """

    budget: int = 24
    population: int = 8
    images: int = 1000
    detector_images: int = 4000
    searched: int = 1500
    ranked: int = 1000
    final_images: int = 2000
    final_epochs: int = 3
    final_rate: float = 0.02
    tested: int = 5000
    peers: int = 1


SMALL = Sizes(
    budget=4,
    population=4,
    images=192,
    detector_images=192,
    searched=200,
    ranked=100,
    final_images=192,
    final_epochs=1,
    tested=200,
)
FULL = Sizes(
    budget=180,
    population=40,
    images=20_000,
    detector_images=20_000,
    searched=5000,
    ranked=2000,
    final_images=20_000,
    final_epochs=20,
    peers=4,
)


@dataclass(frozen=True)
class Problem:
    """The original network, and the rows that everything is trained and scored on.

    Args:
        original: in evaluation mode; nothing changes it.
        splits: "train", "validation" and "test", all rows.
        sizes: how many of them are used, and what for.
        seed: of every random draw.
    """

    original: nn.Module
    splits: Mapping[str, Split]
    sizes: Sizes
    seed: int

    @cached_property
    def train(self) -> Split:
        """The training rows of the searches."""
        return self.splits["train"].take(self.sizes.images, generator(self.seed, "images"))

    @cached_property
    def detector_rows(self) -> Split:
        """The training rows of the detectors, of which the forms have a part."""
        return self.splits["train"].take(self.sizes.detector_images, generator(self.seed, "detector images"))

    @cached_property
    def final(self) -> Split:
        """The training rows of the last training."""
        return self.splits["train"].take(self.sizes.final_images, generator(self.seed, "final images"))

    @cached_property
    def searched(self) -> Split:
        """The validation rows that all picks are made on."""
        return self.splits["validation"].take(self.sizes.searched, generator(self.seed, "searched"))

    @cached_property
    def ranked(self) -> Split:
        """The validation rows of the networks along the ranking."""
        return self.searched.take(self.sizes.ranked, generator(self.seed, "ranked"))

    @cached_property
    def test(self) -> Split:
        """The test rows."""
        return self.splits["test"].take(self.sizes.tested, generator(self.seed, "tested"))

    @cached_property
    def parts(self) -> Partition:
        """The original in sub-networks; its space is that of all rows."""
        return partition(self.original, EXAMPLE)

    @property
    def space(self) -> Space:
        """The channels of whole networks."""
        return self.parts.space

    @cached_property
    def costs(self) -> Mapping[str, CostFunction]:
        """`macs` and `parameters` of encoded candidates."""
        return exact_costs(Supernet(self.original, self.space), EXAMPLE)

    def saved(self, candidate: Candidate, name: str = COST) -> float:
        """The share of the original's multiply-accumulates, or parameters, that a candidate saves."""
        own, whole = self.costs[name](self.space.encode([candidate, self.space.full()]))
        return 1 - float(own) / float(whole)

    def candidate_of(self, network: nn.Module) -> Candidate:
        """The channels that a pruned network has."""
        layers = {choice.name: choice.name.removeprefix("channels.") for choice in self.space.choices}
        return self.space.candidate({name: _channels(network.get_submodule(path)) for name, path in layers.items()})

    def config(self, **settings: Any) -> EmoPmsConfig:
        """EMO-PMS at this size."""
        nsga2 = Nsga2Config(population=self.sizes.population, offspring=self.sizes.population)
        made = EmoPmsConfig(
            self.sizes.budget, nsga2, COST, detectors=DETECTORS, forms=replace(FORMS, seed=self.seed), seed=self.seed
        )
        return replace(made, **settings)

    @property
    def final_config(self) -> TrainingConfig:
        """The last training of every network of every row."""
        sizes = self.sizes
        return replace(FINAL, epochs=sizes.final_epochs, learning_rate=sizes.final_rate, seed=self.seed)

    def renewed(self, network: nn.Module) -> nn.Module:
        """A copy of a network in evaluation mode, with batch-norm statistics of its own."""
        alone = Supernet(network, Space(()))
        return SubNetworks(alone, self.train, self.seed).extract(alone.space.full())


def _channels(layer: nn.Module) -> int:
    assert isinstance(layer, nn.Conv2d)
    return layer.out_channels


def right(network: nn.Module, rows: Split) -> BoolArray:
    """Which rows a network in evaluation mode classifies rightly (n,)."""
    return np.asarray(predict(network, rows).argmax(1) == rows.labels)


def error(network: nn.Module, rows: Split) -> float:
    """The share of rows (0..1) that a network in evaluation mode has wrong."""
    return float(1 - right(network, rows).mean())


def load_problem(data: Path, weights: Path, sizes: Sizes, seed: int) -> Problem:
    """The ResNet of a file of weights, of as many blocks as the file has, and the rows of `--data`."""
    return Problem(load_network(weights), splits(data), sizes, seed)


def load_network(weights: Path) -> nn.Module:
    """A trained ResNet for CIFAR in evaluation mode."""
    state = load_file(weights)
    module = ResNet(blocks_of(list(state)))
    # Without the counters of batches, which the checkpoints lack; nothing else may be missing.
    found = module.load_state_dict(state, strict=False)
    if found.unexpected_keys or any(not name.endswith("num_batches_tracked") for name in found.missing_keys):
        raise ValueError(f"{weights} must fit the network: {found}")
    return module.eval()


def blocks_of(names: Sequence[str]) -> int:
    """Blocks in each stage of the ResNet that parameters of these names belong to."""
    return len({name.split(".")[1] for name in names if name.startswith("layer1.")})


def digest(weights: Path) -> str:
    """The beginning of the SHA-256 of a file."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
