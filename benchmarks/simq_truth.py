"""How well fake quantization tells what files are: accuracies, output errors, and what an evaluation costs."""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from simq_problem import SEED, Problem
from torch import Tensor, nn

from hardware.backend import Backend
from hardware.inputs import call
from hardware.latency import fixed_threads
from hardware.policy import Policy
from hardware.profile import BY_LAYER
from nas.data.accuracy import Logits, predict
from nas.networks.fake_quantization import shared_copy
from nas.networks.policies import policy_of
from nas.seeds import generator
from search_spaces import Candidate
from search_spaces.inputs import Inputs
from search_spaces.quantization import architecture, is_precision, quantizable_layers


def of_joint(problem: Problem) -> dict[str, Any]:
    """Accuracies of random joint candidates by fake quantization, as files, and of the same networks in float32."""
    rng, quantized, backend = generator(SEED, "true joint"), problem.quantized(), problem.backend(BY_LAYER)
    found: dict[str, list[float]] = {"search": [], "files": [], "fp32": []}
    for _ in range(problem.sizes.joint):
        candidate = problem.space.sample(rng)
        module = problem.networks.extract(architecture(candidate))
        files = _of_files(problem, module, candidate, backend)
        for name, logits in (
            ("search", predict(quantized.forward(candidate), problem.searched)),
            ("files", files),
            ("fp32", predict(module, problem.searched)),
        ):
            found[name].append(problem.searched.task.score(logits, problem.searched))
    return found


def of_policies(problem: Problem) -> dict[str, Any]:
    """Accuracies and output errors of policies of the full network that all quantize half of its layers."""
    quantized, backend = problem.quantized(), problem.backend(BY_LAYER)
    module = problem.networks.extract(architecture(problem.full))
    whole = predict(module, problem.searched)
    found: dict[str, list[float]] = {
        "search": [],
        "files": [],
        "search_error": [],
        "files_error": [],
        "plain_error": [],
    }
    for candidate in half_policies(problem):
        policy = policy_of(problem.supernet, candidate)
        logits = {
            "search": predict(quantized.forward(candidate), problem.searched),
            "files": _of_files(problem, module, candidate, backend),
            "plain": predict(plainly_quantized(module, problem.calibration, policy), problem.searched),
        }
        for name in ("search", "files"):
            found[name].append(problem.searched.task.score(logits[name], problem.searched))
        for name, each in logits.items():
            found[f"{name}_error"].append(float(((each - whole) ** 2).mean()))
    return found


def half_policies(problem: Problem) -> list[Candidate]:
    """Policies of the full network in which exactly half of its layers are in INT8, and all else is in float32."""
    rng, layers = generator(SEED, "half of the layers"), list(_int8_choices(problem))
    found: dict[Candidate, None] = {}
    while len(found) < problem.sizes.policies:
        chosen = {layers[index] for index in rng.permutation(len(layers))[: len(layers) // 2]}
        options = {name: "int8" if name in chosen else option for name, option in problem.full.items()}
        found[problem.space.candidate(options)] = None
    return list(found)


def _int8_choices(problem: Problem) -> list[str]:
    layers = {f"precision.{path}" for path, _ in quantizable_layers(problem.supernet.model)}
    return [
        choice.name
        for choice in problem.space.choices
        if is_precision(choice.name) and choice.name in layers and "int8" in choice.options
    ]


def cost_ratios(problem: Problem) -> list[float]:
    """Processor time of quantized evaluations, calibration included, over that of the same networks in float32."""
    rng = generator(SEED, "timed evaluations")
    candidates = [problem.space.sample(rng) for _ in range(problem.sizes.timed)]
    ratios: list[float] = []
    with fixed_threads(1):
        for number, candidate in enumerate([candidates[0], *candidates]):
            ways = [
                partial(problem.networks.forward, architecture(candidate)),
                # A new object has calibrated nothing yet.
                partial(problem.quantized().forward, candidate),
            ]
            order = ways if number % 2 else ways[::-1]
            seconds = {forward: _seconds(forward, problem) for forward in order}
            # The first one warms up.
            if number:
                ratios.append(seconds[ways[1]] / seconds[ways[0]])
    return ratios


def _seconds(forward: Callable[[], Callable[..., Any]], problem: Problem) -> float:
    """Processor time of an evaluation."""
    began = time.process_time()
    predict(forward(), problem.searched)
    return time.process_time() - began


def _of_files(problem: Problem, module: nn.Module, candidate: Candidate, backend: Backend) -> Logits:
    """Logits of the files of a candidate on the rows of the searches."""
    policy = policy_of(problem.supernet, candidate)
    with tempfile.TemporaryDirectory() as scratch:
        path = backend.convert(
            module, problem.example, Path(scratch), precision=policy, calibration=problem.calibration
        )
        return predict(backend.load(path, precision=policy), problem.searched)


def plainly_quantized(module: nn.Module, rows: Sequence[Inputs], policy: Policy) -> nn.Module:
    """A network with its layers in `int8` rounded in the plainest way: for comparison.

    Inputs have one scale and a zero point, from the least and largest value of all rows; weights have a scale for each
    output channel. Nothing is smoothed and no bias corrected.
    """
    twin, paths = shared_copy(module), policy.of("int8")
    ranges = _ranges(module, rows, paths)
    for path, (low, high) in ranges.items():
        layer = twin.get_submodule(path)
        weight = layer.get_parameter("weight").detach()
        flat = weight.abs().flatten(1).amax(1).clamp_min(1e-9) / 127
        rounded = torch.fake_quantize_per_channel_affine(
            weight, flat, torch.zeros(len(flat), dtype=torch.int32), 0, -127, 127
        )
        layer._parameters["weight"] = nn.Parameter(rounded, requires_grad=False)
        scale = max((high - low) / 255, 1e-9)
        zero = round(min(255.0, max(0.0, -low / scale)))
        layer.register_forward_pre_hook(partial(_rounded, scale, zero))
    return twin


def _rounded(scale: float, zero: int, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.fake_quantize_per_tensor_affine(args[0], scale, zero, 0, 255), *args[1:]


def _ranges(module: nn.Module, rows: Sequence[Inputs], paths: Sequence[str]) -> dict[str, tuple[float, float]]:
    found = dict.fromkeys(paths, (0.0, 0.0))

    def observe(path: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        low, high = found[path]
        found[path] = min(low, float(args[0].min())), max(high, float(args[0].max()))

    hooks = [module.get_submodule(path).register_forward_pre_hook(partial(observe, path)) for path in paths]
    try:
        with torch.no_grad():
            for row in rows:
                call(module, row)
    finally:
        for hook in hooks:
            hook.remove()
    return found
