"""Where networks are computed when the super-network is on a GPU: the same for all that measures or delivers them.

No GPU is needed: the device of the super-network is made up. The meta device, on which nothing can be computed, stands
for a GPU where networks run on the processor.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hardware.deployment import Deployment
from hardware.profile import MeasurementProtocol
from hardware.registry import NAMES, device_for
from nas.networks.recalibration import SubNetworks
from nas.profiling.bench import Bench
from nas.profiling.deployed_candidates import DeployedCandidates
from nas.profiling.device_latency import elsewhere, on_devices
from nas.runs import profile as profile_command
from nas.runs.loading import LoadedRun
from nas.runs.requests import ProfileRequest
from nas.searching.relative_latency import LatencySettings
from nas.searching.runners import Runners
from nas.settings import ProfileSettings
from search_spaces import Candidate
from tests import profiles, toy_images, toy_task

GPU, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize(
    ("runtime", "module", "device"),
    [
        ("pytorch", GPU, "cuda"),
        ("pytorch", CPU, "cpu"),
        ("onnxruntime", GPU, "cpu"),
        ("onnxruntime", CPU, "cpu"),
        ("openvino", GPU, "cpu"),
        ("openvino", CPU, "cpu"),
    ],
)
def test_pytorch_alone_follows_the_super_network(runtime: str, module: torch.device, device: str) -> None:
    assert device_for(runtime, module) == device


def test_a_runtime_that_there_is_not_computes_nowhere() -> None:
    with pytest.raises(ValueError, match="must be one of pytorch, onnxruntime, openvino, got tflite"):
        device_for("tflite", CPU)


@pytest.mark.parametrize("runtime", NAMES)
def test_search_profile_and_delivery_are_of_one_device(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def opened(request: ProfileRequest, device: str, *_: int) -> Any:
        asked.append("cuda" if device == "auto" else device)
        raise KeyboardInterrupt

    for module in ("nas.runs.loading", "nas.profiling.subject"):
        monkeypatch.setattr(f"{module}.device_of", lambda _: GPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(profile_command, "open_subject", opened)
    subject, anything = profiles.subject(), Any
    delivered = LoadedRun(anything, anything, subject.supernet, anything).on_its_device(Deployment(runtime))
    with pytest.raises(KeyboardInterrupt):
        settings = replace(ProfileSettings(), runtime=runtime)
        profile_command.estimate(ProfileRequest(subject="model", out=Path("profile.json"), settings=settings))
    found = {
        LatencySettings(runtime=runtime).deployment(subject.inputs, GPU).device,
        subject.deployment(runtime, "float32", 1).device,
        delivered.device,
        *asked,
    }
    assert found == {device_for(runtime, GPU)}


def test_figures_of_a_processor_do_not_name_the_gpu_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = profiles.subject()
    of_processor = {name: profiles.profile(subject, runtime=name) for name in NAMES}
    monkeypatch.setattr("nas.profiling.subject.device_of", lambda _: GPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    assert {name: subject.accelerator(name) for name in NAMES} == dict.fromkeys(NAMES) | {"pytorch": "A GPU"}
    # So a profile of the processor is of this machine, wherever the super-network is.
    assert elsewhere(of_processor["onnxruntime"], subject) is None
    assert "search with --device cpu" in str(elsewhere(of_processor["pytorch"], subject))


def test_a_profile_of_a_runtime_that_there_is_not_is_not_measured_again(capsys: pytest.CaptureFixture[str]) -> None:
    subject = profiles.subject()
    predicted: Any = type("Predicted", (), {"profile": profiles.profile(subject, runtime="tflite"), "subject": subject})
    assert on_devices({"latency_ms": predicted}) == {}
    assert "not measured again: the runtime must be one of" in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_runs_on_the_processor_gets_its_inputs_there(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every call would copy them, which counts as latency, or CPU time would be refused as a clock."""
    for module in ("nas.searching.runners", "nas.profiling.bench"):
        monkeypatch.setattr(f"{module}.device_of", lambda _: META)
    subject = profiles.subject()
    few = MeasurementProtocol(rounds=6, rounds_most=6, warmup_most=0, clock="cpu")
    assert Bench(subject, subject.deployment(runtime, "float32", 1), few).reference().median_ms > 0
    supernet, rows = toy_task.supernet(), toy_task.split(4)
    runners = Runners(supernet, SubNetworks(supernet, rows), rows.batch([0]), Deployment(runtime))
    assert all(value.device == CPU for value in dict(runners.row).values())
    assert Deployment(device="cuda").near(META) == META


def test_files_are_written_from_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    supernet, rows = toy_images.supernet(), toy_images.split(4)
    moved: list[nn.Module] = []

    class OnGpu(SubNetworks):
        def extract(self, candidate: Candidate) -> nn.Module:
            module = super().extract(candidate)
            monkeypatch.setattr(module, "cpu", lambda: moved.append(module) or module)
            return module

    files = DeployedCandidates(OnGpu(supernet, rows), Deployment("onnxruntime"), rows.batch([0, 1]), (), rows)
    assert files.size_mib(supernet.space.smallest()) > 0 and len(moved) == 1
    files.close()
