"""The loop over vectors and over another kind of genome; operators stay in the space and give canonical rows."""

from collections.abc import Hashable
from itertools import islice

import numpy as np

from nas.searching.evolution import Genes, Population, VectorGenome, evolve, nsga2_survival
from search_spaces.arrays import IntArray
from search_spaces.space import Choice, Space

SPACE = Space(
    (
        Choice("depth", (1, 2, 3)),
        *(Choice(f"heads.{i}", (2, 4, 6, 8), active_if=("depth", tuple(range(i + 1, 4)))) for i in range(3)),
        Choice("bits", (8, 32), ordered=False),
    )
)
GENOME = VectorGenome(SPACE, 0.2)


def _score(genes: Genes) -> Population:
    total = genes.sum(axis=1).astype(float)
    return Population.of(genes, np.stack([total, (genes[:, 0] - total) ** 2], axis=1), np.zeros(len(genes)))


def test_children_are_canonical_and_in_range() -> None:
    rng = np.random.default_rng(0)
    genes = GENOME.sample(200, rng)
    for children in (GENOME.mutate(genes, rng), GENOME.cross(genes, genes[::-1], rng)):
        assert (SPACE.canonical(children) == children).all()


def test_mutation_hits_at_least_one_gene_and_reaches_every_option() -> None:
    rng = np.random.default_rng(0)
    top = SPACE.encode([SPACE.largest()]).repeat(500, axis=0)
    children = VectorGenome(SPACE, 0.0).mutate(top, rng)
    assert all(len(np.unique(children[:, column])) == count for column, count in enumerate(SPACE.option_counts))
    assert (children != top).any(axis=1).mean() > 0.5


def test_crossover_takes_each_active_gene_from_a_parent() -> None:
    rng = np.random.default_rng(0)
    low = SPACE.encode([SPACE.candidate({"depth": 3, "heads.0": 2, "heads.1": 2, "heads.2": 2, "bits": 8})])
    high = SPACE.encode([SPACE.candidate({"depth": 3, "heads.0": 8, "heads.1": 6, "heads.2": 4, "bits": 32})])
    children = GENOME.cross(low.repeat(100, axis=0), high.repeat(100, axis=0), rng)
    assert ((children == low) | (children == high)).all()
    assert len(np.unique(children, axis=0)) > 10


def test_no_individual_is_scored_twice_and_a_small_space_ends_the_loop() -> None:
    scored: list[bytes] = []

    def score(genes: Genes) -> Population:
        scored.extend(row.tobytes() for row in genes)
        return _score(genes)

    first = np.unique(GENOME.sample(10, np.random.default_rng(1)), axis=0)
    rng = np.random.default_rng(0)
    list(evolve(GENOME, score, nsga2_survival, first, size=10, offspring=20, crossover=0.9, rng=rng))
    assert len(scored) == len(set(scored)) <= SPACE.size()
    assert len(scored) > 0.8 * SPACE.size()


def test_the_survivors_get_no_worse_and_stand_best_first() -> None:
    rng = np.random.default_rng(0)
    first = GENOME.sample(10, rng)
    loop = evolve(GENOME, _score, nsga2_survival, first, size=10, offspring=10, crossover=0.9, rng=rng)
    best = [float(population.values[:, 0].min()) for population in islice(loop, 6)]
    assert best == sorted(best, reverse=True)


class _Words:
    """Strings as genes: the loop must not know what a genome is."""

    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        return np.array(["".join(rng.choice(list("ab"), size=6)) for _ in range(n)], dtype=object)

    def mutate(self, genes: Genes, rng: np.random.Generator) -> Genes:
        places = rng.integers(6, size=len(genes))
        return np.array([w[:i] + "b" + w[i + 1 :] for w, i in zip(genes, places, strict=True)], dtype=object)

    def cross(self, first: Genes, second: Genes, rng: np.random.Generator) -> Genes:
        return np.array([a[:3] + b[3:] for a, b in zip(first, second, strict=True)], dtype=object)

    def keys(self, genes: Genes) -> list[Hashable]:
        return list(genes)


def _youngest(population: Population, size: int) -> IntArray:
    kept = np.argsort(-population.born)[:size]
    return kept[np.argsort(population.values[kept, 0], kind="stable")]


def test_another_genome_and_a_survival_by_age() -> None:
    def score(genes: Genes) -> Population:
        return Population.of(genes, np.array([[w.count("a")] for w in genes], dtype=float), np.zeros(len(genes)))

    rng = np.random.default_rng(3)
    words = _Words()
    first = words.sample(8, rng)
    generations = list(islice(evolve(words, score, _youngest, first, size=8, offspring=4, crossover=0.5, rng=rng), 5))
    ages = [int(population.born.min()) for population in generations]
    assert ages == [0, 4, 8, 12, 16]
