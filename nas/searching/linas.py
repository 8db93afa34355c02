"""LINAS, "lightweight iterative NAS": measure a few, predict the rest, evolve on the predictions, repeat.

Cummings et al. 2022, arXiv 2205.10358, Algorithm 1; settings from the authors' DyNAS-T. Differs in every configuration:
candidates are canonical, so that choices which do not matter never make two of one; none is measured twice; objectives
with a formula are computed, not predicted; limits of objectives count as violations in the inner search (Deb's rule).
`LinasConfig()` differs further, by what was found to save measurements: see its fields.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Unpack

import numpy as np

from nas.errors import UserError
from nas.searching import pareto
from nas.searching.acquisition import Frame, direction_survival, most_expected
from nas.searching.evaluation import Evaluations, Results
from nas.searching.evolution import Genes, Population, Survival, VectorGenome, breed, evolve, nsga2_survival
from nas.searching.features import Features, contrast_features, one_hot_features, ranks_by_name
from nas.searching.measurement import Evaluate, Objective, Staged, violations
from nas.searching.study import Running, SearchIdentity, Study, searching
from nas.searching.surrogate import MakePredictor, Surrogate
from nas.seeds import generator
from predictors import GaussianProcess, Predictor, published_chooser
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Space

_FIRST_STEPS, _WARM_STEPS = 25, 6
_SHORT_LIST = 150
_LIKELY = 0.5


def gaussian_process(groups: tuple[int, ...], before: Predictor | None) -> Predictor:
    """A Gaussian process with a weight for each group, which begins with what the one before found."""
    start = before.found if isinstance(before, GaussianProcess) else None
    return GaussianProcess(groups, start, steps=_FIRST_STEPS if start is None else _WARM_STEPS)


def published_predictor(groups: tuple[int, ...], before: Predictor | None) -> Predictor:
    """The paper's choice of ridge and support vector regressions, made anew each time."""
    return published_chooser()


@dataclass(frozen=True)
class LinasConfig:
    """Settings of LINAS; the defaults are ours, `published()` the paper's.

    Args:
        first_batch: candidates measured before anything is predicted.
        spread_start: begin with the smallest, the largest and rows that lean to one level between, else uniformly.
        least_batch, most_batch, growth: a later batch holds `growth` times the number proposed so far, in these bounds.
        features: makes of the space what predictors see of its candidates.
        predictor: (groups of the features, the predictor of the round before or None) -> a new one, of one objective.
        inner_population, inner_generations: of the evolution on the predictions.
        crossover, mutation: its probabilities; a mutation of None is one over the number of choices.
        warm_start: begin the inner search with the best measured candidates, else with random ones only.
        margin: measure next what is expected to add most hypervolume, up to a reference beyond the measured front's
            worst values by this share of its range; None: the best ranks of the inner search, as in the paper.
        samples: of the predictions, for that expectation; 0: their means alone.
        lag: proposal i depends on results 0 .. i - lag only, however many workers measure; one more than `least_batch`
            lets that many of them measure one batch while the next is chosen.

    Raises:
        UserError: a size below 1, bounds in the wrong order, a negative margin, growth or number of samples, or a
            probability outside 0..1.
    """

    first_batch: int = 24
    spread_start: bool = True
    least_batch: int = 8
    most_batch: int = 24
    growth: float = 0.1
    features: Callable[[Space], Features] = contrast_features
    predictor: MakePredictor = gaussian_process
    inner_population: int = 100
    inner_generations: int = 20
    crossover: float = 0.9
    mutation: float | None = None
    warm_start: bool = True
    margin: float | None = 0.3
    samples: int = 8
    lag: int = 9

    def __post_init__(self) -> None:
        for name in ("first_batch", "least_batch", "inner_population", "inner_generations", "lag"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.most_batch < self.least_batch:
            raise UserError(f"most_batch must be at least least_batch {self.least_batch}, got {self.most_batch}")
        for name in ("margin", "samples", "growth"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise UserError(f"{name} must be a number that is not negative, got {getattr(self, name)}")
        for name in ("crossover", "mutation"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {value}")

    @classmethod
    def published(cls) -> "LinasConfig":
        """Population 50, 20,000 inner evaluations a round, the paper's grid of ridge and support vector regressions.

        Differs: crossover is uniform and mutation by option, where DyNAS-T rounds SBX and polynomial mutation; of three
        or more objectives the survivors reach furthest along fixed directions, where DyNAS-T has U-NSGA-III.
        """
        return cls(
            first_batch=50,
            spread_start=False,
            least_batch=50,
            most_batch=50,
            features=one_hot_features,
            predictor=published_predictor,
            inner_population=50,
            inner_generations=400,
            mutation=0.02,
            warm_start=False,
            margin=None,
            lag=1,
        )


def linas(
    space: Space,
    evaluate: Evaluate | Staged,
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    config: LinasConfig | None = None,
    lag: int | None = None,
    **running: Unpack[Running],
) -> Study:
    """Search `space` with at most `budget` measured candidates.

    Args:
        evaluate: candidates -> raw values (n, m), one column an objective; an exception or NaN fails that candidate.
        budget: failed candidates count; it ends earlier when every candidate of the space is measured.
        seed: the same seed gives the same study, killed and resumed or not.
        lag: proposal i depends on results 0 .. i - lag only; None: as `config` says.
        running: where it is recorded and how it is measured, see `nas.searching.study.Running`.

    Raises:
        UserError: settings out of range, a storage or workers that cannot be used, or an `evaluate` of the wrong shape.
        NoFeasible: every candidate of a small space breaks the limit of an objective with a formula.
    """
    config = config or LinasConfig()
    with searching(
        space,
        evaluate,
        objectives,
        SearchIdentity("linas", config, seed, config.lag if lag is None else lag),
        budget=budget,
        **running,
    ) as (study, run):
        rng = generator(seed, "linas")
        # Round results stand for as many of the first batch, but not for its ends and middle.
        run.propose(first_rows(space, config, rng)[: max(3, config.first_batch - run.known)], rng)
        surrogate = Surrogate(objectives, config.features(space), config.predictor)
        while run.remaining:
            rng = generator(seed, "linas", run.proposed)
            data = run.results()
            if not data.good.any():
                run.propose(space.random(config.least_batch, rng), rng)
                continue
            quality = surrogate.fit(data)
            if quality:
                study.quality.append(quality)
            now = Round(space, objectives, config, data, surrogate, run.pending)
            run.propose(next_batch(now, run, inner_search(now, rng), rng), rng)
    return study


@dataclass(frozen=True)
class Round:
    """What one round goes by: the task, the results it may see, and the predictors that learned from them.

    Args:
        pending: what was proposed before and has no result that this round may see (n, k).
    """

    space: Space
    objectives: Sequence[Objective]
    config: LinasConfig
    data: Results
    surrogate: Surrogate
    pending: IntArray

    @cached_property
    def front(self) -> FloatArray:
        """The measured front within limits as the predictors see it, (k, m).

        A lucky measurement does not hide there what is better.
        """
        good = self.data.good
        seen = self.surrogate.mean(self.data.rows[good])
        return seen[pareto.front(seen, self.data.violations[good])]

    @cached_property
    def expected(self) -> FloatArray:
        """The front, and what is predicted of the pending candidates within limits (k, m): none is picked twice."""
        values = self.surrogate.mean(self.pending)
        return np.concatenate([self.front, values[violations(values, self.objectives) <= 0]])

    @cached_property
    def frame(self) -> Frame | None:
        """Where hypervolume counts; None while nothing measured is within limits, and in the paper."""
        if self.config.margin is None or not len(self.front):
            return None
        bounds = np.array([np.inf if o.limit is None else o.sign * o.limit for o in self.objectives])
        return Frame.around(self.front, self.data.values[self.data.good], bounds, self.config.margin)

    @property
    def genome(self) -> VectorGenome:
        """How candidates change."""
        each = 1 / max(1, len(self.space.choices)) if self.config.mutation is None else self.config.mutation
        return VectorGenome(self.space, each)

    @cached_property
    def best(self) -> Population:
        """The best measured candidates, as many as the inner search holds."""
        everyone = Population.of(self.data.rows, self.data.values, self.data.violations)
        return everyone.take(nsga2_survival(everyone, self.config.inner_population))


def first_rows(space: Space, config: LinasConfig, rng: np.random.Generator) -> IntArray:
    """P_0: the first batch (n, k).

    Spread: the smallest, the largest, the middle, then level rows (2 of 3) and uniform ones. A level row leans to one
    level between smallest and largest, with noise of 0.15, 0.35 or 0.6 of the range. Categories stand by their names
    for that, so that choices with the same ones lean to the same one.
    """
    if not config.spread_start:
        return space.random(config.first_batch, rng)
    top = space.option_counts - 1
    ends = np.stack([0 * top, top, top // 2])
    count = max(0, config.first_batch - len(ends))
    levels = 2 * count // 3
    noise = np.array([0.15, 0.35, 0.6])[np.arange(levels) % 3][:, None]
    share = rng.permutation((np.arange(levels) + rng.random(levels)) / max(1, levels))[:, None]
    lean = np.clip(share + noise * rng.standard_normal((levels, len(top))), 0, 1)
    leaning = np.concatenate([ends, np.rint(lean * top).astype(np.int64)])
    for column, choice in enumerate(space.choices):
        if not choice.ordered:
            leaning[:, column] = np.argsort(ranks_by_name(choice))[leaning[:, column]]
    rows = np.concatenate([space.canonical(leaning), space.random(count - levels, rng)])
    return rows[: config.first_batch]


def inner_search(now: Round, rng: np.random.Generator) -> Population:
    """Evolution on the predicted values: its last population, or with a margin everything that it predicted."""
    config, objectives = now.config, now.objectives
    scored: list[Population] = []

    def score(rows: Genes) -> Population:
        values = now.surrogate.mean(rows)
        scored.append(Population.of(rows, values, violations(values, objectives)))
        return scored[-1]

    first = now.genome.sample(config.inner_population, rng)
    if config.warm_start:
        first = np.concatenate([now.best.genes, first])
    survival: Survival = nsga2_survival
    if now.frame is not None or len(objectives) > 2:
        survival = partial(direction_survival, frame=now.frame)
    generations = evolve(
        now.genome,
        score,
        survival,
        np.unique(first, axis=0),
        size=config.inner_population,
        offspring=config.inner_population,
        crossover=config.crossover,
        rng=rng,
    )
    *_, last = islice(generations, config.inner_generations + 1)
    return last if config.margin is None else Population.joined(scored)


def next_batch(now: Round, run: Evaluations, pool: Population, rng: np.random.Generator) -> IntArray:
    """P_i+1: the best of `pool` that were not proposed before, as many as the next batch holds.

    In the paper by rank and crowding distance. With a margin, those expected to add most hypervolume; and as far as
    predictions are doubtful, up to half of the batch, offspring of the best measured candidates as in NSGA-II.
    """
    config = now.config
    grown = round(config.growth * run.proposed) // config.least_batch * config.least_batch
    size = min(config.most_batch, max(config.least_batch, grown))
    new = pool.take(np.flatnonzero(run.is_new(pool.genes)))
    if config.margin is None:
        return np.asarray(new.take(nsga2_survival(new, size)).genes)
    doubtful = round(0.5 * size * now.surrogate.doubt)
    seen = set(now.genome.keys(np.concatenate([now.data.rows, now.pending])))
    bred = breed(now.genome, now.best, seen, doubtful, config.crossover, rng)
    return np.concatenate([bred, promising(now, new, size - len(bred), rng)])


def promising(now: Round, new: Population, count: int, rng: np.random.Generator) -> IntArray:
    """The `count` rows of `new` that are expected to add most hypervolume to what is measured and within limits.

    Those that more likely fail than not, as the failures so far tell, stand back where there are enough others.

    While nothing measured is within limits: the rows that are predicted nearest to them.
    """
    if now.frame is None or not len(new):
        return np.asarray(new.genes[nsga2_survival(new, count)])
    likely = np.flatnonzero(now.surrogate.chance(new.genes) >= _LIKELY)
    new = new.take(likely) if len(likely) >= count else new
    short = new.take(now.frame.nearest(new.values, now.expected, _SHORT_LIST))
    mean, spread = now.surrogate.predict(short.genes)
    half = rng.standard_normal((now.config.samples // 2, *mean.shape))
    draws = np.concatenate([half, -half]) if len(half) else np.zeros((1, *mean.shape))
    picked = most_expected(mean, spread, now.expected, now.frame, count, draws, now.surrogate.chance(short.genes))
    others = np.setdiff1d(np.arange(len(short)), picked)
    return np.asarray(short.genes[np.concatenate([picked, others])[:count]])
