"""Made-up timings and profiles: latencies that are known, and nothing that is measured."""

from collections.abc import Callable

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from hardware.machine import this_machine
from hardware.profile import DeviceProfile, MeasurementProtocol, Timing
from nas.profiling.subject import Subject
from search_spaces import Candidate, Supernet, exact_costs, space

FULL_MS = 20.0


def subject() -> Subject:
    """A tiny BERT with 4 blocks of 4 heads and 64 features."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).eval()
    supernet = Supernet(model, space(model, depth=(2, 3, 4), heads=(1, 2, 4), ffn=(16, 32, 64)))
    ids = torch.arange(16).reshape(1, 16)
    return Subject("tiny", supernet, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, supernet.space)


def timing(ratio: float, *, stable: bool = True) -> Timing:
    """Of a network that takes `ratio` times as long as the full one."""
    time = FULL_MS * ratio
    return Timing(
        median_ms=time,
        p95_ms=time,
        quartiles=(time, time),
        cpu_ms=time,
        noise=0.0,
        samples=(time,),
        ratio=ratio,
        cpu_ratio=ratio,
        half_width=0.0,
        stable=stable,
    )


def profile(of: Subject, **other: object) -> DeviceProfile:
    """Without rows, of this machine."""
    settings: dict[str, object] = {
        "model": of.model,
        "machine": this_machine(),
        "runtime": "pytorch",
        "runtime_version": torch.__version__,
        "precision": "float32",
        "threads": 1,
        "batch": of.batch,
        "tokens": of.tokens,
        "shape": of.shape,
        "protocol": MeasurementProtocol(),
        "reference": timing(1.0),
        "rows": (),
    }
    return DeviceProfile.model_validate(settings | other)


def known_latency(of: Subject, noise: float = 0.0) -> Callable[[Candidate], float]:
    """A ratio to the full network: a fixed part, a part for every operation, and noise that is the candidate's own."""
    whole = of.supernet.space
    macs = exact_costs(of.supernet, {name: value.repeat(2, 1) for name, value in of.inputs.items()})["macs"]
    full = float(macs(whole.encode([whole.largest()]))[0])

    def ratio(candidate: Candidate) -> float:
        row = whole.encode([candidate])
        drawn = np.random.default_rng(row[0] + 1).standard_normal() if noise else 0.0
        return float(0.2 + 0.8 * macs(row)[0] / full) * (1 + noise * float(drawn))

    return ratio
