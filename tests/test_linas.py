"""LINAS and its peers on a small tabulated problem: what is found, what is repeated, what is never done."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.errors import UserError
from nas.searching.evaluation import Results
from nas.searching.features import contrast_features
from nas.searching.linas import LinasConfig, first_rows, linas
from nas.searching.measurement import Measurement, Objective
from nas.searching.nsga2 import nsga2
from nas.searching.pace import Pace
from nas.searching.random_search import random_search
from nas.searching.study import Study
from nas.searching.surrogate import Surrogate
from predictors import Ridge
from search_spaces.space import Candidate, Choice, Space

LAYERS = 6
SPACE = Space(
    (
        Choice("depth", (4, 5, 6)),
        *(Choice(f"heads.{i}", (2, 4, 6, 8), active_if=("depth", tuple(range(i + 1, 7)))) for i in range(4, LAYERS)),
        *(Choice(f"heads.{i}", (2, 4, 6, 8)) for i in range(4)),
        *(Choice(f"ffn.{i}", (64, 128, 256)) for i in range(4)),
    )
)
GAIN = np.random.default_rng(0).gamma(1.0, size=len(SPACE.choices))
REFERENCE = (0.0, 40.0)


def macs(rows: np.ndarray) -> np.ndarray:
    return np.asarray(1 + (rows + 1) @ np.arange(1, len(SPACE.choices) + 1) / 8)


def _evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
    rows = SPACE.encode(candidates)
    features = SPACE.features(rows)
    gain = features**0.5 @ GAIN + features[:, 3] * features[:, 7]
    return np.stack([1 - np.exp(-gain / 5), macs(rows)], axis=1).round(9)  # whatever the chunk


OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs", exact=macs))
SEARCHES: dict[str, Callable[..., Study]] = {"linas": linas, "nsga2": nsga2, "random": random_search}
every = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())


def _told(study: Study) -> list[tuple[Candidate, dict[str, float], str]]:
    return [(m.candidate, dict(m.values), m.state) for m in study.measurements]


def _digest(study: Study) -> str:
    return hashlib.sha256(repr(_told(study)).encode()).hexdigest()


def _run(search: Callable[..., Study] = linas, budget: int = 40, seed: int = 0, **settings: Any) -> Study:
    return search(SPACE, _evaluate, OBJECTIVES, **{"budget": budget, "seed": seed, "chunk_size": 8, **settings})


@every
def test_the_budget_is_spent_on_distinct_candidates(search: Callable[..., Study]) -> None:
    study = _run(search, budget=33)
    assert len(study.measurements) == len({m.candidate for m in study.measurements}) == 33


def test_the_seed_decides_everything_in_every_process() -> None:
    here = {name: _digest(_run(search)) for name, search in SEARCHES.items()}
    for name, search in SEARCHES.items():
        assert here[name] == _digest(_run(search, chunk_size=1)) != _digest(_run(search, seed=1))
    program = "from tests import test_linas as t\nprint({n: t._digest(t._run(s)) for n, s in t.SEARCHES.items()})"
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[1]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    assert told == str(here)


@every
def test_killed_and_resumed_equals_uninterrupted(search: Callable[..., Study], tmp_path: Path) -> None:
    whole = _told(_run(search))
    path = tmp_path / "study.journal"
    for calls in (1, 3):
        left = [calls]

        def interrupted(candidates: Sequence[Candidate], left: list[int] = left) -> np.ndarray:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return _evaluate(candidates)

        with pytest.raises(KeyboardInterrupt):
            search(SPACE, interrupted, OBJECTIVES, budget=40, seed=0, chunk_size=7, storage=path)
    assert _told(_run(search, storage=path)) == whole


@every
@pytest.mark.parametrize("lag", [4, 100])
def test_a_lag_hides_late_results(search: Callable[..., Study], lag: int) -> None:
    rng, seen = np.random.default_rng(5), 0

    def spoiled(candidates: Sequence[Candidate]) -> np.ndarray:
        nonlocal seen
        seen += len(candidates)
        return _evaluate(candidates) if seen <= 30 else rng.random((len(candidates), 2))

    apart = [m.candidate for m in search(SPACE, spoiled, OBJECTIVES, budget=80, seed=0, lag=lag).measurements]
    whole = [m.candidate for m in _run(search, budget=80, chunk_size=1, lag=lag).measurements]
    assert apart[: 30 + lag] == whole[: 30 + lag]
    # What is random asks for no results, and neither does anyone who may see none of the spoiled ones.
    assert (apart == whole) == (search is random_search or lag >= 50)


@every
def test_a_small_space_is_measured_whole_and_then_it_ends(search: Callable[..., Study]) -> None:
    small = Space((Choice("a", (1, 2)), Choice("b", (1, 2, 3), active_if=("a", (2,)))))
    objectives = [Objective("cost"), Objective("gain", "maximize")]

    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        return small.encode(candidates).astype(float)

    assert len(search(small, evaluate, objectives, budget=50, seed=0).measurements) == small.size() == 4
    one = Space((Choice("a", (1,)),))
    assert len(search(one, lambda c: [[1.0]] * len(c), objectives[:1], budget=5, seed=0).measurements) == 1
    none = Space(())
    assert len(search(none, lambda c: [[1.0]] * len(c), objectives[:1], budget=5, seed=0).measurements) == 1


@every
def test_failures_are_recorded_and_the_search_goes_on(search: Callable[..., Study]) -> None:
    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        if any(c["depth"] == 5 for c in candidates):
            raise RuntimeError("no such kernel")
        return _evaluate(candidates)

    study = search(SPACE, evaluate, OBJECTIVES, budget=35, seed=0, chunk_size=5)
    failed = [m for m in study.measurements if m.state == "failed"]
    assert len(study.measurements) == 35 and failed and all(m.candidate["depth"] == 5 for m in failed)
    assert {m.reason for m in failed} == {"RuntimeError: no such kernel"}


@every
def test_nothing_works_at_all(search: Callable[..., Study]) -> None:
    study = search(SPACE, lambda c: [[np.nan, 1.0]] * len(c), OBJECTIVES, budget=30, seed=0)
    assert [m.state for m in study.measurements] == ["failed"] * 30 and study.front() == []


def test_linas_beats_its_baselines_at_equal_budget() -> None:
    volumes = {
        name: np.median([_run(search, budget=80, seed=seed).hypervolume(REFERENCE) for seed in range(3)])
        for name, search in SEARCHES.items()
    }
    assert volumes["linas"] > 1.05 * max(volumes["nsga2"], volumes["random"])


def test_golden_front() -> None:
    """Made by this code on x86-64 Linux, numpy 2.4, scikit-learn 1.9; other arithmetic may end a little elsewhere."""
    study = _run(budget=60)
    front = study.front()
    assert front[-1].candidate == SPACE.smallest() and front[0].candidate == SPACE.largest()
    assert study.hypervolume(REFERENCE) == pytest.approx(29.365, rel=0.005)


def test_exact_objectives_are_computed_and_only_the_others_predicted() -> None:
    fitted: list[np.ndarray] = []

    class Spy(Ridge):
        def fit(self, x: Any, y: Any) -> "Spy":
            fitted.append(np.asarray(y))
            return super().fit(x, y)

    asked: list[int] = []

    def counted(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return macs(rows)

    objectives = (OBJECTIVES[0], Objective("macs", exact=counted))
    linas(SPACE, _evaluate, objectives, budget=30, seed=0, config=LinasConfig(predictor=lambda groups, before: Spy()))
    assert fitted and all((labels < 0).all() for labels in fitted)  # accuracy, negated; never MACs
    assert sum(asked) > 1000


def test_limits_draw_the_search_inside() -> None:
    limited = (OBJECTIVES[0], Objective("macs", limit=15.0, exact=macs))
    share = [
        np.mean([m.values["macs"] <= 15 for m in linas(SPACE, _evaluate, goals, budget=60, seed=0).measurements[24:]])
        for goals in (limited, OBJECTIVES)
    ]
    assert share[0] > share[1] and share[0] > 0.8


def test_the_first_batch_has_the_ends_and_levels_or_is_uniform() -> None:
    rng = np.random.default_rng(0)
    rows = first_rows(SPACE, 24, rng)
    assert rows.shape == (24, len(SPACE.choices)) and (SPACE.canonical(rows) == rows).all()
    assert SPACE.decode(rows[:2]) == [SPACE.smallest(), SPACE.largest()]
    spread = macs(first_rows(SPACE, 200, rng)).std()
    assert spread > 1.5 * macs(SPACE.random(200, rng)).std()
    assert len(first_rows(SPACE, 2, rng)) == 2


@pytest.mark.parametrize(("lag", "first", "later"), [(1, 12, {2, 4, 6, 8, 10}), (9, 24, {8, 16})])
def test_batches_grow_with_what_is_measured(lag: int, first: int, later: set[int]) -> None:
    class Watch(Ridge):
        def fit(self, x: Any, y: Any) -> "Watch":
            rounds.append(len(y))
            return super().fit(x, y)

    rounds: list[int] = []
    linas(
        SPACE,
        _evaluate,
        OBJECTIVES,
        budget=200,
        seed=0,
        config=replace(LinasConfig(predictor=lambda groups, before: Watch()).completed(asdict(Pace.of(lag))), lag=1),
    )
    sizes = np.diff(rounds)
    assert rounds[0] == first and set(sizes) <= later and {min(later), max(later)} <= set(sizes)
    assert (np.diff(sizes) >= 0).all()


def test_every_round_says_how_good_its_predictions_were() -> None:
    study = _run(budget=48, lag=9)
    assert len(study.quality) == 2  # 24, then 8 and 8 that were predicted, and 8 that nothing was proposed after
    for quality in study.quality:
        assert set(quality) == {"accuracy"} and quality["accuracy"].count == 8
    assert (study.quality[-1]["accuracy"].kendall_tau or 0) > 0


class _Wrong(Ridge):
    def fit(self, x: Any, y: Any) -> "_Wrong":
        return super().fit(x, np.random.default_rng(0).permutation(y))


def test_where_predictions_fail_they_are_doubted_and_the_search_breeds_from_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = LinasConfig(predictor=lambda groups, before: _Wrong())
    rows = SPACE.random(120, np.random.default_rng(1))
    values = OBJECTIVES[0].sign * _evaluate(SPACE.decode(rows))
    for make, doubted in ((config.predictor, True), (LinasConfig().predictor, False)):
        surrogate = Surrogate(OBJECTIVES, contrast_features(SPACE), make)
        for count in (60, 120):
            surrogate.fit(Results(rows[:count], values[:count], np.zeros(count)))
        assert (surrogate.doubt > 0.5) == doubted
    guarded = _run(budget=100, config=config, lag=9)
    assert guarded.hypervolume(REFERENCE) > _run(random_search, budget=100).hypervolume(REFERENCE)
    monkeypatch.setattr(Surrogate, "doubt", 0.0)
    assert _told(guarded) != _told(_run(budget=100, config=config, lag=9))


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_one_to_five_objectives(count: int) -> None:
    weights = np.random.default_rng(1).random((len(SPACE.choices), count))
    objectives = [Objective(f"o{i}", "maximize" if i % 2 else "minimize") for i in range(count)]
    signs = np.array([objective.sign for objective in objectives])

    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        rows = SPACE.encode(candidates)
        return ((SPACE.features(rows) - weights.T[:, None]) ** 2).mean(axis=2).T.round(9) * signs

    studies = [
        search(SPACE, evaluate, objectives, budget=64, seed=0, chunk_size=8) for search in (linas, random_search)
    ]
    ours, random = (study.hypervolume(signs * 0.5) for study in studies)
    assert ours > random


def test_limits_that_nothing_meets_yet_are_approached() -> None:
    goals = (Objective("accuracy", "maximize", limit=0.9), Objective("macs", limit=14.0))
    found = {}
    for search in (linas, random_search):
        study = search(SPACE, _evaluate, goals, budget=64, seed=0, chunk_size=8)
        found[search] = [
            max(0.0, 0.9 - m.values["accuracy"]) / 0.9 + max(0.0, m.values["macs"] / 14 - 1)
            for m in study.measurements[24:]
        ]
    assert np.median(found[linas]) < 0.1 < np.median(found[random_search])


def test_a_candidate_on_a_limit_is_as_good_as_one_within() -> None:
    space = Space(tuple(Choice(f"c.{i}", (0, 1, 2, 3)) for i in range(12)))
    gain = np.random.default_rng(0).random(12) + 0.5

    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        rows = space.encode(candidates)
        return np.stack([np.sqrt(rows) @ gain, rows.sum(axis=1)], axis=1)

    goals = [Objective("gain", "maximize"), Objective("cost", limit=12, exact=lambda rows: rows.sum(axis=1))]
    best = linas(space, evaluate, goals, budget=80, seed=0).select()
    assert best.values["cost"] == 12 and best.values["gain"] == pytest.approx(gain.sum(), rel=0.02)


def test_what_keeps_failing_is_asked_for_less() -> None:
    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        values = _evaluate(candidates)
        values[[c["depth"] == 6 and c["heads.0"] == 8 for c in candidates]] = np.nan
        return values

    failed = np.array(
        [m.state == "failed" for m in linas(SPACE, evaluate, OBJECTIVES, budget=100, seed=0).measurements]
    )
    assert failed.any() and failed[-40:].mean() < 0.1


@every
def test_patience_ends_a_search_of_a_whole_space(search: Callable[..., Study]) -> None:
    space = Space((Choice("a", tuple(range(20))), Choice("b", tuple(range(20)))))
    settings = {"budget": 4000, "seed": 0, "patience": 10}
    assert len(search(space, lambda c: [[1.0]] * len(c), [Objective("cost")], **settings).measurements) < 100


def test_random_candidates_are_one_sequence_whatever_the_budget_and_the_patience() -> None:
    whole = [m.candidate for m in _run(random_search, budget=90).measurements]
    for settings in ({"budget": 50}, {"budget": 90, "patience": 25}):
        found = [m.candidate for m in _run(random_search, **settings).measurements]
        assert found == whole[: len(found)] and len(found) > 25


@pytest.mark.slow
def test_the_published_settings_run() -> None:
    study = _run(budget=110, config=LinasConfig.published())
    assert len(study.measurements) == 110


def test_results_are_told_as_they_come_and_settings_are_checked() -> None:
    told: list[tuple[Measurement, int]] = []
    study = _run(budget=25, on_result=lambda m, count: told.append((m, count)))
    assert [m for m, _ in told] == study.measurements and [count for _, count in told] == list(range(1, 26))
    with pytest.raises(UserError, match="most_batch must be at least least_batch 8, got 2"):
        _run(config=LinasConfig(most_batch=2), lag=9)
    for wrong in ({"first_batch": 0}, {"most_batch": 1}, {"crossover": 1.5}, {"mutation": -1.0}, {"samples": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            LinasConfig(**wrong)
    with pytest.raises(UserError, match="budget"):
        _run(budget=0)
