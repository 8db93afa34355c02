"""Overhead of a super-network compared with plain modules: time of a forward, time and memory of a fine-tuning step.

The networks have random weights, and the batch size is 32: MiniLM's sizes with 48 tokens and frozen embeddings, as in
the demo; and, with a prefix to their figures, a ViT and a BEiT-3 of the same sizes and a CIFAR ResNet-20, all on images
of 32 pixels. Times are measured alternately in one process, and each ratio is the median of ratios of measurements that
are neighbours in time. `step_ratio` compares a step of the full network and a random sub-network with a plain step;
`step_expected` is 1 + the mean share of multiply-accumulates of the same sub-networks.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cifar
import numpy as np
import torch
from harness import Figures, Harness, parser
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from nas.data.accuracy import logits_of
from search_spaces import Candidate, Supernet, exact_costs, space, spread
from search_spaces.families.beit3 import Beit3Config, Beit3ForImageClassification

SEED, ROWS, TOKENS, PIXELS, THREADS = 0, 32, 48, 32, 1
_SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_RANGES = {"heads": (3, 6, 9, 12), "ffn": (0.25, 0.5, 0.75, 1.0)}
Step = Callable[[Candidate], Tensor]


@dataclass(frozen=True)
class Family:
    """A network with random weights: its factory, inputs, ranges of sizes, and the targets of its figures."""

    network: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], dict[str, Tensor]]
    classes: int
    forward_target: float = 1.03
    ranges: Mapping[str, Sequence[int | float]] = field(default_factory=lambda: _RANGES)


def _bert() -> nn.Module:
    model = BertForSequenceClassification(BertConfig(**_SIZES))
    model.bert.embeddings.requires_grad_(False)
    return model


def _vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(**_SIZES, image_size=PIXELS, patch_size=4, num_labels=10))


def _beit3() -> nn.Module:
    sizes = {"width": 384, "layers": 6, "heads": 12, "ffn": 1536}
    return Beit3ForImageClassification(Beit3Config(image_size=PIXELS, patch_size=4, **sizes), 10)


def _tokens(rng: torch.Generator) -> dict[str, Tensor]:
    ids = torch.randint(1000, 30000, (ROWS, TOKENS), generator=rng)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _pixels(name: str) -> Callable[[torch.Generator], dict[str, Tensor]]:
    return lambda rng: {name: torch.randn(ROWS, 3, PIXELS, PIXELS, generator=rng)}


FAMILIES = {
    "": Family(_bert, _tokens, 2),
    "vit_": Family(_vit, _pixels("pixel_values"), 10),
    "resnet_": Family(lambda: cifar.ResNet(3), _pixels("pixels"), 10, 1.2, {"channels": (0.25, 0.5, 0.75, 1.0)}),
    "beit3_": Family(_beit3, _pixels("pixel_values"), 10),
}
TARGETS = {
    f"{prefix}{name}": target
    for prefix, family in FAMILIES.items()
    for name, target in (
        ("forward_ratio", f"at most {family.forward_target}"),
        ("step_ratio_over_expected", "at most 1.05" if prefix != "resnet_" else ""),
        ("memory_ratio", "at most 1.6"),
    )
}


def _supernet(family: Family) -> Supernet:
    torch.manual_seed(SEED)
    model = family.network()
    inputs = {name: tensor[:2] for name, tensor in _batch(family)[0].items()}
    ranges: dict[str, Any] = dict(family.ranges)
    return Supernet(model, space(model.eval(), inputs, drop_order=spread, **ranges))


def _batch(family: Family) -> tuple[dict[str, Tensor], Tensor]:
    rng = torch.Generator().manual_seed(SEED)
    return family.inputs(rng), torch.randint(family.classes, (ROWS,), generator=rng)


def _candidates(supernet: Supernet, count: int) -> list[Candidate]:
    rng = np.random.default_rng(SEED)
    return [supernet.space.sample(rng) for _ in range(count)]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _forward(family: Family, count: int) -> Figures:
    """Forward time of shared weights over that of extracted modules; the two alternate, and so does the order."""
    supernet, (batch, _) = _supernet(family).eval(), _batch(family)
    ratios = []
    with torch.inference_mode():
        for index, candidate in enumerate(_candidates(supernet, count)):
            alone = supernet.extract(candidate)
            calls = [lambda c=candidate: supernet(c, **batch), lambda m=alone: m(**batch)]
            for call in calls:
                call()
            times: list[list[float]] = [[], []]
            for turn in range(8):
                for which in (0, 1) if (turn + index) % 2 else (1, 0):
                    times[which].append(_seconds(calls[which]))
            ratios.append(statistics.median(times[0]) / statistics.median(times[1]))
    return {"forward_ratio": statistics.median(ratios)}


def _steps(family: Family, supernet: Supernet) -> tuple[Step, Step]:
    """Times of a plain step of the full network, and of a step of the full network and one sub-network."""
    batch, labels = _batch(family)
    trained = [parameter for parameter in supernet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    largest = supernet.space.largest()

    def update(loss: Tensor) -> Tensor:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def plain(_: Candidate) -> Tensor:
        return update(cross_entropy(logits_of(supernet.model(**batch)), labels))

    def both(candidate: Candidate) -> Tensor:
        full, sub = (logits_of(output) for output in supernet([largest, candidate], **batch))
        taught = kl_div(log_softmax(sub / 5, -1), softmax(full.detach() / 5, -1), reduction="batchmean")
        return update(cross_entropy(full, labels) + cross_entropy(sub, labels) + 25 * taught)

    return plain, both


def _step(family: Family, count: int) -> Figures:
    supernet = _supernet(family).train()
    plain, both = _steps(family, supernet)
    macs = exact_costs(supernet, _batch(family)[0])["macs"]
    candidates = _candidates(supernet, count)
    full = macs(supernet.space.encode([supernet.space.largest()]))[0]
    shares = macs(supernet.space.encode(candidates)) / full
    plain(candidates[0]), both(candidates[0])
    pairs = [(_seconds(lambda c=c: both(c)), _seconds(lambda c=c: plain(c))) for c in candidates]
    # A ratio of sums: steps differ by their candidate, and the expectation is a mean as well.
    halves = [pairs[start::4] for start in range(4)]
    ratios = [sum(b for b, _ in part) / sum(p for _, p in part) for part in halves]
    return {
        "step_ratio": statistics.median(ratios),
        "step_expected": 1 + float(shares.mean()),
        "step_ratio_over_expected": statistics.median(ratios) / (1 + float(shares.mean())),
    }


def _peak_mib(prefix: str, kind: str) -> float:
    """Peak memory in MiB of a separate process that runs five steps of one kind."""
    command = [sys.executable, __file__, "--memory-of", kind, "--family", prefix]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def _measure_memory(family: Family, kind: str) -> None:
    supernet = _supernet(family).train()
    plain, both = _steps(family, supernet)
    for candidate in _candidates(supernet, 5):
        (plain if kind == "plain" else both)(candidate)
    # Not getrusage: on Linux its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")))


def _measure(harness: Harness, prefix: str, count: int) -> Figures:
    family, sizes = FAMILIES[prefix], f"{ROWS} {TOKENS} {PIXELS} {THREADS}"
    forward = harness.stage(
        f"{prefix}forward", lambda: _forward(family, count // 2), candidates=count // 2, sizes=sizes
    )
    step = harness.stage(f"{prefix}step", lambda: _step(family, count), candidates=count, sizes=sizes)
    peaks = harness.stage(
        f"{prefix}memory", lambda: {kind: _peak_mib(prefix, kind) for kind in ("plain", "both")}, sizes=sizes
    )
    figures = {**forward, **step, "memory_ratio": peaks["both"] / peaks["plain"]}
    return {f"{prefix}{name}": value for name, value in figures.items()}


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--memory-of", choices=("plain", "both"), help=argparse.SUPPRESS)
    flags.add_argument(
        "--family", choices=tuple(FAMILIES), help="the prefix of one family; without it all are measured"
    )
    options = flags.parse_args()
    torch.set_num_threads(THREADS)
    if options.memory_of:
        _measure_memory(FAMILIES[options.family], options.memory_of)
        return
    harness = Harness(options)
    figures: Figures = {}
    for prefix in FAMILIES if options.family is None else (options.family,):
        figures |= _measure(harness, prefix, 200 if options.full else 40)
    harness.report(figures, TARGETS, [SEED])


if __name__ == "__main__":
    main()
