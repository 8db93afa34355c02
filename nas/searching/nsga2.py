"""NSGA-II on measured candidates, without predictors (Deb et al. 2002, doi:10.1109/4235.996017).

Differs: genes are option indices, with uniform crossover and mutation that draws options; candidates are canonical and
none is measured twice, so the children of each generation are new candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Unpack

import numpy as np

from nas.errors import UserError
from nas.searching.domain import Genes
from nas.searching.evaluation import check_counts
from nas.searching.evolution import VectorGenome, evolve, nsga2_survival
from nas.searching.identity import WHERE_GIVEN, SearchIdentity
from nas.searching.measurement import Evaluate, Objective, Staged, WithContext
from nas.searching.pace import lag_of, recorded_identity
from nas.searching.scoring import measured
from nas.searching.starts import encoded_starts
from nas.searching.study import Running, Study, searching
from nas.seeds import generator
from search_spaces.space import Space


@dataclass(frozen=True)
class Nsga2Config:
    """Settings of NSGA-II, with the usual defaults.

    Args:
        population: candidates that survive a generation, and of the first one, at least 2.
        offspring: new candidates in each generation; None: as many as survive.
        starts: encoded candidates that the first generation has in place of as many random ones.
        crossover: share of children with two parents.
        mutation: probability that a gene changes; None: one over the number of choices.

    Raises:
        UserError: the population is below 2, there is no offspring, or a probability is outside 0..1.
    """

    population: int = 50
    offspring: int | None = field(default=None, metadata={WHERE_GIVEN: True})
    starts: tuple[tuple[int, ...], ...] = field(default=(), metadata={WHERE_GIVEN: True})
    crossover: float = 0.9
    mutation: float | None = None

    def __post_init__(self) -> None:
        if self.population < 2:
            raise UserError(f"population must be at least 2, got {self.population}")
        check_counts(offspring=self.offspring)
        for name, value in (("crossover", self.crossover), ("mutation", self.mutation)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {value}")


def nsga2(
    space: Space,
    evaluate: Evaluate | WithContext | Staged,
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    config: Nsga2Config | None = None,
    **running: Unpack[Running],
) -> Study:
    """Search a space with NSGA-II on measured values; arguments, result and errors as for `nas.linas`."""
    config = config or Nsga2Config()
    storage = running.get("storage")
    lag = lag_of(running.get("lag"), storage, recorded_identity(storage), new=1)
    with searching(
        space,
        evaluate,
        objectives,
        SearchIdentity("nsga2", config, seed, lag),
        budget=budget,
        **running,
    ) as (study, run):
        rng = generator(seed, "nsga2")
        genome = VectorGenome(space, 1 / max(1, len(space.choices)) if config.mutation is None else config.mutation)
        generations = evolve(
            genome,
            measured(run, rng),
            nsga2_survival,
            _first(space, genome, config, rng),
            size=config.population,
            offspring=config.offspring or config.population,
            crossover=config.crossover,
            rng=rng,
        )
        for _ in generations:
            if not run.remaining:
                break
    return study


def _first(space: Space, genome: VectorGenome, config: Nsga2Config, rng: np.random.Generator) -> Genes:
    """The first generation: what the settings begin with, and random candidates."""
    starts = encoded_starts(space, config.starts)
    return np.concatenate([starts, genome.sample(max(config.population - len(starts), 0), rng)])
