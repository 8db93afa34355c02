"""What filters and the fingerprint spare beside the published rule, and what they lose.

The published rule has no test without training and takes no two layers for one. It trains every layer for a hundred
steps in one network after the other, to the first that fails, and then climbs to large gradients. Ours does the same to
those layers alone that `usable` accepts, whose fingerprint is new, and that let a signal through the networks
(`propagation`). So one run of the published rule tells the steps of both, and a layer is lost if the published rule
accepts it but a filter rejects it, or if it was taken for an earlier one that is not accepted. Steps of training and of
gradient ascent count alike, and so does a forward and backward of a filter.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from cifar_networks import CLASSES
from evonorm_kept import Kept
from evonorm_problem import Problem
from harness import Figures
from scipy.stats import beta

from nas.evolving.domain import LayerDomain
from nas.evolving.propagation import propagation
from nas.evolving.quality import TRAINING, half_way, quality
from nas.evolving.stability import stability
from nas.evolving.usable import usable
from nas.learning.training_config import TrainingConfig
from nas.seeds import generator
from search_spaces.graphs import LayerGraph, published

KNOWN = ("BN-ReLU", "B0", "B1", "B2", "S0", "S1", "S2", "GN-ReLU", "SiLU-GN")
"""Layers whose mutants are tried."""
FEW = 100
"""Steps of the published rule in each network."""
_DOMAIN = LayerDomain("batch")


def training(problem: Problem) -> TrainingConfig:
    """The steps of the rule, in batches of the size of the networks."""
    return replace(TRAINING, steps=FEW, batch_size=problem.sizes.anchors.batch_size)


def bound(problem: Problem, names: Sequence[str], steps: int) -> float:
    """The least accuracy (0..1) after so many steps in these networks, as `nas evolve` measures it."""
    return half_way(
        {name: problem.anchors[name] for name in names},
        problem.train,
        problem.scored,
        outputs=len(CLASSES),
        seed=problem.seed,
        groups=problem.sizes.anchors.groups,
        training=replace(training(problem), steps=steps),
    )


@dataclass(frozen=True)
class PublishedRule:
    """The published rule as a function of a layer, which workers receive.

    Args:
        problem: rows and networks.
        least_accuracy: after the hundred steps (0..1).
    """

    problem: Problem
    least_accuracy: float

    def __call__(self, graph: LayerGraph) -> dict[str, Any]:
        """Which test rejects a layer (None: it is accepted) and the steps until then, as JSON data."""
        problem, steps = self.problem, 0
        common: dict[str, Any] = {"seed": problem.seed, "groups": problem.sizes.anchors.groups}
        for name, network in problem.anchors.items():
            verdict = quality(
                graph,
                {name: network},
                problem.train,
                problem.scored,
                training=training(problem),
                least_accuracy=self.least_accuracy,
                **common,
            )
            steps += verdict.steps
            if not verdict.accepted:
                return {"rejected_by": name, "steps": steps}
        verdict = stability(graph, next(iter(problem.anchors.values())), problem.train, **common)
        return {"rejected_by": verdict.rejected_by, "steps": steps + verdict.steps}


@dataclass(frozen=True)
class FirstStep:
    """The test of the first step in all networks as a function of a layer, which workers receive."""

    problem: Problem

    def __call__(self, graph: LayerGraph) -> dict[str, Any]:
        """Whether a layer lets a signal through, and the steps until that is known, as JSON data."""
        problem = self.problem
        verdict = propagation(
            graph,
            problem.anchors,
            problem.train,
            seed=problem.seed,
            groups=problem.sizes.anchors.groups,
            batch_size=problem.sizes.anchors.batch_size,
        )
        return {"let_through": verdict.accepted, "first_steps": verdict.steps}


@dataclass(frozen=True)
class Rules:
    """Both rules with what is kept of their results.

    Args:
        published: the published rule.
        trained: its results.
        first_step: our filter that needs networks.
        passed: its results.
    """

    published: PublishedRule
    trained: Kept
    first_step: FirstStep
    passed: Kept


@dataclass(frozen=True)
class Tried:
    """A layer of a stream, with what both rules make of it.

    Args:
        graph: the layer.
        function: its fingerprint.
        usable: whether it passes the test alone.
        first: whether no earlier layer of the stream computes the same.
        let_through: whether it passes the test of the first step; it is asked of usable first ones alone.
        first_steps: of that test.
        rejected_by: the network, or "stability", by which the published rule rejects it; None: it is accepted.
        steps: of the published rule.
    """

    graph: LayerGraph
    function: str
    usable: bool
    first: bool
    let_through: bool
    first_steps: int
    rejected_by: str | None
    steps: int

    @property
    def accepted(self) -> bool:
        """Whether the published rule accepts it."""
        return self.rejected_by is None

    @property
    def stopped_by(self) -> str:
        """What our rule says of it."""
        if not self.usable:
            return "without training"
        if not self.first:
            return "fingerprint"
        if not self.let_through:
            return "first step"
        return self.rejected_by or "accepted"

    @property
    def kept(self) -> bool:
        """Whether our rule accepts what computes the same, of which this is the first."""
        return self.usable and self.let_through and self.accepted

    @property
    def our_steps(self) -> int:
        """The steps of our rule."""
        if not (self.usable and self.first):
            return 0
        return self.first_steps + (self.steps if self.let_through else 0)


def random_layers(problem: Problem) -> list[LayerGraph]:
    """The stream of random layers."""
    rng = generator(problem.seed, "random layers")
    return [_DOMAIN.draw(rng) for _ in range(problem.sizes.random_layers)]


def mutants(sources: Sequence[LayerGraph], seed: int) -> Iterator[LayerGraph]:
    """Mutants of layers in turn, without end."""
    rng = generator(seed, "mutants")
    while True:
        for source in sources:
            yield _DOMAIN.mutant(source, rng)


def streams(problem: Problem, rules: Rules) -> dict[str, list[Tried]]:
    """All streams, tried by both rules: known layers, random ones, and mutants.

    Mutants are of the known layers that the rule accepts, because those of others are hardly ever accepted. They go on
    until it accepts enough of them.
    """
    sources = [published(name).canonical() for name in KNOWN[: problem.sizes.known]]
    found = {
        "known": tried(sources, rules, "Known layers"),
        "random": tried(random_layers(problem), rules, "Random layers"),
    }
    good = [each.graph for each in found["known"] if each.accepted]
    source, taken = mutants(good or sources, problem.seed), list[LayerGraph]()
    while True:
        taken += islice(source, problem.sizes.round)
        found["mutants"] = tried(taken, rules, f"Mutants, {len(taken)}")
        enough = len(accepted(found.values())) >= problem.sizes.accepted
        if enough or len(taken) >= problem.sizes.most_mutants:
            return found


def tried(stream: Sequence[LayerGraph], rules: Rules, title: str) -> list[Tried]:
    """What both rules make of a stream; equal graphs are trained once and counted as often as they are there."""
    # Graphs of one canonical form are one computation, whatever rule asks for it.
    trained = rules.trained(title, rules.published, {graph.key: graph for graph in stream})
    functions = [str(_DOMAIN.key(graph)) for graph in stream]
    firsts = {function: number for number, function in reversed(list(enumerate(functions)))}
    first = [firsts[function] == number for number, function in enumerate(functions)]
    good = [usable(graph).accepted for graph in stream]
    asked = [one and other for one, other in zip(first, good, strict=True)]
    passed = rules.passed(
        f"{title}, first step",
        rules.first_step,
        {graph.key: graph for graph, of in zip(stream, asked, strict=True) if of},
    )
    return [
        Tried(
            graph,
            function,
            good[number],
            first[number],
            **(passed[graph.key] if of else {"let_through": True, "first_steps": 0}),
            **trained[graph.key],
        )
        for number, (graph, function, of) in enumerate(zip(stream, functions, asked, strict=True))
    ]


def accepted(found: Iterable[Sequence[Tried]]) -> set[str]:
    """The functions that the published rule accepts."""
    return {each.function for stream in found for each in stream if each.accepted}


def lost(found: Mapping[str, Sequence[Tried]]) -> tuple[int, int]:
    """(lost, accepted) different graphs that the published rule accepts; see the beginning of this file."""
    graphs: dict[str, bool] = {}
    for stream in found.values():
        firsts = {each.function: each for each in stream if each.first}
        for each in stream:
            if each.accepted:
                graphs[each.graph.key] = not each.usable or not firsts[each.function].kept
    return sum(graphs.values()), len(graphs)


def merged(found: Mapping[str, Sequence[Tried]]) -> tuple[int, int]:
    """(with another verdict, all) different usable graphs that were taken for an earlier, different one."""
    pairs: dict[tuple[str, str], bool] = {}
    for stream in found.values():
        firsts = {each.function: each for each in stream if each.first}
        for each in stream:
            other = firsts[each.function]
            if each.usable and each.graph.key != other.graph.key:
                pairs[each.graph.key, other.graph.key] = each.accepted != other.accepted
    return sum(pairs.values()), len(pairs)


def interval(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson (1934) for a share; both count and all are at least 0, 0."""
    low = float(beta.ppf(0.025, count, of - count + 1)) if count else 0.0
    return low, float(beta.ppf(0.975, count + 1, of - count)) if count < of else 1.0


def as_json(found: Mapping[str, Sequence[Tried]]) -> dict[str, Any]:
    """The streams as JSON data."""
    return {
        name: [{**vars(each), "graph": json.loads(each.graph.to_json())} for each in stream]
        for name, stream in found.items()
    }


def from_json(data: Mapping[str, Any]) -> dict[str, list[Tried]]:
    """What `as_json` wrote."""
    return {
        name: [Tried(**{**each, "graph": LayerGraph.from_json(json.dumps(each["graph"]))}) for each in stream]
        for name, stream in data.items()
    }


def figures(found: Mapping[str, Sequence[Tried]]) -> Figures:
    """Steps saved, by stream, and the share of accepted layers that are lost, with its interval."""
    made: Figures = {}
    for name, stream in found.items():
        ours = sum(each.our_steps for each in stream)
        if ours and name != "known":
            figure = "training_saved" if name == "random" else f"training_saved_{name}"
            made[figure] = sum(each.steps for each in stream) / ours
    count, of = lost(found)
    if of:
        low, high = interval(count, of)
        made |= {"false_rejects": count / of, "false_rejects_low": low, "false_rejects_high": high}
        made |= {"false_rejects_of": of, "false_rejects_functions": len(accepted(found.values()))}
    return made


def table(found: Mapping[str, Sequence[Tried]]) -> str:
    """By stream: the share of layers that each test rejects, by our rule and by the published one, and the steps."""
    lines = ["Layers, by what rejects them first, %:"]
    for name, stream in found.items():
        ours = Counter(each.stopped_by for each in stream)
        theirs = Counter(each.rejected_by or "accepted" for each in stream)
        lines.append(f"  {name}, {len(stream)} layers")
        lines.append(f"    ours       {_shares(ours)}; {sum(each.our_steps for each in stream)} steps")
        lines.append(f"    published  {_shares(theirs)}; {sum(each.steps for each in stream)} steps")
    good = ", ".join(name for name, each in zip(KNOWN, found.get("known", ()), strict=False) if each.accepted)
    lines.append(f"  known layers that the published rule accepts: {good or 'none'}")
    count, of = lost(found)
    other, pairs = merged(found)
    low, high = interval(count, of) if of else (0.0, 1.0)
    lines.append(
        f"  lost: {count} of {of} that the published rule accepts (95 % interval {low:.3f} to {high:.3f}), "
        f"{len(accepted(found.values()))} different functions"
    )
    lines.append(f"  taken for an earlier graph of the same function: {pairs}, {other} with another verdict")
    return "\n".join(lines)


def _shares(counts: Counter[str]) -> str:
    total = counts.total()
    return ", ".join(f"{name} {100 * count / total:.1f}" for name, count in counts.most_common())
