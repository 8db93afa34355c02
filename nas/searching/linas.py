"""LINAS, "lightweight iterative NAS": fit predictors to a few measurements and run an evolution on the predictions.

Source: Cummings et al. 2022, arXiv 2205.10358, Algorithm 1; settings from the authors' code DyNAS-T. Differs, in every
configuration: candidates are canonical, so candidates that differ in inactive choices only count as one; no candidate
is measured twice; objectives with a formula are computed instead of predicted; limits of objectives count as constraint
violations in the inner search (Deb's rule). The defaults of `LinasConfig` differ further, to save measurements.

`linas` is the algorithm box, with steps numbered as in docs/linas.md. Each round is a `Round`: `inner_search` evolves
candidates on the predictions, and `next_batch` chooses those to measure next.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, Unpack

import numpy as np

from nas.errors import UserError
from nas.searching import pareto
from nas.searching.acquisition import Frame, direction_survival, most_expected
from nas.searching.domain import Genes
from nas.searching.evaluation import Evaluations, Results
from nas.searching.evolution import Crossing, Population, Survival, VectorGenome, breed, evolve, nsga2_survival
from nas.searching.features import Features, contrast_features, one_hot_features, ranks_by_name
from nas.searching.identity import WHERE_GIVEN, SearchIdentity
from nas.searching.measurement import Evaluate, Objective, Staged, WithContext, violations
from nas.searching.pace import Pace, lag_for, lag_of, recorded_identity
from nas.searching.starts import encoded_starts
from nas.searching.study import Running, Study, searching
from nas.searching.surrogate import MakePredictor, Surrogate
from nas.seeds import generator
from predictors import GaussianProcess, Predictor, published_chooser
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Space

_FIRST_STEPS, _WARM_STEPS = 25, 6
"""Optimizer steps for the parameters of a Gaussian process, from the start and from those of the round before."""
_SHORT_LIST = 150
"""Candidates for which the expected hypervolume is computed; it is too slow for all candidates of the inner search."""
_UNSURE, _SURE = 100, 250
"""Numbers of results up to which a batch is chosen by the predicted means alone, and from which by the whole spread."""
_PACE = tuple(each.name for each in fields(Pace))
_ENDS = 3
"""The smallest, the largest and the middle candidate, which a first batch has first."""
_LIKELY = 0.5
"""Lowest predicted probability of success with which a candidate is preferred for measurement."""


def gaussian_process(groups: tuple[int, ...], before: Predictor | None) -> Predictor:
    """Make a Gaussian process with a weight for each group of features; it starts from the parameters of `before`."""
    start = before.found if isinstance(before, GaussianProcess) else None
    return GaussianProcess(groups, start, steps=_FIRST_STEPS if start is None else _WARM_STEPS)


def published_predictor(groups: tuple[int, ...], before: Predictor | None) -> Predictor:
    """The paper's predictor, ridge or support vector regression chosen by cross-validation; `before` has no effect."""
    return published_chooser()


@dataclass(frozen=True)
class LinasConfig:
    """Settings of LINAS; the defaults are chosen to save measurements, `published()` returns those of the paper.

    Args:
        first_batch, least_batch, most_batch, growth, lag: the pace, see `Pace`. None: as the study has it recorded; a
            new study has the lag that suits its workers (`lag_for`), and the sizes that suit the lag (`Pace.of`).
        spread_start: draw the first batch as `first_rows` describes, else uniformly.
        starts: encoded candidates that the first batch has in place of as many of its others, but not of the smallest,
            the largest and the middle one.
        features: space -> the features of its candidates that predictors see.
        predictor: (groups of the features, predictor of the round before or None) -> a new predictor for one objective.
        inner_population, inner_generations: population and generations of the evolution on the predictions.
        crossover: share of children with two parents in that evolution.
        mutation: probability that a gene changes; None: one over the number of choices.
        warm_start: start the inner search from the best measured candidates and from the end of the one before, as well
            as from random ones.
        margin: choose the candidates that are expected to add the most hypervolume. Its reference point is the worst
            corner of the measured front, moved outwards by this share of the front's range. None: choose by rank and
            crowding distance, as in the paper.
        samples: samples of the predictions for that expectation; 0: use the predicted means only.

    Raises:
        UserError: a size is below 1, the bounds of the batch are in the wrong order, margin, growth or samples is
            negative, or a probability is outside 0..1.
    """

    first_batch: int | None = None
    spread_start: bool = True
    starts: tuple[tuple[int, ...], ...] = field(default=(), metadata={WHERE_GIVEN: True})
    least_batch: int | None = None
    most_batch: int | None = None
    growth: float | None = None
    features: Callable[[Space], Features] = contrast_features
    predictor: MakePredictor = gaussian_process
    inner_population: int = 100
    inner_generations: int = 20
    crossover: float = 0.9
    mutation: float | None = None
    warm_start: bool = True
    margin: float | None = 0.3
    samples: int = 8
    lag: int | None = None

    def __post_init__(self) -> None:
        self.pace(1 if self.lag is None else self.lag)
        for name in ("inner_population", "inner_generations"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("margin", "samples"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise UserError(f"{name} must be a number that is not negative, got {getattr(self, name)}")
        for name in ("crossover", "mutation"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {value}")

    def pace(self, lag: int) -> Pace:
        """The pace with a lag: the sizes that are given here, else those that suit the lag."""
        sizes = {name: getattr(self, name) for name in _PACE if name != "lag" and getattr(self, name) is not None}
        return replace(Pace.of(lag), **sizes)

    def completed(self, pace: Mapping[str, Any]) -> "LinasConfig":
        """These settings with what they leave open of the pace taken from `pace`, where it has numbers."""
        found: dict[str, Any] = {name: pace.get(name) for name in _PACE if getattr(self, name) is None}
        return replace(self, **{name: value for name, value in found.items() if type(value) in (int, float)})

    @classmethod
    def published(cls) -> "LinasConfig":
        """The paper's settings: batches of 50, 20,000 inner evaluations per round, ridge or support vector regression.

        Differs: crossover is uniform and mutation draws options, where DyNAS-T rounds the results of SBX and polynomial
        mutation. With three or more objectives, survival is by `direction_survival`, where DyNAS-T has U-NSGA-III.
        """
        return cls(
            first_batch=50,
            spread_start=False,
            least_batch=50,
            most_batch=50,
            growth=0.1,
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
    evaluate: Evaluate | WithContext | Staged,
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    config: LinasConfig | None = None,
    **running: Unpack[Running],
) -> Study:
    """Search a space with LINAS (Algorithm 1).

    Args:
        space: the candidates.
        evaluate: candidates -> raw values (n, m), one column per objective. If it raises an exception or returns NaN,
            that candidate has failed. `WithContext` is told what the search knew when it proposed them.
        objectives: the objectives, in the order of the columns.
        budget: largest number of measured candidates, failed ones included. The search ends earlier when all candidates
            of the space have been measured.
        seed: the same seed gives the same study, also if the search is killed and resumed.
        config: the settings; None: the defaults.
        running: lag, storage, workers and other options that all algorithms have; see `nas.searching.study.Running`.

    Returns:
        The study with all measurements.

    Raises:
        UserError: a setting is out of range, the storage or the workers cannot be used, or `evaluate` returns an array
            of the wrong shape.
        NoFeasible: each candidate of a small space violates the limit of an objective with a formula.
    """
    config, pace = begun(config or LinasConfig(), running)
    starts = encoded_starts(space, config.starts)
    with searching(
        space,
        evaluate,
        objectives,
        SearchIdentity("linas", config, seed, pace.lag),
        budget=budget,
        **running,
    ) as (study, run):
        rng = generator(seed, "linas")
        # 1. Measure the first batch. Known results replace as many of its candidates, but not the smallest,
        # the largest and the middle one.
        first = first_rows(space, pace.first_batch, rng) if config.spread_start else space.random(pace.first_batch, rng)
        first = np.concatenate([first[:_ENDS], starts, first[_ENDS:]])
        run.propose(first[: max(_ENDS + len(starts), pace.first_batch - run.known)], rng)
        surrogate = Surrogate(objectives, config.features(space), config.predictor)
        last = space.encode([])
        while run.remaining:
            # A new generator per round: what a round draws does not depend on how much the rounds before have drawn.
            rng = generator(seed, "linas", run.proposed)
            data = run.results()
            # All candidates have failed so far: there is nothing to learn from.
            if not data.good.any():
                run.propose(space.random(pace.least_batch, rng), rng)
                continue
            # 2. Fit the predictors; this also compares the latest measurements with their predictions.
            quality = surrogate.fit(data)
            if quality:
                study.quality.append(quality)
            # 3. Search on the predictions. 4. Measure the best new candidates.
            now = Round(space, objectives, config, data, surrogate, run.pending, last)
            pool, last = inner_search(now, rng)
            run.propose(next_batch(now, run, pool, pace.batch(run.proposed), rng), rng)
    return study


def begun(config: LinasConfig, running: Running) -> tuple[LinasConfig, Pace]:
    """The settings in full and the pace with which a study goes on, or begins.

    What the settings leave open of the pace is as the study has it recorded, else as it suits the workers.
    """
    storage = running.get("storage")
    recorded = recorded_identity(storage)
    settings = recorded.get("config")
    config = config.completed(settings if isinstance(settings, Mapping) else {})
    new = lag_for(running.get("workers", 1)) if config.lag is None else config.lag
    pace = config.pace(lag_of(running.get("lag"), storage, recorded, new))
    return config.completed(asdict(pace)), pace


@dataclass(frozen=True)
class Round:
    """The inputs of one round: the problem, the results that are available, and predictors fitted to them.

    Args:
        space: the candidates.
        objectives: the objectives.
        config: the settings.
        data: the results that this round may use.
        surrogate: the predictors, fitted to `data`.
        pending: encoded candidates (n, k) that were proposed before and whose results this round may not use.
        last: the last population of the inner search of the round before, encoded (p, k).
    """

    space: Space
    objectives: Sequence[Objective]
    config: LinasConfig
    data: Results
    surrogate: Surrogate
    pending: IntArray
    last: IntArray

    @cached_property
    def front(self) -> FloatArray:
        """The front of the measured candidates within the limits, at their predicted values, (k, m).

        Predictions are used instead of measurements, because with noisy objectives a single lucky measurement would
        hide candidates that are truly better.
        """
        good = self.data.good
        seen = self.surrogate.mean(self.data.rows[good])
        return seen[pareto.front(seen, self.data.violations[good])]

    @cached_property
    def expected(self) -> FloatArray:
        """The front together with the predictions of pending candidates within the limits, (k, m).

        Counting pending candidates as measured keeps a batch from choosing close neighbours of the batch before.
        """
        if not len(self.pending):
            return self.front
        values = self.surrogate.mean(self.pending)
        return np.concatenate([self.front, values[violations(values, self.objectives) <= 0]])

    @cached_property
    def frame(self) -> Frame | None:
        """The region in which hypervolume counts; None without a margin or before a candidate is within the limits."""
        if self.config.margin is None or not len(self.front):
            return None
        bounds = np.array([np.inf if o.limit is None else o.sign * o.limit for o in self.objectives])
        return Frame.around(self.front, self.data.values[self.data.good], bounds, self.config.margin)

    @property
    def genome(self) -> VectorGenome:
        """Mutation and crossover of candidates."""
        each = 1 / max(1, len(self.space.choices)) if self.config.mutation is None else self.config.mutation
        return VectorGenome(self.space, each)

    @cached_property
    def best(self) -> Population:
        """The best measured candidates, as many as the population of the inner search."""
        everyone = Population.of(self.data.rows, self.data.values, self.data.violations)
        return everyone.take(nsga2_survival(everyone, self.config.inner_population))


def first_rows(space: Space, first_batch: int, rng: np.random.Generator) -> IntArray:
    """A first batch P_0 of encoded candidates (n, k) that are spread over the front.

    It has the smallest, the largest and the middle candidate; of the others two in three are level rows and the rest
    are uniform. In a level row all choices are near a common level between smallest and largest, with
    noise of 0.15, 0.35 or 0.6 of the range. Uniform rows alone would nearly all have a medium total size and leave the
    ends of the front unknown.
    """
    top = space.option_counts - 1
    ends = np.stack([0 * top, top, top // 2])
    count = max(0, first_batch - len(ends))
    levels = 2 * count // 3
    noise = np.array([0.15, 0.35, 0.6])[np.arange(levels) % 3][:, None]
    share = rng.permutation((np.arange(levels) + rng.random(levels)) / max(1, levels))[:, None]
    lean = np.clip(share + noise * rng.standard_normal((levels, len(top))), 0, 1)
    leaning = np.concatenate([ends, np.rint(lean * top).astype(np.int64)])
    # Unordered options are levelled in the order of their names, so that choices with the same options get the same
    # option at the same level, even if they list their options in different orders.
    for column, choice in enumerate(space.choices):
        if not choice.ordered:
            leaning[:, column] = np.argsort(ranks_by_name(choice))[leaning[:, column]]
    rows = np.concatenate([space.canonical(leaning), space.random(count - levels, rng)])
    return rows[:first_batch]


def inner_search(now: Round, rng: np.random.Generator) -> tuple[Population, IntArray]:
    """Run the evolution on predicted values.

    Returns:
        The candidates to choose from, and the last population, encoded. These are the same without a margin; with one
        the candidates are all that were predicted, since those with the largest expected hypervolume need not have
        survived.
    """
    config, objectives = now.config, now.objectives
    scored: list[Population] = []

    def score(rows: Genes) -> Population:
        values = now.surrogate.mean(rows)
        scored.append(Population.of(rows, values, violations(values, objectives)))
        return scored[-1]

    first = now.genome.sample(config.inner_population, rng)
    if config.warm_start:
        # Too few generations fit into a round to find the predicted front from a few measured candidates. It changes
        # little from round to round, so the evolution goes on from where it ended.
        first = np.concatenate([now.best.genes, now.last, first])
    # Crowding distance spreads points poorly over a front of three or more objectives, so directions are used there.
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
    return last if config.margin is None else Population.joined(scored), last.genes


def next_batch(now: Round, run: Evaluations, pool: Population, size: int, rng: np.random.Generator) -> IntArray:
    """The next batch P_(i+1): the best `size` candidates of `pool` that were not proposed before, encoded (n, k).

    Without a margin they are chosen by rank and crowding distance, as in the paper. With a margin they are those that
    are expected to add the most hypervolume. If the predictions were poor lately, up to half of the batch are instead
    children of the best measured candidates, as in NSGA-II.
    """
    config = now.config
    new = pool.take(np.flatnonzero(run.is_new(pool.genes)))
    if config.margin is None:
        return np.asarray(new.take(nsga2_survival(new, size)).genes)
    doubtful = round(0.5 * size * now.surrogate.doubt)
    seen = set(now.genome.keys(np.concatenate([now.data.rows, now.pending])))
    bred = breed(now.genome, Crossing(now.genome, config.crossover), now.best, seen, doubtful, rng)
    return np.concatenate([bred, promising(now, new, size - len(bred), rng)])


def promising(now: Round, new: Population, count: int, rng: np.random.Generator) -> IntArray:
    """The `count` candidates of `new` that are expected to add the most hypervolume to the measured front, (n, k).

    Candidates that are predicted to fail are left out if there are enough others. As long as no measured candidate is
    within the limits, the candidates that are predicted to be nearest to the limits are chosen.
    """
    if now.frame is None or not len(new):
        return np.asarray(new.genes[nsga2_survival(new, count)])
    likely = np.flatnonzero(now.surrogate.chance(new.genes) >= _LIKELY)
    new = new.take(likely) if len(likely) >= count else new
    short = new.take(now.frame.nearest(new.values, now.expected, _SHORT_LIST))
    mean, spread = now.surrogate.predict(short.genes)
    # With few results the spread is mostly that of the predictor's own parameters, which is large for all candidates
    # that are not close to a measured one. Sampling it would then prefer what is far away to what is good.
    spread = spread * np.clip((len(now.data) - _UNSURE) / (_SURE - _UNSURE), 0, 1)
    # Antithetic samples: each draw is used with both signs, so that the samples have the predicted mean exactly.
    half = rng.standard_normal((now.config.samples // 2, *mean.shape))
    draws = np.concatenate([half, -half]) if len(half) else np.zeros((1, *mean.shape))
    picked = most_expected(mean, spread, now.expected, now.frame, count, draws, now.surrogate.chance(short.genes))
    # Fewer are picked when the others add nothing; the batch is then filled from the front of the short list.
    others = np.setdiff1d(np.arange(len(short)), picked)
    return np.asarray(short.genes[np.concatenate([picked, others])[:count]])
