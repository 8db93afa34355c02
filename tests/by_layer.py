"""Small networks in the precision of each layer, for the tests of the runtimes that execute them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn

from hardware import Backend, OnnxRuntimeBackend, OpenVinoBackend
from hardware.backend import Runner, first_output
from hardware.inputs import call
from hardware.layers import kind_of
from hardware.onnx import OPSETS, convert
from hardware.policy import Policy
from hardware.quantized import single_rows
from search_spaces.inputs import Inputs
from search_spaces.quantization import LayerPrecision

RUNTIMES = {"openvino": OpenVinoBackend, "onnxruntime": OnnxRuntimeBackend}


class Text(nn.Module):
    """Embeddings and a block of attention, written plainly; wide enough that weights matter in its files."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(200, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 5)
        self.unused = nn.Linear(width, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        heads = [part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        attended = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = self.norm(x + self.out(attended))
        out: torch.Tensor = self.head((x + self.down(nn.functional.gelu(self.up(x)))).mean(1))
        return out


class Images(nn.Module):
    """A folded batch norm, groups, a shortcut, one channel at a time, a gate for each channel, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.groups, self.alone = nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.squeeze, self.excite = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)
        self.mix, self.head = nn.Conv2d(32, 64, 1, bias=False), nn.Linear(64, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        x = x + torch.relu(self.alone(torch.relu(self.groups(x))))
        gate = torch.relu(self.squeeze(nn.functional.adaptive_avg_pool2d(x, 1)))
        x = x * torch.sigmoid(self.excite(gate))
        out: torch.Tensor = self.head(torch.relu(self.mix(x)).mean((2, 3)))
        return out


@dataclass
class Case:
    """A network, what it reads, and a runtime that remembers it.

    Attributes:
        written: how many files in ONNX were written so far.
    """

    module: nn.Module
    example: Inputs
    run_in: Backend
    written: list[Path]

    @property
    def rows(self) -> list[Inputs]:
        return single_rows(self.example)

    @property
    def layers(self) -> list[str]:
        """The paths of all that can be quantized."""
        return [path for path, part in self.module.named_modules() if kind_of(part) is not None]

    @property
    def products(self) -> list[str]:
        """Those that can compute in INT8."""
        return [path for path in self.layers if kind_of(self.module.get_submodule(path)) != "embedding"]

    def expected(self) -> torch.Tensor:
        with torch.no_grad():
            return first_output(call(self.module, self.example))

    def convert(self, policy: Policy, folder: Path, rows: Sequence[Inputs] | None = None) -> Path:
        return self.run_in.convert(self.module, self.example, folder, precision=policy, calibration=rows)

    def outputs(self, policy: Policy, folder: Path, rows: Sequence[Inputs] | None = None) -> torch.Tensor:
        run = self.run_in.load(self.convert(policy, folder, rows), precision=policy)
        return call(run, self.example)


def case(network: str, runtime: str) -> Case:
    """A new case: "text" or "images" in "openvino" or "onnxruntime"."""
    torch.manual_seed(0)
    module: nn.Module = Text() if network == "text" else Images()
    example = (torch.randint(0, 200, (8, 12)) if network == "text" else torch.randn(8, 3, 12, 12),)
    return case_of(module.eval(), example, runtime)


def case_of(module: nn.Module, example: Inputs, runtime: str) -> Case:
    """A new case of some network."""
    written: list[Path] = []

    def write(
        module: nn.Module,
        inputs: Inputs,
        path: Path,
        *,
        load: Callable[[Path], Runner],
        opsets: Sequence[int] = OPSETS,
    ) -> Path:
        written.append(path)
        return convert(module, inputs, path, load=load, opsets=opsets)

    return Case(module, example, RUNTIMES[runtime](write=write), written)


def everywhere(paths: Sequence[str], precision: LayerPrecision) -> Policy:
    return Policy(dict.fromkeys(paths, precision))


def size(path: Path) -> int:
    """Bytes of all constants of a file, without the description of the graph, which small networks have more of."""
    if path.suffix == ".xml":
        return path.with_suffix(".bin").stat().st_size
    constants = onnx.load(path).graph.initializer
    return sum(len(each.raw_data) or onnx.numpy_helper.to_array(each).nbytes for each in constants)


def error(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Mean square of the difference over that of the expected values."""
    return float(((got - expected) ** 2).mean() / (expected**2).mean())
