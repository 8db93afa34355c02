"""LINAS, "lightweight iterative NAS": measure a few, predict the rest, evolve on the predictions, repeat.

Cummings et al. 2022, arXiv 2205.10358, Algorithm 1; settings from the authors' DyNAS-T. Differs in every configuration:
candidates are canonical, so that choices which do not matter never make two of one; none is measured twice; objectives
with a formula are computed, not predicted; limits of objectives count as violations in the inner search (Deb's rule).
`LinasConfig()` differs further, by what was found to save measurements: see its fields.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from nas.errors import UserError
from nas.searching import pareto
from nas.searching.evaluation import (
    Evaluate,
    Evaluations,
    Measurement,
    Objective,
    OnResult,
    Results,
    Staged,
    violations,
)
from nas.searching.evolution import Genes, Population, VectorGenome, evolve, nsga2_survival
from nas.searching.parallel import Workers
from nas.searching.storage import Storage
from nas.searching.study import Recipe, Study, searching
from nas.seeds import generator
from predictors import Predictor, published_chooser, quick_chooser
from search_spaces.space import Space

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Features = Callable[[Space, IntArray], FloatArray]


def level_features(space: Space, rows: IntArray) -> FloatArray:
    """A size as its share of the largest, a category one-hot, 0 where inactive: `Space.features`."""
    return space.features(rows)


def one_hot_features(space: Space, rows: IntArray) -> FloatArray:
    """Every option of every choice as 0 or 1, all 0 where inactive (DyNAS-T's custom encoding)."""
    hot = rows[:, :, None] == np.arange(int(space.option_counts.max(initial=1)))
    hot &= space.active(rows)[:, :, None]
    return np.asarray(hot.reshape(len(rows), -1), dtype=np.float64)


@dataclass(frozen=True)
class LinasConfig:
    """Settings of LINAS; the defaults are ours, `published()` the paper's.

    Args:
        first_batch: candidates measured before anything is predicted.
        spread_start: begin with the smallest, the largest and rows that lean to one level between, else uniformly.
        least_batch, most_batch, growth: a later batch holds `growth` times the number proposed so far, in these bounds.
        predictor: makes a new predictor, one for each objective and round.
        features: encoded candidates (n, k) to numbers (n, f).
        inner_population, inner_generations: of NSGA-II on the predictions.
        crossover, mutation: its probabilities; a mutation of None is one over the number of choices.
        warm_start: begin the inner search with the best measured candidates, else with random ones only.
        margin: measure next what adds most predicted hypervolume, up to a reference beyond the measured front's worst
            values by this share of its range; None: the best ranks of the inner search, as in the paper.
        lag: proposal i depends on results 0 .. i - lag only, however many workers measure: so many keep 8 of them busy.

    Raises:
        UserError: a size below 1, bounds in the wrong order, a negative margin, or a probability outside 0..1.
    """

    first_batch: int = 20
    spread_start: bool = True
    least_batch: int = 5
    most_batch: int = 20
    growth: float = 0.1
    predictor: Callable[[], Predictor] = quick_chooser
    features: Features = level_features
    inner_population: int = 100
    inner_generations: int = 20
    crossover: float = 0.9
    mutation: float | None = None
    warm_start: bool = True
    margin: float | None = 0.3
    lag: int = 12

    def __post_init__(self) -> None:
        for name in ("first_batch", "least_batch", "inner_population", "inner_generations", "lag"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.most_batch < self.least_batch:
            raise UserError(f"most_batch must be at least least_batch {self.least_batch}, got {self.most_batch}")
        if self.margin is not None and self.margin < 0:
            raise UserError(f"margin must not be negative, got {self.margin}")
        for name in ("crossover", "mutation"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {value}")

    @classmethod
    def published(cls) -> "LinasConfig":
        """Population 50, 20,000 inner evaluations a round, the paper's grid of ridge and support vector regressions.

        Differs: crossover is uniform and mutation by option, where DyNAS-T rounds SBX and polynomial mutation.
        """
        return cls(
            first_batch=50,
            spread_start=False,
            least_batch=50,
            most_batch=50,
            predictor=published_chooser,
            features=one_hot_features,
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
    storage: Storage | None = None,
    chunk_size: int = 1,
    lag: int | None = None,
    on_result: OnResult | None = None,
    workers: int | Workers = 1,
    timeout_s: float | None = None,
    patience: int | None = None,
    known: Sequence[Measurement] = (),
) -> Study:
    """Search `space` with at most `budget` measured candidates.

    Args:
        evaluate: candidates -> raw values (n, m), one column an objective; an exception or NaN fails that candidate.
        budget: failed candidates count; it ends earlier when every candidate of the space is measured.
        seed: the same seed gives the same study, killed and resumed or not.
        storage: journal file of the study, or URL of a database (`nas.searching.storage`); a study of the same search
            is resumed, with a larger budget if asked. None: kept in memory.
        chunk_size: longest list that `evaluate` is called with.
        lag: proposal i depends on results 0 .. i - lag only; None: as `config` says.
        on_result: called after each commitment with the measurement and the number committed, replayed ones included.
        workers: how many candidates are measured at a time, in Ray actors where it is more than one; never changes the
            study.
        timeout_s: seconds after which a candidate has failed; needs Ray for one worker too (`nas.searching.parallel`).
        patience: stop when so many results in a row did not enlarge the hypervolume; None: never.
        known: results from elsewhere (`nas.searching.known`), learned from and never measured again; they do not count.

    Raises:
        UserError: settings out of range, a storage or workers that cannot be used, or an `evaluate` of the wrong shape.
        NoFeasible: every candidate of a small space breaks the limit of an objective with a formula.
    """
    config = config or LinasConfig()
    with searching(
        space,
        evaluate,
        objectives,
        Recipe("linas", config, seed, config.lag if lag is None else lag),
        budget=budget,
        storage=storage,
        chunk_size=chunk_size,
        on_result=on_result,
        workers=workers,
        timeout_s=timeout_s,
        patience=patience,
        known=known,
    ) as (study, run):
        rng = generator(seed, "linas")
        # Known results stand for as many of the first batch, but not for its ends and middle.
        run.propose(first_rows(space, config, rng)[: max(3, config.first_batch - run.known)], rng)
        while run.remaining:
            rng = generator(seed, "linas", run.proposed)
            data = run.results()
            if not data.good.any():
                run.propose(space.random(config.least_batch, rng), rng)
                continue
            predict = fit(space, objectives, data, config)
            pool = evolved(space, objectives, data, predict, config, rng)
            run.propose(best_new(run, data, pool, config), rng)
    return study


def first_rows(space: Space, config: LinasConfig, rng: np.random.Generator) -> IntArray:
    """P_0: the first batch (n, k).

    Spread: the smallest, the largest, the middle, then level rows (2 of 3) and uniform ones. A level row leans to one
    level between smallest and largest, with noise of 0.15, 0.35 or 0.6 of the range.
    """
    if not config.spread_start:
        return space.random(config.first_batch, rng)
    top = space.option_counts - 1
    ends = space.canonical(np.stack([0 * top, top, top // 2]))
    count = max(0, config.first_batch - len(ends))
    levels = 2 * count // 3
    noise = np.array([0.15, 0.35, 0.6])[np.arange(levels) % 3][:, None]
    share = rng.permutation((np.arange(levels) + rng.random(levels)) / max(1, levels))[:, None]
    lean = np.clip(share + noise * rng.standard_normal((levels, len(top))), 0, 1)
    leaning = space.canonical(np.rint(lean * top).astype(np.int64))
    return np.concatenate([ends, leaning, space.random(count - levels, rng)])[: config.first_batch]


def fit(
    space: Space, objectives: Sequence[Objective], data: Results, config: LinasConfig
) -> Callable[[IntArray], FloatArray]:
    """Y_m: one predictor an objective on all data; the result maps rows (n, k) to minimised values (n, m)."""
    good = data.good
    features = config.features(space, data.rows[good])
    models = [
        None if objective.exact is not None else config.predictor().fit(features, data.values[good, column])
        for column, objective in enumerate(objectives)
    ]

    def predict(rows: IntArray) -> FloatArray:
        x = config.features(space, rows)
        columns = []
        for objective, model in zip(objectives, models, strict=True):
            if objective.exact is not None:
                columns.append(objective.sign * np.asarray(objective.exact(rows), dtype=np.float64))
            elif model is not None:
                columns.append(model.predict(x)[0])
        return np.stack(columns, axis=1)

    return predict


def evolved(
    space: Space,
    objectives: Sequence[Objective],
    data: Results,
    predict: Callable[[IntArray], FloatArray],
    config: LinasConfig,
    rng: np.random.Generator,
) -> Population:
    """The inner search: the last population of NSGA-II on the predicted values."""

    def score(rows: Genes) -> Population:
        values = predict(rows)
        return Population.of(rows, values, violations(values, objectives))

    genome = VectorGenome(space, 1 / max(1, len(space.choices)) if config.mutation is None else config.mutation)
    first = genome.sample(config.inner_population, rng)
    if config.warm_start:
        best = data.rows[pareto.best_first(data.values, data.violations)[: config.inner_population]]
        first = np.concatenate([best, first])
    generations = evolve(
        genome,
        score,
        nsga2_survival,
        np.unique(first, axis=0),
        size=config.inner_population,
        offspring=config.inner_population,
        crossover=config.crossover,
        rng=rng,
    )
    *_, last = islice(generations, config.inner_generations + 1)
    return last


def best_new(run: Evaluations, data: Results, pool: Population, config: LinasConfig) -> IntArray:
    """P_i+1: the best of `pool` that were not proposed before, as many as the next batch holds.

    With a margin, those that would add most hypervolume to the measured front, one after another; then, and in the
    paper only, those of the best rank and crowding distance.
    """
    size = min(config.most_batch, max(config.least_batch, int(config.growth * run.proposed)))
    new = pool.take(np.flatnonzero(run.is_new(pool.genes)))
    new = new.take(nsga2_survival(new, len(new)))
    front = data.values[pareto.front(data.values, data.violations)]
    inside = np.flatnonzero(new.violations <= 0)
    if config.margin is None or not len(front) or not len(inside):
        return np.asarray(new.genes[:size])
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    scale = np.where(span > 0, span, 1.0)
    reference = span / scale + config.margin
    picked = inside[pareto.most_volume((new.values[inside] - low) / scale, (front - low) / scale, reference, size)]
    others = np.setdiff1d(np.arange(len(new)), picked)
    return np.asarray(new.genes[np.concatenate([picked, others])[:size]])
