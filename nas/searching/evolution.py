"""The evolutionary loop of NSGA-II and of the inner search of LINAS: breed, score, select the survivors.

The loop draws individuals and tells them apart by their keys; how children are bred is an argument of it, and so is who
survives. So it works for integer vectors and for any other structure. The genes of a population are a numpy array whose
first axis counts individuals: integers (n, k) for vectors, objects (n,) for anything else.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from nas.searching import pareto
from nas.searching.domain import Genes
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Space


class Drawn(Protocol):
    """Individuals that can be drawn and told apart. All are canonical, so those with equal keys are equal."""

    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        """Draw `n` random individuals."""

    def keys(self, genes: Genes) -> list[Hashable]:
        """A hashable key of each individual."""


class Genome(Drawn, Protocol):
    """Individuals with the operations of the default breeding."""

    def mutate(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """Make one mutant of each individual."""

    def cross(self, first: Genes, second: Genes, rng: np.random.Generator) -> Genes:
        """Make one child of each pair."""


@dataclass(frozen=True)
class Population:
    """Scored individuals.

    Attributes:
        genes: genes of the individuals (n, ...).
        values: objective values (n, m), minimised.
        violations: total violation of the limits (n,), 0 where all are met.
        born: number of each individual in the order of scoring (n,).
    """

    genes: Genes
    values: FloatArray
    violations: FloatArray
    born: IntArray

    @classmethod
    def of(cls, genes: Genes, values: FloatArray, violations: FloatArray) -> "Population":
        """Make a population whose individuals are numbered from 0."""
        return cls(genes, values, violations, np.arange(len(genes), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.genes)

    def take(self, rows: IntArray) -> "Population":
        """The individuals at `rows`, in that order."""
        return Population(self.genes[rows], self.values[rows], self.violations[rows], self.born[rows])

    @classmethod
    def joined(cls, parts: "Sequence[Population]") -> "Population":
        """Concatenate at least one population."""
        return cls(
            np.concatenate([part.genes for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.violations for part in parts]),
            np.concatenate([part.born for part in parts]),
        )


Score = Callable[[Genes], Population]
"""Scores individuals; see `evolve`."""
Survival = Callable[[Population, int], IntArray]
"""(population, largest number of survivors) -> indices of the survivors, in the order that the selection needs."""
Selection = Callable[[Population, int, np.random.Generator], IntArray]
"""(population, number of parents, generator) -> indices of the parents, which may repeat."""
Breeding = Callable[[Population, int, np.random.Generator], Genes]
"""(population, number of children, generator) -> the children, which may repeat or exist already."""


def tournament_of_two(population: Population, count: int, rng: np.random.Generator) -> IntArray:
    """Select parents by binary tournaments in a population that is sorted, best first."""
    # Of two random indices the smaller one wins.
    pairs = rng.integers(len(population), size=(2, count))
    return np.asarray(pairs.min(axis=0), dtype=np.int64)


@dataclass(frozen=True)
class Crossing:
    """Breeding by crossover and mutation.

    Args:
        genome: operations on the genes.
        crossover: share of children with two parents; the others are mutants of one parent.
        select: chooses the parents.
    """

    genome: Genome
    crossover: float
    select: Selection = tournament_of_two

    def __call__(self, population: Population, count: int, rng: np.random.Generator) -> Genes:
        """Make `count` children."""
        mothers, fathers = (self.select(population, count, rng) for _ in range(2))
        children = population.genes[mothers]
        crossed = rng.random(count) < self.crossover
        children[crossed] = self.genome.cross(children[crossed], population.genes[fathers[crossed]], rng)
        return self.genome.mutate(children, rng)


@overload
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
) -> Iterator[Population]: ...


@overload
def evolve(
    genome: Drawn,
    score: Score,
    survive: Survival,
    first: Genes,
    *,
    size: int,
    offspring: int,
    breeding: Breeding,
    rng: np.random.Generator,
    tries: int = 5,
) -> Iterator[Population]: ...


def evolve(
    genome: Any,
    score: Score,
    survive: Survival,
    first: Genes,
    *,
    size: int,
    offspring: int,
    rng: np.random.Generator,
    crossover: float = 0.0,
    breeding: Breeding | None = None,
    tries: int = 5,
) -> Iterator[Population]:
    """Run an evolution and yield the population after each generation.

    It ends when no new child can be bred.

    Args:
        genome: operations on the genes.
        score: returns the individuals whose scores have become known. These are usually those that were passed, but
            measurements that take time may be returned by a later call.
        survive: chooses the survivors of a population; with the default breeding, best first.
        first: the initial individuals.
        size: number of survivors per generation.
        offspring: number of children per generation; none of them has been scored before.
        rng: random generator.
        crossover: share of children with two parents in the default breeding, `Crossing` by tournaments of two.
        breeding: makes the children in place of that.
        tries: attempts at breeding before random individuals are drawn.
    """
    bred = breeding or Crossing(genome, crossover)
    seen = set(genome.keys(first))
    everyone = score(first)
    born = len(everyone)
    population = everyone.take(survive(everyone, size))
    while True:
        yield population
        children = breed(genome, bred, population, seen, offspring, rng, tries)
        if not len(children):
            return
        scored = score(children)
        scored = replace(scored, born=np.arange(born, born + len(scored), dtype=np.int64))
        born += len(scored)
        # Parents compete with their children (the elitism of NSGA-II), so the best individuals are never lost, unless
        # it is their age that counts.
        everyone = Population.joined([population, scored])
        population = everyone.take(survive(everyone, size))


def breed(
    genome: Drawn,
    breeding: Breeding,
    population: Population,
    seen: set[Hashable],
    count: int,
    rng: np.random.Generator,
    tries: int = 5,
) -> Genes:
    """Breed up to `count` distinct children that are not in `seen`, and add their keys to it.

    If breeding gives too few new children in `tries` attempts, the rest are random individuals. In a nearly exhausted
    space fewer than `count` may be returned.

    Args:
        genome: draws individuals and tells them apart.
        breeding: makes children.
        population: the parents.
        seen: keys of the individuals that exist already; it is changed.
        count: number of children.
        rng: random generator.
        tries: attempts at breeding before random individuals are drawn.
    """
    found: list[Genes] = []
    missing = count
    # In a small space most children have been seen before, so breeding is tried several times.
    for attempt in range(tries + 1):
        # Twice as many as are missing, since some children will have been seen before.
        many = min(count, 2 * missing)
        lost = attempt == tries or len(population) < 2
        children = genome.sample(many, rng) if lost else breeding(population, many, rng)
        new = unseen(genome.keys(children), seen, missing)
        found.append(children[new])
        missing -= len(new)
        if missing == 0:
            break
    return np.concatenate(found)


def unseen(keys: list[Hashable], seen: set[Hashable], limit: int) -> list[int]:
    """Positions of the first `limit` keys that are not in `seen`; these keys are added to it."""
    new: list[int] = []
    for position, key in enumerate(keys):
        if len(new) == limit:
            break
        if key not in seen:
            seen.add(key)
            new.append(position)
    return new


def nsga2_survival(population: Population, size: int) -> IntArray:
    """Survival of NSGA-II (Deb et al. 2002): by constrained rank, then by crowding distance."""
    return pareto.best_first(population.values, population.violations)[:size]


@dataclass(frozen=True)
class VectorGenome:
    """Genome of encoded candidates, integer arrays (n, k) of option indices.

    A mutated gene of an ordered choice moves to a neighbouring option or is drawn uniformly, with equal probability.
    A gene of an unordered choice is always drawn uniformly.

    Args:
        space: the space of the candidates.
        mutation: probability that a gene is mutated.
    """

    space: Space
    mutation: float

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Draw `n` candidates with uniform choices."""
        return self.space.random(n, rng)

    def mutate(self, genes: IntArray, rng: np.random.Generator) -> IntArray:
        """Mutate each gene with the probability `mutation`, and at least one gene of each candidate."""
        # Without the forced gene, many children of small spaces would be copies of their parents and be discarded.
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
        """Uniform crossover: each gene comes from one of the two parents with equal probability."""
        return self.space.canonical(np.where(rng.random(first.shape) < 0.5, first, second))

    def keys(self, genes: IntArray) -> list[Hashable]:
        """The bytes of each canonical row."""
        return row_keys(genes)


def row_keys(rows: IntArray) -> list[Hashable]:
    """The bytes of each of n rows (n, k) of integers."""
    return [row.tobytes() for row in np.ascontiguousarray(rows, dtype=np.int64)]
