"""Studies that were never measured, for the tests of reports: a made-up network of six blocks."""

from collections.abc import Sequence

import numpy as np

from nas.learning.finetuned import ProbeRecord
from nas.profiling.verification import Verified
from nas.reporting.search_page import Reported, Training
from nas.reporting.table import Marks
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study
from search_spaces import Candidate, Choice, Space

BLOCKS = 6
LAYERS = (
    *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    *("intermediate.dense", "output.dense"),
)
ACCURACY, R2 = Objective("accuracy", "maximize"), Objective("r2", "maximize")
LATENCY, MACS, SIZE = Objective("latency_ms"), Objective("macs"), Objective("size_mib")


def space(blocks: int = BLOCKS) -> Space:
    depths = tuple(range(blocks - 2, blocks + 1))
    choices = [Choice("depth", depths)]
    for block in range(blocks):
        condition = None if block < depths[0] else ("depth", tuple(d for d in depths if d > block))
        choices.append(Choice(f"heads.{block}", (6, 9, 12), active_if=condition))
        choices.append(Choice(f"ffn.{block}", (384, 768, 1152, 1536), active_if=condition))
    return Space(tuple(choices))


def precisions(
    blocks: int = BLOCKS,
    options: tuple[str, ...] = ("int8", "float32"),
    embeddings: tuple[str, ...] = ("int8-weights", "float32"),
    floating: tuple[str, ...] = ("bfloat16", "float32"),
) -> Space:
    """The precisions of the layers of that network, 38 where it has six blocks."""
    depth, choices = space(blocks)["depth"], []
    for block in range(blocks):
        kept = tuple(d for d in depth.options if isinstance(d, int) and d > block)
        condition = ("depth", kept) if len(kept) < len(depth.options) else None
        choices += [Choice(f"precision.bert.encoder.layer.{block}.{name}", options, condition) for name in LAYERS]
    choices += [Choice(f"precision.{name}", options) for name in ("bert.pooler.dense", "classifier")]
    choices += [Choice("precision.embeddings", embeddings)] if embeddings else []
    choices += [Choice("floating", floating)] if floating else []
    return Space(tuple(choices))


def study(
    objectives: Sequence[Objective],
    count: int = 60,
    *,
    failed: int = 0,
    full: bool = True,
    of: Space | None = None,
) -> Study:
    """So many candidates with made-up values, the full network first; then so many that failed."""
    whole, rng = of or space(), np.random.default_rng(0)
    ends = [whole.full(), whole.smallest()] if full else []
    found = dict.fromkeys([*ends, *whole.decode(whole.random(2 * (count + failed), rng))])
    candidates = list(found)[: count + failed]
    assert len(candidates) == count + failed
    measured = [Measurement(c, _values(c, objectives, rng), "measured", None, 1.0) for c in candidates[:count]]
    lost = [Measurement(c, {}, "failed", "<b>why</b>", 1.0) for c in candidates[count:]]
    return Study(whole, objectives, [*measured, *lost])


def reported(found: Study, *, again: bool = False, limits: dict[str, float] | None = None, **more: object) -> Reported:
    """That study as its report has it; with `again` the front was measured again."""
    verified = [
        Verified(m.candidate, m.values, {name: 1.01 * value for name, value in m.values.items()})
        for m in found.front()
        if again
    ]
    probes = [ProbeRecord(step=60 * n, largest=0.7, smallest=None, random=[0.6, 0.5]) for n in range(1, 5)]
    chosen = found.select(limits) if found.front() else None
    settings: dict[str, object] = {
        "run": "run",
        "name": "default",
        "model": "/home/me/a-model",
        "verified": verified,
        "conditions": {"machine": "a machine, 2 cores", "runtime": "pytorch", "threads": 1},
        "finetuning": {"model": "/home/me/a-model", "steps": 360, "seed": 0, "augment": False},
        "search": {"objectives": "", "algorithm": "linas", "seed": 0},
        "classes": ("negative", "positive"),
        "rows": {"train": 700, "validation": 150, "test": 150},
        "versions": {"torch": "2.13.0"},
        "training": Training(probes, "accuracy", 120, 240),
        **more,
    }
    marks = Marks(found.find(found.space.full()), chosen)
    return Reported(study=found, marks=marks, **settings)  # type: ignore[arg-type]


def _values(candidate: Candidate, objectives: Sequence[Objective], rng: np.random.Generator) -> dict[str, float]:
    blocks = sum(name.startswith("heads.") for name in candidate)
    options = [(candidate[f"heads.{b}"] or 0, candidate[f"ffn.{b}"] or 0) for b in range(blocks)]
    size = sum(float(heads) / 12 + float(ffn) / 768 for heads, ffn in options) / (3 * blocks)  # type: ignore[arg-type]
    layers = [option for name, option in candidate.items() if name.startswith("precision.") and option]
    size *= 1 - 0.5 * sum(option != "float32" for option in layers) / max(1, len(layers))
    score = 0.868 - 0.12 * (1 - size) ** 2 + rng.normal(0, 0.004)
    costs = {"latency_ms": 28.3 * (0.15 + 0.85 * size), "macs": 2.1e9 * size, "size_mib": 86 * (0.5 + 0.5 * size)}
    known = {"accuracy": score, "r2": score, **costs}
    # Other objectives have nothing to do with the size, so that most candidates are on the front of many of them.
    return {o.name: known.get(o.name, 1 + rng.random()) * (1 + rng.normal(0, 0.01)) for o in objectives}
