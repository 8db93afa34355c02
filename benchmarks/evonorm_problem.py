"""CIFAR-10 in memory, the networks that layers are tried in, and the sizes that all stages of the benchmark share."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas
import torch
from cifar import SmallImages
from cifar_networks import CLASSES
from evonorm_networks import resnet18
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from nas.data.augmentation import augment
from nas.data.split import stratified
from nas.evolving.anchors import PAPER, SMALL, AnchorSize, Network, networks
from nas.evolving.layer_makers import LayerMaker, batch_norm_relu, graph_maker
from nas.seeds import generator, torch_seed
from search_spaces.arrays import IntArray
from search_spaces.graphs import LayerGraph, published

SIDE = 32
PLAIN = ("BN-ReLU", "GN-ReLU")
"""Layers that are PyTorch's own modules, as networks have them, and no graphs."""


@dataclass(frozen=True)
class Images:
    """Images in memory with a class each; they are `nas.data.rows.Rows`.

    Args:
        sums: int16 (n, 3, side, side), sums of pixels (0..255) over squares.
        labels: int64 (n,).
    """

    sums: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.sums)

    def batches(self, batch_size: int, rng: np.random.Generator) -> list[IntArray]:
        """Shuffled batches whose sizes differ by one row at most."""
        return np.array_split(rng.permutation(len(self)), -(-len(self) // batch_size))

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """Pixels (rows, 3, side, side) from -1 to 1."""
        most = 255 * (SIDE // self.sums.shape[-1]) ** 2
        return {"pixels": self.sums[torch.as_tensor(np.asarray(indices))].float() * (2 / most) - 1}

    def targets(self, indices: npt.ArrayLike) -> Tensor:
        return self.labels[torch.as_tensor(np.asarray(indices))]

    def augment(
        self, batch: Mapping[str, Tensor], rows: int, kept: IntArray, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        return augment(batch, rows, kept, rng)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.sums.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()

    def take(self, count: int) -> "Images":
        """The first `count` rows, which are in random order."""
        return Images(self.sums[:count], self.labels[:count])


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        anchors: size of the networks and images.
        searched_in: the networks of the search, in the order in which they are tried.
        unseen: the network that is not among them.
        scored: validation rows of the tests and of the search.
        chosen: those by which learning rates are chosen.
        known: known layers whose mutants may be tried.
        random_layers: the stream of random layers.
        accepted: mutants of known layers are drawn until the published rule accepts so many different layers ...
        most_mutants: ... or until there are so many of them.
        round: so many are drawn at a time.
        budget: layers that the search tries.
        population, tournament_share: its window, and the share of it in a tournament.
        quality_steps, ascent_steps: of its tests.
        least_accuracy: (0..1) after the former; None: as `nas evolve` measures it.
        proxy_steps: training whose accuracies it sees.
        reranked, longer_steps: how many layers are trained longer at its end, and for how long.
        small_steps: steps at the small batch size.
        small_rates: learning rates of which each layer has the better.
        seeds: trainings of each layer there.
        layers: known layers beside the best one that was found.
        tested: test rows.
        rounds: interleaved timings of a graph and its module.
        evaluations, sleep_s: of the search that shows how it scales with workers.
    """

    anchors: AnchorSize = SMALL
    searched_in: tuple[str, ...] = ("efficientnet-b0", "mobilenet-v2")
    unseen: str = "resnet50"
    scored: int = 1000
    chosen: int = 4000
    known: int = 9
    random_layers: int = 100
    accepted: int = 60
    most_mutants: int = 400
    round: int = 24
    budget: int = 1200
    population: int = 64
    tournament_share: float = 0.25
    quality_steps: int = 100
    least_accuracy: float | None = None
    ascent_steps: int = 10
    proxy_steps: int = 400
    reranked: int = 4
    longer_steps: int = 600
    small_steps: int = 3000
    small_rates: tuple[float, ...] = (0.01, 0.03)
    seeds: int = 3
    layers: tuple[str, ...] = ("BN-ReLU", "GN-ReLU", "S0", "B0")
    tested: int = 5000
    rounds: int = 60
    evaluations: int = 16
    sleep_s: float = 5.0


TINY = Sizes(
    scored=128,
    chosen=128,
    known=1,
    random_layers=8,
    accepted=1,
    most_mutants=6,
    round=6,
    budget=48,
    population=16,
    tournament_share=0.5,
    quality_steps=20,
    least_accuracy=0.0,
    ascent_steps=5,
    proxy_steps=20,
    reranked=2,
    longer_steps=40,
    small_steps=20,
    seeds=2,
    tested=200,
    rounds=5,
    evaluations=12,
    sleep_s=0.5,
)
FULL = Sizes(
    anchors=PAPER,
    searched_in=("mobilenet-v2", "efficientnet-b0", "resnet50"),
    unseen="resnet18",
    scored=2000,
    random_layers=2000,
    most_mutants=2000,
    budget=100_000,
    population=2500,
    tournament_share=0.05,
    quality_steps=100,
    ascent_steps=100,
    proxy_steps=2000,
    reranked=10,
    longer_steps=8000,
    small_steps=20_000,
    small_rates=(0.003, 0.01, 0.03),
    layers=("BN-ReLU", "GN-ReLU", "B0", "B1", "B2", "S0", "S1", "S2"),
    tested=10_000,
    rounds=200,
)


@dataclass(frozen=True)
class Layer:
    """A normalization-activation layer by name.

    Args:
        name: one of `PLAIN`, of the published layers, or any other.
        graph: its graph; None for one of `PLAIN`, or a published one.
    """

    name: str
    graph: LayerGraph | None = None

    def maker(self, groups: int) -> LayerMaker:
        """What puts it into a network."""
        if self.graph is None and self.name in PLAIN:
            return batch_norm_relu if self.name == "BN-ReLU" else partial(_group_norm_relu, groups)
        return graph_maker(self.graph or published(self.name), groups)


def _group_norm_relu(groups: int, channels: int, activation: bool, /) -> nn.Module:
    fitting = next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0)
    norm = nn.GroupNorm(fitting, channels)
    return nn.Sequential(norm, nn.ReLU()) if activation else norm


@dataclass(frozen=True)
class Problem:
    """The rows and networks of one size.

    Args:
        sizes: how much is measured.
        train, validation, test: rows; those for validation come from the training images, and share none with `train`.
        seed: of every random draw.
    """

    sizes: Sizes
    train: Images
    validation: Images
    test: Images
    seed: int = 0

    @property
    def scored(self) -> Images:
        """The validation rows of the tests and of the search."""
        return self.validation.take(self.sizes.scored)

    @cached_property
    def anchors(self) -> Mapping[str, Network]:
        """The networks of the paper by name, in the order in which layers are tested, the cheapest first."""
        return networks(self.sizes.anchors, len(CLASSES))

    @property
    def searched_in(self) -> Mapping[str, Network]:
        """The networks of the search."""
        return {name: self.anchors[name] for name in self.sizes.searched_in}

    def network(self, name: str, layer: Layer, seed: int) -> nn.Module:
        """A network with a layer; those of one seed have the same weights whatever their layers are."""
        size = self.sizes.anchors
        made = self.anchors.get(name) or partial(resnet18, outputs=len(CLASSES))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "anchor"))
            return made(layer.maker(size.groups))


def load_problem(data: Path, sizes: Sizes, seed: int = 0) -> Problem:
    """The rows of the parquet files of CIFAR-10 in a folder, made smaller by means over squares of pixels.

    A fifth of the training images are validation rows. Every part is in random order, and keeps the share of classes.
    """
    encoded, known = _read(data / "cifar10_train20k.parquet")
    # Copies of an image go to one part.
    parts = stratified(encoded, known, (0.8, 0.2), seed, CLASSES)
    train, validation = ([encoded[row] for row in part] for part in parts)
    test, labels = _read(data / "cifar10_test.parquet")
    made = (
        _images(rows, of, sizes, seed)
        for rows, of in ((train, known[parts[0]]), (validation, known[parts[1]]), (test, labels))
    )
    return Problem(sizes, next(made), next(made), next(made).take(sizes.tested), seed)


def _read(path: Path) -> tuple[list[bytes], IntArray]:
    table = pandas.read_parquet(path)
    return list(table["image"]), table["label"].to_numpy().astype(np.int64)


def _images(encoded: Sequence[bytes], labels: IntArray, sizes: Sizes, seed: int) -> Images:
    pixels = SmallImages().prepare(encoded, 0).images.float()
    sums = avg_pool2d(pixels, SIDE // sizes.anchors.image_size, divisor_override=1).to(torch.int16)
    order = torch.from_numpy(generator(seed, "order").permutation(len(labels)))
    return Images(sums[order], torch.from_numpy(labels)[order])
