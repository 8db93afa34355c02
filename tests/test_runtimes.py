"""The table of runtimes: all that sets one apart is in its entry, so that another one is another entry."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from hardware.deployment import Deployment
from hardware.registry import NAMES, runtime_kind
from hardware.runtimes import RUNTIMES
from nas.exporting.card import Card
from nas.exporting.deployed import deploy, memory_mib
from nas.exporting.folder import export
from nas.exporting.loaders import deployment_loader
from nas.exporting.network_files import NetworkClass, network_class
from nas.settings import Runtime
from tests import toy_images

NETWORK = NetworkClass("Network", is_transformers=True, has_factory=False)
CALIBRATION = [dict(toy_images.split(4).batch([row])) for row in range(4)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_lines_hold_what_the_deployment_says(name: str, precision: str) -> None:
    deployment = replace(Deployment(name, threads=3), precision=precision)
    lines = deployment_loader(deployment, "folder/model.file", NETWORK)
    compile(lines, "README.md", "exec")
    assert "def run(inputs):" in lines and "3" in lines and "<" not in lines
    assert ("folder/model.file" in lines) != RUNTIMES[name].runs_modules


def test_commands_offer_the_runtimes_of_the_table() -> None:
    assert get_args(Runtime) == NAMES == tuple(each.name for each in RUNTIMES.values())


def test_another_runtime_is_another_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ONNX Runtime under another name, with a folder of its own for quantized files."""
    known = runtime_kind("onnxruntime")
    other = replace(known, name="other", title="The Other", quantized_folder="its/files")
    monkeypatch.setitem(RUNTIMES, "other", other)  # type: ignore[arg-type]
    deployment = Deployment("other", "int8")
    deployment.check()
    network, inputs = toy_images.supernet().model.eval(), dict(toy_images.split(4).batch([0, 1]))
    deployed = deploy(network, deployment, tmp_path, inputs, calibration=CALIBRATION)
    assert deployed.folder == tmp_path and deployed.path == tmp_path / "its" / "files" / "model-int8.onnx"
    assert memory_mib(deployed, inputs, network_class(network, None)) > 0
    out = export(network, tmp_path / "out", inputs, card=Card(), deployment=deployment, calibration=CALIBRATION)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "## Load it as it was measured: The Other, int8" in card
    assert 'InferenceSession(f"{folder}/its/files/model-int8.onnx"' in card
