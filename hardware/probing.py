"""Which precisions of layers a runtime executes faster or smaller on this machine, found by running each."""

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from hardware.backend import Backend, ConversionError, Runner
from hardware.inputs import call
from hardware.latency import measure_latency
from hardware.layers import Kind, kind_of
from hardware.policy import Policy
from hardware.quantized import SEVEN_BITS
from hardware.registry import backend, runtime_kind
from search_spaces.inputs import Inputs
from search_spaces.quantization import LayerPrecision

PROBED = ("int8", "int8-asymmetric", "int8-weights", "int4-weights", "bfloat16")
# A precision is worth offering from this speed-up on, or from this share of the float32 file downwards.
_FASTER, _SMALLER = 1.05, 0.8
_ROUNDS, _WARM_UP = 15, 4


@dataclass(frozen=True)
class Probe:
    """What one precision does to one kind of layer in a runtime.

    Attributes:
        runs: whether the runtime executes it.
        speed_up: CPU time in float32 over that in the precision, on one thread; 0 if it does not run.
        size_ratio: bytes of the files over those in float32; 1 if it does not run.
        saturates: whether sums of INT8 products are cut off on this processor, so that weights have 7 bits only.
        note: why it does not run, or what is particular about it; may be empty.
    """

    runs: bool
    speed_up: float
    size_ratio: float
    saturates: bool
    note: str

    @property
    def worth(self) -> bool:
        """Whether it is faster by 5 % or smaller by 20 %."""
        return self.runs and (self.speed_up >= _FASTER or self.size_ratio <= _SMALLER)


@dataclass(frozen=True)
class Offer:
    """A precision that is worth a search.

    Attributes:
        kinds: the kinds of layers for which it is, and what it does to them.
    """

    kinds: Mapping[Kind, Probe]

    @property
    def note(self) -> str:
        """What is particular about it, each remark once."""
        return "; ".join(dict.fromkeys(each.note for each in self.kinds.values() if each.note))


def gaining_precisions(runtime: str, kinds: Collection[Kind]) -> dict[str, Offer]:
    """The precisions that make layers of these kinds faster by 5 % or smaller by 20 % in a runtime on this machine.

    The first call for a kind takes seconds, later ones in the process nothing.

    Args:
        runtime: one of `hardware.registry.NAMES`.
        kinds: of the layers of a network.

    Returns:
        Offers by precision: those of layers except float32, `int8-asymmetric` for weights in INT8 with a zero point,
        and `bfloat16` for all that stays in floating point.

    Raises:
        ValueError: an unknown runtime, or one that is not installed.
    """
    found = {}
    for precision in PROBED:
        probes = {kind: probe(runtime, kind, precision) for kind in kinds}
        worthy = {kind: each for kind, each in probes.items() if each.worth}
        if worthy:
            found[precision] = Offer(worthy)
    return found


def probe(runtime: str, kind: Kind, precision: str) -> Probe:
    """What a precision does to a kind of layer in a runtime on this machine.

    Args:
        runtime: one of `hardware.registry.NAMES`.
        kind: of layer.
        precision: as in the result of `gaining_precisions`.

    Raises:
        ValueError: an unknown runtime or precision, or a runtime that is not installed.
    """
    if precision not in PROBED:
        raise ValueError(f"a probe must be of one of {', '.join(PROBED)}, got {precision}")
    return _probes(runtime, kind)[precision]


@cache
def _probes(runtime: str, kind: Kind) -> Mapping[str, Probe]:
    """Every precision on one network, timed in turns with float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, inputs = _NETWORKS[kind]()
    paths = [path for path, part in network.named_modules() if kind_of(part) is not None]
    policies = {"float32": Policy(), **_policies(paths)}
    runs: dict[str, Runner] = {}
    sizes: dict[str, int] = {}
    notes: dict[str, str] = {}
    converter = backend(runtime)
    for precision, policy in policies.items():
        try:
            runs[precision], sizes[precision] = _loaded(converter, network, inputs, policy)
        except (ConversionError, ValueError) as error:
            notes[precision] = str(error)
    times = _cpu_times(runs, inputs)
    found = {precision: Probe(False, 0.0, 1.0, False, note) for precision, note in notes.items()}
    for precision in runs.keys() - {"float32"}:
        saturates = precision.startswith("int8") and precision != "int8-weights" and runtime_kind(runtime).saturates()
        speed_up, size_ratio = times["float32"] / times[precision], sizes[precision] / sizes["float32"]
        found[precision] = Probe(True, speed_up, size_ratio, saturates, SEVEN_BITS if saturates else "")
    return found


def _policies(paths: Collection[str]) -> dict[str, Policy]:
    layers: tuple[LayerPrecision, ...] = ("int8", "int8-weights", "int4-weights")
    found: dict[str, Policy] = {precision: Policy(dict.fromkeys(paths, precision)) for precision in layers}
    found["int8-asymmetric"] = Policy(found["int8"].layers, asymmetric=frozenset(paths))
    found["bfloat16"] = Policy(floating="bfloat16")
    return found


def _loaded(converter: Backend, network: nn.Module, inputs: Inputs, policy: Policy) -> tuple[Runner, int]:
    """The network in a policy, and the bytes of its files."""
    with tempfile.TemporaryDirectory() as scratch:
        path = converter.convert(network, inputs, Path(scratch), precision=policy)
        run = converter.load(path, precision=policy)
        call(run, inputs)
        return run, sum(each.stat().st_size for each in Path(scratch).iterdir())


def _cpu_times(runs: Mapping[str, Runner], inputs: Inputs) -> dict[str, float]:
    """The median CPU time of a call of each, on one thread."""
    if not runs:
        return {}
    measured = measure_latency(list(runs.values()), inputs, repeats=_ROUNDS, warmup=_WARM_UP)
    return {precision: each.cpu_ms for precision, each in zip(runs, measured, strict=True)}


def _linear() -> tuple[nn.Module, Inputs]:
    # The feed-forward layers of a small transformer at 128 tokens.
    layers = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))
    return layers.eval(), (torch.randn(1, 128, 384),)


def _convolution() -> tuple[nn.Module, Inputs]:
    layers = [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers).eval(), (torch.randn(1, 64, 32, 32),)


def _embedding() -> tuple[nn.Module, Inputs]:
    return nn.Embedding(8192, 384).eval(), (torch.randint(0, 8192, (1, 128)),)


_NETWORKS: Mapping[Kind, Callable[[], tuple[nn.Module, Inputs]]] = {
    "linear": _linear,
    "convolution": _convolution,
    "embedding": _embedding,
}
