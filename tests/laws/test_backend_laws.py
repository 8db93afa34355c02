"""What every runtime must do: compute what the module computes, at any batch and length, on fixed threads."""

import shutil
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hardware import Backend, ConversionError, OnnxRuntimeBackend, PyTorchBackend
from hardware.backend import PRECISIONS, Runner, Writer, first_output, relative_difference
from hardware.layers import kind_of
from hardware.onnx import OPSETS, convert, other_size
from hardware.openvino import OpenVinoBackend
from hardware.policy import Policy
from hardware.quantized import quantized, single_rows
from hardware.registry import NAMES, backend, backends
from search_spaces.inputs import Inputs
from tests.zoo import CASES

BACKENDS: list[Callable[[], Backend]] = [PyTorchBackend, OnnxRuntimeBackend, OpenVinoBackend]
# Largest difference over the largest logit; other weights would give 1 and more. INT8 rounds weights and inputs of each
# layer to 255 steps, and to fewer where a processor has no instructions for it (.21: OpenVINO on one with AVX2 alone).
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.3, "by-layer": 0.3}
FILES = {"weights.safetensors", "model.onnx", "model-int8.onnx", "model-by-layer.onnx", "model.xml", "model.bin"}


class Convolutional(nn.Module):
    """Positional input, plain tensor output, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(image)
        return out


def _text(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[-1, tokens // 2 :] = 0
    ids = torch.randint(1, 30, (rows, tokens), generator=torch.Generator().manual_seed(rows))
    return {"input_ids": ids, "attention_mask": mask}


def _images(rows: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(rows))}


# A name of `tests.zoo`, its inputs to convert with, and others.
NETWORKS: dict[str, tuple[Inputs, list[Inputs]]] = {
    "bert": (_text(16, 16), [_text(1, 8), _text(3, 20)]),
    "bert-eager": (_text(16, 16), [_text(3, 20)]),
    "vit": (_images(16), [_images(1), _images(3)]),
    "hf-resnet": (_images(16), [_images(1), _images(3)]),
}


def _usable() -> list[tuple[str, str]]:
    return [(runtime.name, precision) for runtime in backends() for precision in runtime.precisions]


def _known() -> list[Any]:
    # The eager network has its point in float32 only: the attention written in parts.
    pairs = [(name, *pair) for name in NETWORKS for pair in _usable()]
    known = [each for each in pairs if each[0] != "bert-eager" or each[2] == "float32"]
    quantized = ("int8", "by-layer")
    return [pytest.param(*each, marks=[pytest.mark.slow] if each[2] in quantized else []) for each in known]


def _numbers(precision: str, module: nn.Module) -> torch.dtype | Policy:
    """A precision as backends take it: by layer, every linear layer and convolution is in INT8."""
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    kinds = {path: kind_of(part) for path, part in module.named_modules()}
    return Policy({path: "int8" for path, kind in kinds.items() if kind in ("linear", "convolution")})


@cache
def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name].build().eval()


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """Converts every network once: all runtimes and precisions read copies of the same file."""
    folder, known = tmp_path_factory.mktemp("files"), dict[tuple[int, Sequence[int]], Path]()

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
            known[key] = convert(module, example, folder / f"{len(known)}.onnx", load=load, opsets=opsets)
        return Path(shutil.copy(known[key], path))

    return written


@pytest.mark.parametrize(("name", "runtime", "precision"), _known())
def test_outputs_are_those_of_pytorch(
    name: str, runtime: str, precision: str, write: Writer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module, (example, others) = _network(name), NETWORKS[name]
    run_in, numbers = backend(runtime, write=write), _numbers(precision, module)
    # Without rows, a policy has made-up ranges.
    rows = single_rows(example) if isinstance(numbers, Policy) else None
    path = run_in.convert(module, example, tmp_path, precision=numbers, calibration=rows)
    run = run_in.load(path, threads=1, precision=numbers)
    assert capfd.readouterr().out == ""
    assert {each.name for each in tmp_path.iterdir()} <= FILES
    with torch.no_grad():
        expected = torch.cat([first_output(module(**dict(inputs))) for inputs in (example, *others)])
    got = torch.cat([run(**dict(inputs)) for inputs in (example, *others)])
    assert got.dtype is torch.float32
    assert relative_difference(expected, got) < TOLERANCES[precision]


@pytest.mark.parametrize("make", BACKENDS)
def test_a_module_keeps_its_mode_and_takes_positional_images(make: Callable[[], Backend], tmp_path: Path) -> None:
    module, run_in = Convolutional().train(), make()
    path = run_in.convert(module, (torch.randn(2, 3, 8, 8),), tmp_path)
    assert module.training
    run, image = run_in.load(path), torch.randn(5, 3, 8, 8)
    assert relative_difference(module.eval()(image).detach(), run(image)) < 1e-4


@pytest.mark.parametrize("make", BACKENDS)
def test_threads_of_torch_are_put_back_and_missing_files_refused(make: Callable[[], Backend], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run_in = make()
    path = run_in.convert(Convolutional().eval(), (torch.randn(2, 3, 8, 8),), tmp_path)
    run_in.load(path, threads=before + 1)(torch.randn(2, 3, 8, 8))
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="convert"):
        run_in.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="precision"):
        run_in.load(path, precision=torch.float16)
    with pytest.raises(ValueError, match="precision"):
        run_in.convert(Convolutional(), (torch.randn(2, 3, 8, 8),), tmp_path, precision=torch.float16)


@pytest.mark.parametrize("make", BACKENDS[1:])
def test_a_file_in_another_precision_is_refused(make: Callable[[], Backend], tmp_path: Path) -> None:
    run_in, module, example = make(), Convolutional().eval(), (torch.randn(4, 3, 8, 8),)
    path = run_in.convert(module, example, tmp_path)
    with pytest.raises(ValueError, match=r"must have the precision int8, .* has float32; convert the module in that"):
        run_in.load(path, precision=torch.int8)
    path = run_in.convert(module, example, tmp_path, precision=torch.int8)
    with pytest.raises(ValueError, match=r"must have the precision float32, .* has int8"):
        run_in.load(path)
    assert run_in.load(path, precision=torch.int8)(*example).shape == (4, 5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    module, image, run_in = nn.Linear(4, 3).eval(), torch.randn(2, 4), PyTorchBackend(compiled=True)
    run = run_in.load(run_in.convert(module, (image,), tmp_path))
    assert relative_difference(module(image).detach(), run(image)) < 1e-4


def test_the_table_of_runtimes() -> None:
    found = {runtime.name: runtime for runtime in backends()}
    assert tuple(found) == NAMES
    assert found["pytorch"].usable and "int8" in found["pytorch"].notes
    assert "bfloat16" not in found["onnxruntime"].precisions
    for runtime in found.values():
        assert runtime.usable == (runtime.version is not None)
        assert all(note for note in runtime.notes.values())


@pytest.mark.parametrize(
    ("name", "install"), [("openvino", r"supersieve\[openvino\]"), ("onnxruntime", "pip install onnxruntime")]
)
def test_a_runtime_that_is_not_installed(name: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(library: str) -> str:
        raise PackageNotFoundError(library)

    monkeypatch.setattr("hardware.runtimes.version", version)
    with pytest.raises(ValueError, match=f"{name} cannot be used here: it is not installed; .*{install}"):
        backend(name)
    assert not any(runtime.usable for runtime in backends())


def test_runtimes_that_are_broken_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must be one of pytorch, onnxruntime, openvino, got tflite"):
        backend("tflite")
    with pytest.raises(ValueError, match="on the processor only here, got device cuda"):
        backend("openvino", device="cuda")
    with pytest.raises(ValueError, match="must be cpu or cuda, got tpu"):
        backend("onnxruntime", device="tpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"cannot be used here: .*; pip install"):
        backend("openvino")


def test_cuda_is_not_assumed(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    path = OnnxRuntimeBackend().convert(Convolutional().eval(), (torch.randn(2, 3, 8, 8),), tmp_path)
    with pytest.raises(ValueError, match=r"has no CUDA; install one that has it: .*pip install onnxruntime-gpu"):
        backend("onnxruntime", device="cuda").load(path)


class Data(nn.Module):
    """A branch on values, which no graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot export"):
        OnnxRuntimeBackend().convert(Data(), (torch.randn(2, 3),), tmp_path)
    assert list(tmp_path.iterdir()) == []


class Centred(nn.Module):
    """Something that the exporter fixes: the number of tokens at export."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.float().sum(1, keepdim=True) / float(int(ids.shape[1]) if not torch.compiler.is_exporting() else 8)


def test_outputs_that_differ_at_another_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="differ"):
        OnnxRuntimeBackend().convert(Centred(), (torch.ones(2, 8, dtype=torch.long),), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_size_changes_batch_and_length_only() -> None:
    text = other_size(_text(2, 8))
    assert isinstance(text, dict)
    assert {name: tuple(value.shape) for name, value in text.items()} == {
        "input_ids": (3, 5),
        "attention_mask": (3, 5),
    }
    images = other_size((torch.zeros(2, 3, 8, 8),))
    assert isinstance(images, tuple)
    assert images[0].shape == (3, 3, 8, 8)


def test_first_output() -> None:
    one = torch.ones(1)
    assert first_output(one) is one
    assert first_output({"hidden": torch.zeros(1), "logits": one}) is one
    assert first_output((one, None)) is one
    with pytest.raises(ValueError, match="must be or hold a tensor"):
        first_output({"loss": None})


def test_int8_without_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ValueError, match="int8 needs nncf, which is not installed: pip install nncf"):
        quantized(object(), {"x": (1, 1)}, [(torch.zeros(1, 1),)])
    assert all("int8" not in runtime.precisions for runtime in backends())
