"""Requests for the fine-tuning of runs on the benchmarks' data: MiniLM on SST-2, networks of one's own on CIFAR-10."""

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas
from cifar_networks import CLASSES

from nas.command.demo_files import WEIGHTS, cache_folder, fetch, unpack_model
from nas.console import say
from nas.data.split import stratified
from nas.runs.requests import FinetuneRequest
from nas.settings import DataSettings, ModelSettings, SpaceSettings, TrainingSettings

OWN = "cifar_networks:resnet20"
Order = Literal["taylor", "magnitude", "activation", "none"]
DropOrder = Literal["last", "spread", "importance"]

Part = tuple[str, int, int] | tuple[str, Sequence[int]]
"""The file that rows come from, with the first and last of them or with all their numbers."""
Parts = Mapping[str, Part | list[Part]]
"""For train, validation and test: where their rows come from."""
SPLIT_SEED = 0


@dataclass(frozen=True)
class OwnNetwork:
    """A network for CIFAR-10 whose weights lie among the data.

    Args:
        model: `module:factory`.
        weights: name of the file, without its ending.
        elastic: its sub-networks.
    """

    model: str = OWN
    weights: str = "cifar10_resnet20"
    elastic: SpaceSettings = field(
        default_factory=lambda: SpaceSettings(depth="1.0", width="1.0", channels="0.5,0.75,1.0")
    )


def texts(
    data: Path,
    folder: Path,
    parts: Parts,
    training: TrainingSettings,
    order: Order = "taylor",
    drop_order: DropOrder = "spread",
) -> FinetuneRequest:
    """MiniLM on sentences of SST-2; writes model and rows into `folder`, and the run goes beside them."""
    model, rows = folder / "all-MiniLM-L6-v2", folder / "sst2"
    if not model.exists():
        unpack_model(fetch(cache_folder(), say)[WEIGHTS], model)
    rows.mkdir(parents=True, exist_ok=True)
    for name, given in parts.items():
        taken: list[list[str]] = []
        for part in _pieces(given):
            with gzip.open(data / f"sst2_{part[0]}.csv.gz", "rt", encoding="utf-8", newline="") as file:
                header, *lines = csv.reader(file)
            taken += [lines[row] for row in _rows(part, len(lines))]
        with (rows / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *taken])
    elastic = SpaceSettings(
        depth="4,5,6", heads="0.5,0.75,1.0", ffn="0.25,0.5,0.75,1.0", drop_order=drop_order, order=order
    )
    return FinetuneRequest(str(model), folder / "run", DataSettings(str(rows)), elastic=elastic, training=training)


def images(
    data: Path,
    folder: Path,
    parts: Parts,
    training: TrainingSettings,
    order: Order = "taylor",
    network: OwnNetwork | None = None,
) -> FinetuneRequest:
    """A network of one's own on CIFAR-10, ResNet-20 by default; likewise."""
    network, rows = network or OwnNetwork(), folder / "cifar10"
    rows.mkdir(parents=True, exist_ok=True)
    for name, given in parts.items():
        tables = []
        for part in _pieces(given):
            table = pandas.read_parquet(data / f"cifar10_{part[0]}.parquet", columns=["image", "label"])
            tables.append(table.iloc[list(_rows(part, len(table)))])
        pandas.concat(tables).to_parquet(rows / f"{name}.parquet", index=False)
    return FinetuneRequest(
        network.model,
        folder / "run",
        DataSettings(str(rows)),
        # The network normalises pixels from 0 to 1 itself.
        own=ModelSettings(data / f"{network.weights}.safetensors", "32", mean="0,0,0", std="1,1,1"),
        elastic=replace(network.elastic, order=order),
        training=training,
    )


def balanced_halves(data: Path) -> dict[str, list[Part]]:
    """The test images of CIFAR-10 as balanced halves: the networks were trained on all training images."""
    table = pandas.read_parquet(data / "cifar10_test.parquet", columns=["image", "label"])
    labels = table["label"].to_numpy().astype(np.int64)
    halves = stratified(list(table["image"]), labels, (0.5, 0.5), SPLIT_SEED, CLASSES)
    return {name: [("test", half.tolist())] for name, half in zip(("validation", "test"), halves, strict=True)}


def _pieces(given: Part | list[Part]) -> list[Part]:
    return given if isinstance(given, list) else [given]


def _rows(part: Part, count: int) -> Sequence[int]:
    if len(part) == 3:
        _, first, last = part
        return range(first, min(last, count))
    return part[1]
