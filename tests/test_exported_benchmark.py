"""The benchmark of exported folders: what it reads from a card, and what a process without this project answers."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_networks import resnet20
from exported_process import FreshProcess, read_card
from PIL import Image

from hardware.deployment import Deployment
from nas.data.accuracy import predict
from nas.data.pixels import PlainImages
from nas.data.split import Split, make_split
from nas.exporting.card import Card
from nas.exporting.folder import NetworkExport, staged

ROWS = 70


def _images() -> Split:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(ROWS):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        rows.append(file.getvalue())
    return make_split(rows, rng.integers(0, 3, ROWS), PlainImages("pixels", (32, 32)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "deployment",
    [Deployment("onnxruntime"), Deployment(precision="bfloat16")],
)
def test_a_fresh_process_finds_what_the_card_states(tmp_path: Path, deployment: Deployment) -> None:
    rows, example = _images(), {"pixels": torch.zeros(2, 3, 32, 32)}
    torch.manual_seed(0)
    network, folder = NetworkExport.of(resnet20(), example, resnet20), tmp_path / "out"
    with staged(folder) as part:
        network.write(part, None)
        deployed = network.deploy(part, deployment, None)
        right, size = int((predict(deployed.run, rows).argmax(1) == rows.labels).sum()), deployed.size_bytes
        figures = {"chosen": {"test_accuracy": right / ROWS, "size_mib": deployed.size_mib}}
        network.write_card(part, Card(figures=figures, judged=ROWS), deployed)
    stated = read_card((folder / "README.md").read_text(encoding="utf-8"))
    assert (stated.right, stated.rows, stated.size_bytes) == (right, ROWS, size)
    build = (str(Path(__file__).parents[1] / "benchmarks" / "cifar_networks.py"), "resnet20")
    fresh = FreshProcess(stated, folder, rows, example, tmp_path, build)
    try:
        assert (fresh.right(), fresh.size_bytes) == (right, size)
        assert min(fresh.call_ms()) > 0
    finally:
        fresh.close()
