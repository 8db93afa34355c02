"""Requests for the fine-tuning of runs on the benchmarks' data: MiniLM on SST-2, ResNet-20 on CIFAR-10."""

import csv
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas

from nas.command.demo_files import WEIGHTS, cache_folder, fetch, unpack_model
from nas.console import say
from nas.runs.requests import FinetuneRequest
from nas.settings import DataSettings, ModelSettings, SpaceSettings, TrainingSettings

OWN = "cifar_networks:resnet20"
Order = Literal["taylor", "magnitude", "activation", "none"]
DropOrder = Literal["last", "spread", "importance"]

Parts = Mapping[str, tuple[str, int, int]]
"""For train, validation and test: the file that its rows come from, and the first and last of them."""


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
    for name, (source, first, last) in parts.items():
        with gzip.open(data / f"sst2_{source}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        with (rows / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([lines[0], *lines[1 + first : 1 + last]])
    elastic = SpaceSettings(
        depth="4,5,6", heads="0.5,0.75,1.0", ffn="0.25,0.5,0.75,1.0", drop_order=drop_order, order=order
    )
    return FinetuneRequest(str(model), folder / "run", DataSettings(str(rows)), elastic=elastic, training=training)


def images(
    data: Path, folder: Path, parts: Parts, training: TrainingSettings, order: Order = "taylor"
) -> FinetuneRequest:
    """ResNet-20 on CIFAR-10, likewise."""
    rows = folder / "cifar10"
    rows.mkdir(parents=True, exist_ok=True)
    for name, (source, first, last) in parts.items():
        table = pandas.read_parquet(data / f"cifar10_{source}.parquet", columns=["image", "label"])
        table[first:last].to_parquet(rows / f"{name}.parquet", index=False)
    return FinetuneRequest(
        OWN,
        folder / "run",
        DataSettings(str(rows)),
        # The network normalises pixels from 0 to 1 itself.
        own=ModelSettings(data / "cifar10_resnet20.safetensors", "32", mean="0,0,0", std="1,1,1"),
        elastic=SpaceSettings(depth="1.0", width="1.0", channels="0.5,0.75,1.0", order=order),
        training=training,
    )
