"""What a super-network costs over plain modules: time of a forward, time and memory of a fine-tuning step.

MiniLM's sizes (random weights: they do not matter here), batch 32 of 48 tokens, embeddings frozen, as the demo
fine-tunes it. Times are taken interleaved in one process; each ratio is the median of ratios of neighbours in time.
`step_ratio` compares one step of the full network and a random sub-network with one plain step; `step_expected` is what
the multiply-accumulates alone would give, 1 + the mean share of the same sub-networks.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import Figures, Harness, parser
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from transformers import BertConfig, BertForSequenceClassification

from search_spaces import Candidate, Supernet, exact_costs, space, spread

SEED, ROWS, TOKENS, THREADS = 0, 32, 48, 1
TARGETS = {
    "forward_ratio": "at most 1.03",
    "step_ratio": "at most 1.05 x step_expected",
}
Step = Callable[[Candidate], Tensor]


def _supernet() -> Supernet:
    torch.manual_seed(SEED)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model = BertForSequenceClassification(config)
    model.bert.embeddings.requires_grad_(False)
    return Supernet(model, space(model, drop_order=spread, heads=(3, 6, 9, 12), ffn=(0.25, 0.5, 0.75, 1.0)))


def _batch() -> tuple[dict[str, Tensor], Tensor]:
    rng = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1000, 30000, (ROWS, TOKENS), generator=rng)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.randint(2, (ROWS,), generator=rng)


def _candidates(supernet: Supernet, count: int) -> list[Candidate]:
    rng = np.random.default_rng(SEED)
    return [supernet.space.sample(rng) for _ in range(count)]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _forward(count: int) -> Figures:
    """Shared over extracted, over random candidates; the two alternate, and so does who goes first."""
    supernet, (batch, _) = _supernet().eval(), _batch()
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


def _steps(supernet: Supernet) -> tuple[Step, Step]:
    """A plain step of the full network, and a step of the full network and one sub-network."""
    batch, labels = _batch()
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
        return update(cross_entropy(supernet.model(**batch).logits, labels))

    def both(candidate: Candidate) -> Tensor:
        full, sub = (output.logits for output in supernet([largest, candidate], **batch))
        taught = kl_div(log_softmax(sub / 5, -1), softmax(full.detach() / 5, -1), reduction="batchmean")
        return update(cross_entropy(full, labels) + cross_entropy(sub, labels) + 25 * taught)

    return plain, both


def _step(count: int) -> Figures:
    supernet = _supernet().train()
    plain, both = _steps(supernet)
    macs = exact_costs(supernet, _batch()[0])["macs"]
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


def _peak_mib(kind: str) -> float:
    """Peak memory of a process of its own that does five steps of one kind."""
    command = [sys.executable, __file__, "--memory-of", kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def _measure_memory(kind: str) -> None:
    supernet = _supernet().train()
    plain, both = _steps(supernet)
    for candidate in _candidates(supernet, 5):
        (plain if kind == "plain" else both)(candidate)
    # Not getrusage: on Linux its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")))


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--memory-of", choices=("plain", "both"), help=argparse.SUPPRESS)
    options = flags.parse_args()
    torch.set_num_threads(THREADS)
    if options.memory_of:
        _measure_memory(options.memory_of)
        return
    harness = Harness(options)
    count = 200 if options.full else 40
    figures: Figures = harness.stage("forward", lambda: _forward(count // 2), candidates=count // 2)
    figures |= harness.stage("step", lambda: _step(count), candidates=count)
    figures |= harness.stage("memory", lambda: {"memory_ratio": _peak_mib("both") / _peak_mib("plain")})
    harness.report(figures, TARGETS, [SEED])


if __name__ == "__main__":
    main()
