"""Ageing evolution, the search of EvoNorm (Liu et al. 2020, arXiv 2004.02967, section 4.3), over any domain.

Only the most recent candidates are parents. A tournament among a share of them chooses each parent, whose mutant is
measured next; or a random candidate is, in its place. Age in place of rank decides who stays, so a candidate that was
measured well by luck does not stay for ever (Real et al. 2019, arXiv 1802.01548).

Differs, or is not told in the paper: candidates that failed have no place in the window; a tournament has each member
once, and at least two; no candidate is measured twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Unpack

import numpy as np

from nas.errors import UserError
from nas.searching import pareto
from nas.searching.domain import C, Domain, Genes
from nas.searching.evolution import Population, Selection, evolve, unseen
from nas.searching.identity import SearchIdentity
from nas.searching.measurement import Evaluate, Objective, Staged, WithContext
from nas.searching.pace import lag_of, recorded_identity
from nas.searching.scoring import measured
from nas.searching.space_domain import as_domain
from nas.searching.study import Running, Study, searching
from nas.seeds import generator
from nas.workers import Workers
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Space

Winner = Literal["pareto", "average"]

_TRIES = 20
"""How often a child that exists already is bred anew; then it is a random candidate."""


@dataclass(frozen=True)
class AgeingConfig:
    """Settings of ageing evolution; the defaults are those of EvoNorm.

    Args:
        population: candidates in the window, and random ones at the beginning, at least 2.
        tournament_share: share of the window that takes part in a tournament.
        random_share: probability that a random candidate is measured in place of a mutant.
        winner: who wins a tournament: a random member of its Pareto front, or the best average of the objectives, which
            must then have one scale.

    Raises:
        UserError: the population is below 2, a share is out of range, or the rule for the winner is unknown.
    """

    population: int = 2500
    tournament_share: float = 0.05
    random_share: float = 0.5
    winner: Winner = "pareto"

    def __post_init__(self) -> None:
        if self.population < 2:
            raise UserError(f"population must be at least 2, got {self.population}")
        if not 0 < self.tournament_share <= 1:
            raise UserError(f"tournament_share must be above 0 and at most 1, got {self.tournament_share}")
        if not 0 <= self.random_share <= 1:
            raise UserError(f"random_share must be between 0 and 1, got {self.random_share}")
        if self.winner not in ("pareto", "average"):
            raise UserError(f"winner must be pareto or average, got {self.winner!r}")


def ageing_evolution(
    domain: Space | Domain[C],
    evaluate: Evaluate[C] | WithContext[C] | Staged[C],
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    config: AgeingConfig | None = None,
    **running: Unpack[Running[C]],
) -> Study[C]:
    """Search a domain with ageing evolution; arguments, result and errors as for `nas.linas`.

    Candidates are proposed one by one, the first population too. So as many are measured at a time as the lag says,
    and a new study has a lag of as many as its `workers` are. In a domain where nothing new can be bred any more, the
    rest of the budget goes to random candidates.
    """
    config, domain = config or AgeingConfig(), as_domain(domain)
    storage = running.get("storage")
    lag = lag_of(running.get("lag"), storage, recorded_identity(storage), new=_count(running.get("workers", 1)))
    identity = SearchIdentity("ageing_evolution", config, seed, lag)
    with searching(domain, evaluate, objectives, identity, budget=budget, **running) as (study, run):
        rng = generator(seed, "ageing_evolution")
        first = domain.sample(config.population, rng)
        generations = evolve(
            domain,
            measured(run, rng, one_by_one=True),
            youngest,
            first[unseen(domain.keys(first), set(), len(first))],
            size=config.population,
            offspring=1,
            breeding=Mutants(domain, Tournament(config.tournament_share, config.winner), config.random_share),
            rng=rng,
            tries=_TRIES,
        )
        for _ in generations:
            if not run.remaining:
                break
    return study


def _count(workers: int | Workers) -> int:
    return workers if isinstance(workers, int) else workers.count


def youngest(population: Population, size: int) -> IntArray:
    """Survival by age: the most recent `size` individuals that did not fail, the oldest of them first."""
    good = np.flatnonzero(np.isfinite(population.values).all(axis=1))
    return np.asarray(good[np.argsort(population.born[good])][-size:], dtype=np.int64)


@dataclass(frozen=True)
class Tournament:
    """Selection of each parent by a tournament among a share of the population.

    Args:
        share: of the population, at least two individuals.
        winner: a random one of the Pareto front of the tournament, by Deb's rule for limits; or the best average of the
            minimised objectives of those that break the limits least, of equal ones the first drawn.
    """

    share: float
    winner: Winner

    def __call__(self, population: Population, count: int, rng: np.random.Generator) -> IntArray:
        """Indices of `count` parents; every tournament is drawn anew."""
        return np.array([self._won(population, rng) for _ in range(count)], dtype=np.int64)

    def _won(self, population: Population, rng: np.random.Generator) -> int:
        size = min(len(population), max(2, round(self.share * len(population))))
        members = rng.choice(len(population), size=size, replace=False)
        values, violations = population.values[members], population.violations[members]
        if self.winner == "average":
            return int(members[_best_average(values, violations)])
        front = np.flatnonzero(pareto.ranks(values, violations) == 0)
        return int(members[front[rng.integers(len(front))]])


def _best_average(values: FloatArray, violations: FloatArray) -> int:
    failed = ~np.isfinite(values).all(axis=1)
    return int(np.lexsort((values.mean(axis=1), violations, failed))[0])


@dataclass(frozen=True)
class Mutants(Generic[C]):
    """Breeding without crossover: mutants of selected parents, and random candidates among them.

    Args:
        domain: draws and mutates candidates.
        select: chooses the parents.
        random_share: probability that a child is a random candidate.
    """

    domain: Domain[C]
    select: Selection
    random_share: float

    def __call__(self, population: Population, count: int, rng: np.random.Generator) -> Genes:
        """Make `count` children."""
        mutated = np.flatnonzero(rng.random(count) >= self.random_share)
        children = self.domain.sample(count, rng)
        parents = population.genes[self.select(population, len(mutated), rng)]
        children[mutated] = self.domain.mutate(parents, rng)
        return children
