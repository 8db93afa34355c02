"""Predicted latencies: every kind of predictor, the objective of a search, and sizes that run fast."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import profiles
import pytest
import torch

from hardware.profile import ProfileRow
from nas import Objective, linas
from nas.errors import NotTaken, UserError
from nas.profiling.agreement import agreements
from nas.profiling.choice import best_known, choosable
from nas.profiling.front import verify_front
from nas.profiling.objective import latency_objective, predicted_latency
from nas.profiling.prediction import PREDICTOR_KINDS, LatencyPredictor, PredictorKind
from nas.profiling.sizes import with_multiples
from nas.profiling.subject import Subject
from nas.profiling.verification import Remeasuring, Verified, verify
from nas.profiling.verified_record import read_verified
from nas.searching.measurement import Measurement
from nas.searching.study import Study
from nas.searching.translation import translation
from predictors import Additive, Corrected, kendall_tau
from search_spaces import Candidate, Choice, Space


@pytest.fixture(scope="module")
def subject() -> Subject:
    return profiles.subject()


def rows_of(subject: Subject, count: int, noise: float = 0.0) -> tuple[ProfileRow, ...]:
    ratio = profiles.known_latency(subject, noise)
    drawn = subject.supernet.space.decode(subject.supernet.space.random(count, np.random.default_rng(0)))
    return tuple(ProfileRow(candidate=dict(c), timing=profiles.timing(ratio(c)), order=i) for i, c in enumerate(drawn))


@pytest.mark.parametrize("kind", PREDICTOR_KINDS)
def test_every_kind_ranks_what_it_has_not_seen(subject: Subject, kind: PredictorKind) -> None:
    space, ratio = subject.supernet.space, profiles.known_latency(subject)
    train, test = space.random(80, np.random.default_rng(0)), space.random(40, np.random.default_rng(1))
    known, truth = ([ratio(candidate) for candidate in space.decode(rows)] for rows in (train, test))
    predictor = LatencyPredictor(space, subject.kernels, kind).fit(train, known)
    mean, spread = predictor.predict(test)
    assert kendall_tau(truth, mean) > 0.9 and (spread >= 0).all()
    assert mean == pytest.approx(predictor.mean(test))
    if kind in ("combined", "kernels"):
        assert mean == pytest.approx(truth, rel=0.01)


def test_prices_carry_over_to_a_network_of_other_sizes(subject: Subject) -> None:
    # Twice as many features: no candidate of one is a candidate of the other, and the operators are of the same kinds.
    space, kernels = subject.supernet.space, subject.kernels
    macs = [index for index, name in enumerate(kernels.names) if name.startswith("macs")]
    rows = space.random(40, np.random.default_rng(0))
    sums = kernels.of(rows)
    prices = Additive().fit(sums, 1.0 + 1e-6 * sums[:, macs].sum(axis=1))
    other = 2 * kernels.of(space.random(20, np.random.default_rng(1)))
    assert prices.mean(other) == pytest.approx(1.0 + 1e-6 * other[:, macs].sum(axis=1), rel=0.02)


def test_noise_is_not_learned_and_shows_in_the_spread() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, size=(120, 6))
    truth = 1 + x[:, :2].sum(axis=1)
    y = truth * (1 + 0.05 * rng.standard_normal(120))
    corrected = Corrected(2).fit(x[:100], y[:100])
    mean, spread = corrected.predict(x[100:])
    assert mean == pytest.approx(truth[100:], rel=0.04)
    assert 0.03 < float(np.median(spread / mean)) < 0.08


def test_what_does_not_add_up_is_corrected() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, size=(150, 3))
    y = (1 + x[:, 0]) * (1 + 0.3 * np.sin(4 * x[:, 1]))
    trend = Additive().fit(x[:100, :1], y[:100]).mean(x[100:, :1])
    mean, _ = Corrected(1).fit(x[:100], y[:100]).predict(x[100:])
    assert np.abs(mean / y[100:] - 1).mean() < 0.3 * np.abs(trend / y[100:] - 1).mean()


def test_the_latency_of_a_profile_is_an_exact_objective(subject: Subject) -> None:
    profile = profiles.profile(subject, rows=rows_of(subject, 40))
    whole = subject.supernet.space
    joined = Space((Choice("precision.x", ("int8", "float32")), *whole.choices))
    with pytest.raises(UserError, match=r"choices of the super-network only, got precision\.x"):
        predicted_latency(profile, subject, joined)(joined.encode([joined.full()]))
    predicted = predicted_latency(profile, subject, whole)
    objectives = [Objective("depth", "maximize"), latency_objective("latency_ms", predicted, limit=15.0)]
    asked: list[int] = []

    def evaluate(candidates):  # type: ignore[no-untyped-def]
        asked.append(len(candidates))
        return np.stack([[c["depth"] for c in candidates], predicted(whole.encode(candidates))], axis=1)

    study = linas(whole, evaluate, objectives, budget=40, seed=0)
    ratio = profiles.known_latency(subject)
    for member in study.front():
        expected = profiles.FULL_MS * ratio(member.candidate)
        assert member.values["latency_ms"] == pytest.approx(expected, rel=0.02) and sum(asked) == 40
        assert member.values["latency_ms"] <= 15.0
    assert sum(asked) == 40
    mean, spread = predicted.interval(whole.largest())
    assert mean == pytest.approx(profiles.FULL_MS, rel=0.02) and spread >= 0


def test_sizes_that_are_multiples(subject: Subject) -> None:
    whole = subject.supernet.space
    fast = with_multiples(whole, 32)
    assert with_multiples(whole, 1) == whole
    assert fast["ffn.0"].options == (32, 64) and fast["depth"] == whole["depth"]
    assert fast["heads.0"].options == (4,), "a head has 8 features"
    rows = fast.random(30, np.random.default_rng(0))
    assert whole.decode(translation(fast, whole)(rows)) == fast.decode(rows)
    with pytest.raises(UserError, match="multiple-of must be at least 1"):
        with_multiples(whole, 0)
    with pytest.raises(UserError, match="must hold options of the super-network only"):
        translation(whole, fast)
    with pytest.raises(UserError, match="is missing"):
        translation(Space(whole.choices[1:]), whole)


def test_measured_latencies_take_the_place_of_predicted_ones(subject: Subject) -> None:
    space = subject.space
    candidates = space.decode(space.random(4, np.random.default_rng(0)))
    members = [
        Measurement(candidate, {"accuracy": accuracy, "latency_ms": latency}, "measured", None, 0.0)
        for candidate, accuracy, latency in zip(candidates, (0.9, 0.8, 0.7, 0.6), (8.0, 6.0, 4.0, 2.0), strict=True)
    ]
    objectives = [Objective("accuracy", "maximize"), Objective("latency_ms")]
    verified = [
        Verified(member.candidate, {"latency_ms": member.values["latency_ms"]}, {"latency_ms": latency})
        for member, latency in zip(members[:3], (8.0, 9.0, 5.0), strict=True)
    ]
    again = best_known(members, verified)
    assert [member.values["latency_ms"] for member in again] == [8.0, 9.0, 5.0, 2.0]
    found = agreements(members, objectives, verified)["latency_ms"]
    assert (found.count, found.non_dominated) == (3, 2)
    assert found.kendall_tau == pytest.approx(1 / 3) and found.mape == pytest.approx(100 * (0 + 3 / 9 + 1 / 5) / 3)
    assert agreements(members, objectives, []) == {}
    unstable = [replace(verified[0], measured={}, unstable=frozenset({"latency_ms"})), *verified[1:]]
    assert [member.values["latency_ms"] for member in best_known(members, unstable)] == [8.0, 9.0, 5.0, 2.0]
    assert agreements(members, objectives, unstable)["latency_ms"].count == 2


def test_what_is_offered_is_as_measured_on_each_device_and_taken_by_all(subject: Subject) -> None:
    space = subject.space
    candidates = space.decode(space.random(4, np.random.default_rng(0)))
    names = ("latency_ms_laptop", "latency_ms_phone")
    study = Study(space, [Objective("accuracy", "maximize"), *map(Objective, names)])
    for candidate, accuracy in zip(candidates, (0.9, 0.8, 0.7, 0.6), strict=True):
        values = {"accuracy": accuracy, names[0]: 100 * accuracy, names[1]: 10 * accuracy}
        study.commit(Measurement(candidate, values, "measured", None, 0.0))

    def laptop(candidate: Candidate) -> float:
        if candidate == candidates[1]:
            raise NotTaken("it is odd")
        return 6.0 * profiles.FULL_MS

    front = {member.candidate: member for member in study.front()}
    verified = [verify(front[candidate], Remeasuring({names[0]: laptop})) for candidate in candidates[:2]]
    verified += [verify(front[candidates[2]], Remeasuring({names[1]: lambda _: 0.4 * profiles.FULL_MS}))]
    assert [each.refused for each in verified] == [frozenset(), {names[0]}, frozenset()]
    found = {member.candidate: dict(member.values) for member in choosable(study, verified)}
    assert list(found) == [candidates[0], candidates[2], candidates[3]]
    assert found[candidates[0]] == {"accuracy": 0.9, names[0]: 6.0 * profiles.FULL_MS, names[1]: 9.0}
    assert found[candidates[2]] == {"accuracy": 0.7, names[0]: 70.0, names[1]: 0.4 * profiles.FULL_MS}
    assert found[candidates[3]] == dict(front[candidates[3]].values)
    told = agreements(study.front(), study.objectives, verified)
    assert {name: each.count for name, each in told.items()} == {names[0]: 1, names[1]: 1}


def test_a_long_front_is_measured_from_end_to_end_and_all_of_it_is_offered(subject: Subject, tmp_path: Path) -> None:
    space = subject.space
    candidates = space.decode(np.unique(space.random(80, np.random.default_rng(0)), axis=0))
    study = Study(space, [Objective("accuracy", "maximize"), Objective("latency_ms")])
    for place, candidate in enumerate(candidates, 1):
        study.commit(Measurement(candidate, {"accuracy": place / 100, "latency_ms": place}, "measured", None, 0.0))
    assert len(study.front()) == len(candidates) > 60
    asked: list[Candidate] = []

    def measure(candidate: Candidate) -> float:
        asked.append(candidate)
        return 0.5

    measures = Remeasuring({"latency_ms": measure})
    verified = verify_front(tmp_path, study, measures)
    assert len(asked) == len(verified) == 60 and {candidates[0], candidates[-1]} <= set(asked)
    assert {member.candidate for member in choosable(study, verified)} == set(candidates)
    assert len(verify_front(tmp_path, study, measures)) == len(candidates), "the next command measures more"
    assert sorted(map(str, asked)) == sorted(map(str, candidates))


@pytest.mark.parametrize(("slower", "further"), [(1.0, 0), (1.2, 3)])
def test_what_is_measured_beside_a_front_is_what_may_be_better_than_it(
    subject: Subject, tmp_path: Path, slower: float, further: int
) -> None:
    """All scores fall by the same, so the rest promises nothing; unless the front is too slow when it is measured."""
    space = subject.space
    candidates = space.decode(np.unique(space.random(30, np.random.default_rng(0)), axis=0))
    study = Study(space, [Objective("accuracy", "maximize"), Objective("latency_ms", limit=10.0)])
    front = [(0.9, 9.5), (0.8, 9.2), (0.7, 9.0), (0.6, 8.9)]
    off = [(0.85, 9.8), (0.75, 9.4), (0.65, 9.3), (0.5, 8.0 / 0.9)] + [(0.4, 9.0)] * (len(candidates) - 8)
    for candidate, (accuracy, latency) in zip(candidates, [*front, *off], strict=True):
        values = {"accuracy": accuracy, "latency_ms": latency}
        study.commit(Measurement(candidate, values, "measured", None, 0.0))
    searched = {each.candidate: each.values for each in study.measurements}
    fast = dict.fromkeys(candidates[4:7], 8.0)
    measures = Remeasuring(
        {
            "accuracy": lambda candidate: searched[candidate]["accuracy"] - 0.1,
            "latency_ms": lambda candidate: fast.get(candidate, slower * searched[candidate]["latency_ms"]),
        }
    )
    verified = verify_front(tmp_path, study, measures)
    assert len(study.front()) == 5
    assert len(verified) == len(study.front()) + min(further, 1)
    if further:
        assert verified[-1].candidate == candidates[4] and verified[-1].measured["latency_ms"] == 8.0


def test_what_got_stable_on_one_device_stays_whatever_another_does(subject: Subject) -> None:
    candidate = subject.space.largest()
    laptop = Verified(candidate, {"latency_ms_laptop": 6.0}, {"latency_ms_laptop": 5.0})
    phone = Verified(candidate, {"latency_ms_phone": 9.0}, {}, frozenset({"latency_ms_phone"}))
    for both in (laptop.with_newer(phone), phone.with_newer(laptop)):
        assert both.measured == {"latency_ms_laptop": 5.0} and both.unstable == {"latency_ms_phone"}
    again = phone.with_newer(replace(phone, measured={"latency_ms_phone": 8.0}, unstable=frozenset()))
    assert again.measured == {"latency_ms_phone": 8.0} and not again.unstable


def test_a_network_that_cannot_be_traced_is_one_sentence(subject: Subject) -> None:
    broken = Subject("broken", subject.supernet, {"input_ids": torch.zeros(1, 16)}, subject.space)
    with pytest.raises(UserError, match="must be traceable"):
        _ = broken.kernels


@pytest.mark.parametrize(
    ("name", "value"), [("accuracy", math.nan), ("accuracy", 1.5), ("latency_ms", 0.0), ("latency_ms", math.inf)]
)
def test_what_is_no_number_of_its_kind_is_refused_once(
    subject: Subject, tmp_path: Path, name: str, value: float, capfd: pytest.CaptureFixture[str]
) -> None:
    """The others are measured and may be chosen, and the same command goes on from the record."""
    space = subject.space
    candidates = space.decode(np.unique(space.random(6, np.random.default_rng(0)), axis=0))
    study = Study(space, [Objective("accuracy", "maximize"), Objective("latency_ms")])
    for place, candidate in enumerate(candidates, 1):
        study.commit(Measurement(candidate, {"accuracy": place / 100, "latency_ms": place}, "measured", None, 0.0))
    asked: list[Candidate] = []

    def measure(candidate: Candidate) -> float:
        asked.append(candidate)
        return value if candidate == candidates[-1] else 0.5

    verified = verify_front(tmp_path, study, Remeasuring({name: measure}))
    assert f"{name} of one sub-network is not measured, so that it is not offered: its {name} is {value}" in " ".join(
        capfd.readouterr().err.split()
    )
    assert {each.candidate: set(each.refused) for each in verified} == {
        candidate: {name} if candidate == candidates[-1] else set() for candidate in candidates
    }
    assert read_verified(tmp_path, space) == verified
    assert candidates[-1] not in {member.candidate for member in choosable(study, verified)}
    assert verify_front(tmp_path, study, Remeasuring({name: measure})) == verified and len(asked) == len(candidates)
