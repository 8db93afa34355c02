"""A network in a deployment: its files compute what the module computes, and its figures are those of the files."""

import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hardware.backend import Runner, Writer, first_output, relative_difference
from hardware.deployment import Deployment
from hardware.inputs import call
from hardware.onnx import OPSETS, convert
from hardware.registry import backends
from nas.data.split import Split
from nas.errors import UserError
from nas.exporting.deployed import deploy, memory_mib
from nas.exporting.network_files import network_class
from nas.networks.recalibration import SubNetworks
from nas.profiling.deployed_candidates import DeployedCandidates
from nas.profiling.subject import Subject
from nas.searching.runners import Runners
from nas.searching.supernet_search import search
from search_spaces import Supernet
from search_spaces.inputs import Inputs
from tests import toy_images, toy_task
from tests.laws.test_backend_laws import TOLERANCES
from tests.profiles import profile

FILES = {
    ("pytorch", "float32"): {"config.json", "model.safetensors"},
    ("pytorch", "bfloat16"): {"config.json", "model.safetensors"},
    ("onnxruntime", "float32"): {"model.onnx"},
    ("onnxruntime", "int8"): {"model-int8.onnx"},
    ("openvino", "float32"): {"model.onnx"},
    ("openvino", "bfloat16"): {"model.onnx"},
    ("openvino", "int8"): {"openvino/model.xml", "openvino/model.bin"},
}
IMAGES = toy_images.split(40)
CALIBRATION = [dict(IMAGES.batch([row])) for row in range(len(IMAGES))]


def usable() -> list[Deployment]:
    every = [Deployment(each.name, precision) for each in backends() for precision in each.precisions]
    return [each for each in every if not each.by_layer]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Converts a network once and copies the file after that."""
    folder, known = tmp_path / "files", dict[tuple[int, Sequence[int]], tuple[nn.Module, Path]]()

    folder.mkdir()

    def written(
        module: nn.Module,
        example: Inputs,
        path: Path,
        *,
        load: Callable[[Path], Runner],
        opsets: Sequence[int] = OPSETS,
    ) -> Path:
        key = (id(module), opsets)
        if key not in known:
            # The module is kept, so that its number is given to no other.
            known[key] = module, convert(module, example, folder / f"{len(known)}.onnx", load=load, opsets=opsets)
        return Path(shutil.copy(known[key][1], path))

    return written


def inputs(rows: int) -> dict[str, torch.Tensor]:
    return dict(IMAGES.batch(range(rows)))


def expected(module: nn.Module, given: Inputs) -> torch.Tensor:
    with torch.no_grad():
        return first_output(call(module, given))


def written_in(folder: Path) -> set[str]:
    return {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.slow
def test_runner_and_files_compute_what_the_module_computes(write: Writer, tmp_path: Path) -> None:
    images = toy_images.network()
    for deployment in usable():
        pair = (deployment.runtime, deployment.precision)
        folder = tmp_path / "-".join(pair)
        folder.mkdir()
        deployed = deploy(
            images,
            deployment,
            folder,
            inputs(2),
            factory=toy_images.network,
            calibration=CALIBRATION,
            backend=deployment.backend(write),
        )
        assert written_in(folder) == FILES[pair]
        assert deployed.size_bytes == sum((folder / name).stat().st_size for name in FILES[pair])
        assert deployed.size_mib == deployed.size_bytes / 2**20
        run = deployment.runner(images, inputs(2), write=write, calibration=CALIBRATION)
        for rows in (1, 7):
            given = inputs(rows)
            for of in (run, deployed.run):
                got = call(of, given)
                assert got.dtype is torch.float32
                assert relative_difference(expected(images, given), got) < TOLERANCES[deployment.precision], pair
            if deployment.precision != "int8":
                assert torch.equal(call(run, given), call(deployed.run, given)), pair
    # One folder holds several: what is there is used, and no file takes the place of another's.
    together = tmp_path / "together"
    together.mkdir()
    runs = {
        each: deploy(
            images,
            each,
            together,
            inputs(2),
            factory=toy_images.network,
            calibration=CALIBRATION,
            backend=each.backend(write),
        )
        for each in usable()
    }
    assert written_in(together) == set().union(*(FILES[each.runtime, each.precision] for each in runs))
    for deployment, deployed in runs.items():
        difference = relative_difference(expected(images, inputs(5)), call(deployed.run, inputs(5)))
        assert difference < TOLERANCES[deployment.precision], deployment


@pytest.mark.parametrize("with_factory", [True, False])
def test_what_runs_in_pytorch_is_what_the_files_hold(with_factory: bool, tmp_path: Path) -> None:
    """Of transformers' classes and of the user's own, with something that makes them and without."""
    factory, module = toy_images.network if with_factory else None, toy_images.network()
    deployed = deploy(module, Deployment(), tmp_path, inputs(2), factory=factory)
    before, given = expected(module, inputs(5)), inputs(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(call(deployed.run, given), before), "the module that was written is not what runs"
    again = deploy(module, Deployment(), tmp_path, inputs(2), factory=factory)
    assert torch.equal(call(again.run, given), before), "files that are there are used as they are"
    assert not any(parameter.any() for parameter in module.parameters()), "the network is left as it is"


def test_a_network_of_transformers_with_sizes_of_its_own(tmp_path: Path) -> None:
    supernet = toy_task.supernet(dropout=0.5)
    module = supernet.extract(supernet.space.smallest()).eval()
    text = dict(toy_task.split(8).batch(range(8)))
    for deployment in (Deployment(), Deployment(precision="bfloat16")):
        deployed = deploy(module, deployment, tmp_path, text)
        difference = relative_difference(expected(module, text), call(deployed.run, text))
        assert difference < TOLERANCES[deployment.precision]
    assert deployed.size_bytes == sum(each.stat().st_size for each in tmp_path.iterdir())
    kept = {name: value.numel() for name, value in load_file(deployed.path).items()}
    assert kept == {name: value.numel() for name, value in [*module.named_parameters(), *module.named_buffers()]}


# What a deployment says of itself ------------------------------------------------------------------------------------


def test_conditions_name_all_that_a_figure_depends_on() -> None:
    names = ["machine", "runtime", "runtime_version", "precision", "threads", "batch"]
    for deployment in (Deployment(threads=2, batch=3), Deployment("openvino", "int8")):
        found = deployment.conditions()
        assert list(found) == names, "images have no length"
        assert found["runtime_version"] == deployment.version() and found["runtime"] == deployment.runtime
        assert (found["precision"], found["threads"], found["batch"]) == (
            deployment.precision,
            deployment.threads,
            deployment.batch,
        )
    assert list(Deployment(tokens=16).conditions()) == [*names, "tokens"]
    there = Deployment(tokens=16).conditions_on("a phone", "1.2")
    assert (there["machine"], there["runtime_version"], there["tokens"]) == ("a phone", "1.2", 16)


def test_what_a_profile_is_of() -> None:
    supernet = toy_task.supernet()
    ids = torch.ones(3, 16, dtype=torch.long)
    of = Subject("toy", supernet, {"input_ids": ids, "attention_mask": ids}, supernet.space)
    found = profile(of, runtime="openvino", precision="int8", threads=2)
    assert Deployment.of_profile(found) == Deployment("openvino", "int8", 2, 3, 16, "cpu")
    assert not Deployment.of_profile(found).is_eager_float32 and Deployment(threads=4).is_eager_float32


@pytest.mark.parametrize(
    ("deployment", "sentence"),
    [
        (Deployment("pytorch", "int8"), "pytorch must have the precision int8 .*use openvino or onnxruntime.*; it has"),
        (
            Deployment("onnxruntime", "bfloat16"),
            "onnxruntime must have the precision bfloat16 .*use openvino or pytorch",
        ),
        (Deployment("openvino", device="cuda"), "on the processor only"),
        (Deployment("tflite"), "must be one of pytorch, onnxruntime, openvino, got tflite"),
    ],
)
def test_deployments_that_there_are_not(deployment: Deployment, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        deployment.check()
    assert "\n" not in str(caught.value)


def test_a_deployment_whose_runtime_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for deployment in usable():
        deployment.check()

    def version(library: str) -> str:
        raise PackageNotFoundError(library)

    monkeypatch.setattr("hardware.runtimes.version", version)
    with pytest.raises(ValueError, match=r"openvino cannot be used here: it is not installed; pip install"):
        Deployment("openvino", "int8").check()


# Memory and energy ---------------------------------------------------------------------------------------------------


class Wide(nn.Module):
    """So many features that its one layer has `mib` MiB of weights."""

    def __init__(self, mib: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4096, 64 * mib, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def test_memory_is_that_of_a_process_of_its_own(tmp_path: Path) -> None:
    """Whatever this process holds, the weights of the network are what counts."""
    found, given = {}, {"x": torch.ones(1, 4096)}
    for mib in (1, 65):
        module, folder = Wide(mib).eval(), tmp_path / str(mib)
        folder.mkdir()
        deployed = deploy(module, Deployment("onnxruntime"), folder, given)
        found[mib] = memory_mib(deployed, given, network_class(module, None))
    assert 0 < found[1] < 256, "an interpreter, the runtime and one MiB"
    assert 64 < found[65] - found[1] < 4 * 64, found
    deployed.path.write_bytes(b"no network")
    with pytest.raises(RuntimeError, match="a fresh process could not run the files: "):
        memory_mib(deployed, given, network_class(module, None))


@pytest.mark.slow
def test_memory_as_an_objective() -> None:
    supernet = toy_task.supernet()
    found = search(supernet, supernet.space, toy_task.split(4), ["memory_mib"], budget=1, seed=0)
    assert found.measurements[0].values["memory_mib"] > 64, "an interpreter with PyTorch"


def test_memory_in_pytorch_needs_a_class_that_a_fresh_process_can_build() -> None:
    supernet = toy_images.supernet()
    runners = Runners(supernet, SubNetworks(supernet, toy_images.split()), inputs(1), Deployment())
    with pytest.raises(UserError, match=r"needs a network of transformers, .*choose --runtime onnxruntime or openvino"):
        runners.memory_mib(supernet.space.smallest())


def test_energy_needs_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.searching.runners.energy_meter", lambda: None)
    supernet = toy_task.supernet()
    with pytest.raises(UserError, match=r"energy_mj needs the energy counters .*; leave it out of --objectives"):
        search(supernet, supernet.space, toy_task.split(8), ["energy_mj"], budget=1, seed=0)


def test_energy_is_the_mean_of_the_calls_between_start_and_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that goes up by 3 mJ a call, and that was not at zero before."""
    calls = []

    def counted(network: Callable[..., object], given: Inputs) -> object:
        calls.append(network)
        return call(network, given)

    def meter() -> Callable[[], float]:
        started = len(calls)
        return lambda: 3.0 * (len(calls) - started)

    monkeypatch.setattr("nas.searching.runners.call", counted)
    monkeypatch.setattr("nas.searching.runners.energy_meter", lambda: meter)
    supernet = toy_task.supernet()
    names = ["energy_mj", "macs"]
    study = search(supernet, supernet.space, toy_task.split(8), names, budget=3, seed=0)
    assert [each.values["energy_mj"] for each in study.measurements] == [3.0] * 3
    assert len(calls) > 3 * 2, "several calls for each"


# INT8 ----------------------------------------------------------------------------------------------------------------


def undecided() -> tuple[SubNetworks, Supernet, Split]:
    """A network that is right on all rows as long as nothing is rounded: half of them lie on each side of its limit."""
    supernet, rows = toy_images.supernet(), toy_images.split(200, seed=3)
    networks, given = SubNetworks(supernet, toy_images.split(40)), dict(rows.batch(range(len(rows))))
    logits = expected(networks.extract(supernet.space.full()), given)
    supernet.model.get_submodule("head").bias.data[1] -= (logits[:, 1] - logits[:, 0]).median()
    labels = expected(networks.extract(supernet.space.full()), given).argmax(1).numpy().astype(np.int64)
    return networks, supernet, Split(rows.rows, labels, rows.inputs)


def test_an_accuracy_that_int8_costs_is_that_of_the_files(tmp_path: Path) -> None:
    networks, supernet, rows = undecided()
    module, given = networks.extract(supernet.space.full()), dict(rows.batch(range(len(rows))))
    assert rows.task.score(expected(module, given).numpy(), rows) == 1.0
    files = DeployedCandidates(networks, Deployment("onnxruntime", "int8"), inputs(2), CALIBRATION, rows)
    measures = files.measures(["accuracy", "size_mib", "macs"])
    assert set(measures) == {"accuracy", "size_mib"}, "what files decide"
    accuracy, size = (measures[name](supernet.space.full()) for name in ("accuracy", "size_mib"))
    files.close()
    by_hand = deploy(module, files.deployment, tmp_path, inputs(2), calibration=CALIBRATION)
    right = call(by_hand.run, given).argmax(1).numpy() == rows.labels
    assert 0.5 < accuracy < 1.0 and accuracy == right.mean()
    assert size == by_hand.size_mib
