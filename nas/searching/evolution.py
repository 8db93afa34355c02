"""The one search loop: breed from the best, score, let the survival decide who stays.

Of a genome it needs four operations on whole populations (sample, mutate, cross, keys), so it serves integer vectors
and any other structure alike. A population's genes are a numpy array whose first axis counts individuals: integers
(n, k) for vectors, objects (n,) for anything else.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nas.searching import pareto
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Space

Genes = npt.NDArray[Any]


class Genome(Protocol):
    """The operations on genes; every result is canonical, so that equal keys mean equal individuals."""

    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        """`n` random individuals."""

    def mutate(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """One mutant of each individual."""

    def cross(self, first: Genes, second: Genes, rng: np.random.Generator) -> Genes:
        """One child of each pair."""

    def keys(self, genes: Genes) -> list[Hashable]:
        """One canonical key an individual."""


@dataclass(frozen=True)
class Population:
    """Scored individuals: `values` (n, m) minimised, `violations` (n,) 0 where limits are met, `born` (n,) in order."""

    genes: Genes
    values: FloatArray
    violations: FloatArray
    born: IntArray

    @classmethod
    def of(cls, genes: Genes, values: FloatArray, violations: FloatArray) -> "Population":
        """Individuals numbered from 0."""
        return cls(genes, values, violations, np.arange(len(genes), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.genes)

    def take(self, rows: IntArray) -> "Population":
        """The individuals at `rows`, in that order."""
        return Population(self.genes[rows], self.values[rows], self.violations[rows], self.born[rows])

    @classmethod
    def joined(cls, parts: "Sequence[Population]") -> "Population":
        """All of at least one population, in their order."""
        return cls(
            np.concatenate([part.genes for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.violations for part in parts]),
            np.concatenate([part.born for part in parts]),
        )


Score = Callable[[Genes], Population]
Survival = Callable[[Population, int], IntArray]


def evolve(
    genome: Genome,
    score: Score,
    survive: Survival,
    first: Genes,
    *,
    size: int,
    offspring: int,
    crossover: float,
    rng: np.random.Generator,
) -> Iterator[Population]:
    """Yield the population, best first, after every generation; ends when no unseen child can be bred.

    Args:
        score: gives the individuals whose scores became known, usually those passed; measurements that take time may
            come back in a later call.
        survive: indices of the survivors of a population, at most the given number, best first.
        first: the individuals to begin with.
        size: survivors a generation.
        offspring: children a generation, none of them scored before.
        crossover: the share of children that have two parents; the others are mutants of one.
    """
    seen = set(genome.keys(first))
    everyone = score(first)
    born = len(everyone)
    population = everyone.take(survive(everyone, size))
    while True:
        yield population
        children = breed(genome, population, seen, offspring, crossover, rng)
        if not len(children):
            return
        scored = score(children)
        scored = replace(scored, born=np.arange(born, born + len(scored), dtype=np.int64))
        born += len(scored)
        everyone = Population.joined([population, scored])
        population = everyone.take(survive(everyone, size))


def breed(
    genome: Genome,
    population: Population,
    seen: set[Hashable],
    count: int,
    crossover: float,
    rng: np.random.Generator,
    tries: int = 5,
) -> Genes:
    """Up to `count` distinct children whose keys are not in `seen`, to which they are added.

    Parents win a tournament of two (the population stands best first). Where breeding gives too few new children,
    random individuals fill up.
    """
    found: list[Genes] = []
    missing = count
    for attempt in range(tries + 1):
        many = min(count, 2 * missing)
        if attempt == tries or len(population) < 2:
            children = genome.sample(many, rng)
        else:
            mothers, fathers = rng.integers(len(population), size=(2, 2, many)).min(axis=1)
            children = population.genes[mothers]
            crossed = rng.random(many) < crossover
            children[crossed] = genome.cross(children[crossed], population.genes[fathers[crossed]], rng)
            children = genome.mutate(children, rng)
        new = unseen(genome.keys(children), seen, missing)
        found.append(children[new])
        missing -= len(new)
        if missing == 0:
            break
    return np.concatenate(found)


def unseen(keys: list[Hashable], seen: set[Hashable], limit: int) -> list[int]:
    """Positions of the first `limit` keys that are new; they are added to `seen`."""
    new: list[int] = []
    for position, key in enumerate(keys):
        if len(new) == limit:
            break
        if key not in seen:
            seen.add(key)
            new.append(position)
    return new


def nsga2_survival(population: Population, size: int) -> IntArray:
    """NSGA-II (Deb et al. 2002): the best by rank under the limits, then by crowding distance."""
    return pareto.best_first(population.values, population.violations)[:size]


@dataclass(frozen=True)
class VectorGenome:
    """Encoded candidates of a space, int arrays (n, k).

    `mutation`: probability that a gene changes. A mutated gene of an ordered choice moves by one option as often as it
    is drawn anew; others are always drawn anew.
    """

    space: Space
    mutation: float

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """`n` candidates, every choice uniform."""
        return self.space.random(n, rng)

    def mutate(self, genes: IntArray, rng: np.random.Generator) -> IntArray:
        """Change each gene with the probability `mutation`, and at least one gene of each candidate."""
        hit = rng.random(genes.shape) < self.mutation
        forced = rng.integers(genes.shape[1], size=len(genes))
        hit[np.arange(len(genes)), forced] |= ~hit.any(axis=1)
        rows, columns = np.nonzero(hit)
        counts, old = self.space.option_counts[columns], genes[rows, columns]
        drawn = rng.integers(0, counts)
        stepped = old + np.where(rng.random(len(rows)) < 0.5, -1, 1)
        step = self._ordered[columns] & (rng.random(len(rows)) < 0.5) & (stepped >= 0) & (stepped < counts)
        mutants = genes.copy()
        mutants[rows, columns] = np.where(step, stepped, drawn)
        return self.space.canonical(mutants)

    @cached_property
    def _ordered(self) -> npt.NDArray[np.bool_]:
        return np.array([choice.ordered for choice in self.space.choices], dtype=np.bool_)

    def cross(self, first: IntArray, second: IntArray, rng: np.random.Generator) -> IntArray:
        """Uniform crossover."""
        return self.space.canonical(np.where(rng.random(first.shape) < 0.5, first, second))

    def keys(self, genes: IntArray) -> list[Hashable]:
        """The bytes of each canonical row."""
        rows = np.ascontiguousarray(genes, dtype=np.int64)
        return [row.tobytes() for row in rows]
