"""Growing a profile: which sub-networks are measured, in what order, and how it goes on where it was stopped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import profiles
import pytest

from hardware.deployment import Deployment
from hardware.profile import DeviceProfile, MeasurementProtocol, ProfileRow, Timing, read_profile
from nas.errors import NotTaken, UserError
from nas.profiling.bench import rows_protocol
from nas.profiling.collection import LEAST, Effort, checked_twice, grow, planned
from nas.profiling.design import first_rows, most_telling, pool
from nas.profiling.prediction import features_of_design
from nas.profiling.rows import fitted, held_out, learned_rows
from nas.profiling.subject import Subject
from search_spaces import Candidate, Space


@pytest.fixture(scope="module")
def subject() -> Subject:
    return profiles.subject()


class Machine:
    """Measures by formula, keeps what was asked, and may break off."""

    def __init__(self, subject: Subject, *, stops_after: int | None = None, stable: bool = True) -> None:
        self.asked: list[Candidate] = []
        self._ratio, self._stops_after, self._stable = profiles.known_latency(subject), stops_after, stable

    def __call__(self, candidate: Candidate) -> Timing:
        if len(self.asked) == self._stops_after:
            raise KeyboardInterrupt
        self.asked.append(candidate)
        return profiles.timing(self._ratio(candidate), stable=self._stable)


def test_the_first_rows_are_the_ends_and_every_dimension_alone(subject: Subject) -> None:
    space = subject.space
    rows = first_rows(space)
    candidates = space.decode(rows)
    assert candidates[:2] == [space.smallest(), space.largest()]
    assert len(set(candidates)) == len(candidates)
    only_heads = {name: 1 if name.startswith("heads") else option for name, option in space.largest().items()}
    assert space.candidate(only_heads) in candidates
    assert space.candidate({**space.largest(), "depth": 2}) in candidates


def test_what_is_chosen_tells_more_than_chance(subject: Subject) -> None:
    space, rng = subject.space, np.random.default_rng(0)
    features = features_of_design(space, subject.kernels)
    candidates, known = pool(space, rng), first_rows(space)
    chosen = most_telling(candidates, known, features, 20)
    assert len(np.unique(chosen, axis=0)) == 20
    assert not {row.tobytes() for row in chosen} & {row.tobytes() for row in known}

    def told(rows: np.ndarray) -> float:
        x = features(np.concatenate([known, rows]))
        return float(np.linalg.slogdet(x.T @ x + 1e-2 * np.eye(x.shape[1]))[1])

    assert told(chosen) > max(told(space.random(20, rng)) for _ in range(10))


def test_weights_lead_to_what_is_unsure(subject: Subject) -> None:
    space = subject.space
    candidates = pool(space, np.random.default_rng(0))
    weights = np.full(len(candidates), 1e-3)
    weights[7] = 1.0
    chosen = most_telling(candidates, first_rows(space), features_of_design(space, subject.kernels), 1, weights)
    assert (chosen == candidates[7]).all()


def test_a_profile_grows_to_its_budget_and_measures_some_twice(subject: Subject, tmp_path: Path) -> None:
    machine, path = Machine(subject), tmp_path / "profile.json"
    seen: list[int] = []

    def on_row(grown: DeviceProfile, row: ProfileRow) -> None:
        seen.append(row.order)

    begun = profiles.profile(subject)
    grown = grow(begun, subject, machine, Effort(budget=30), seed=0, path=path, on_row=on_row)
    twice = checked_twice(subject, 30, 0)
    assert len(set(machine.asked)) == 30 and len(machine.asked) == 30 + len(twice)
    assert machine.asked[: len(twice)] == machine.asked[-len(twice) :] == twice
    assert {subject.space.smallest(), subject.space.largest()} <= set(machine.asked)
    assert seen == list(range(len(machine.asked))) == [row.order for row in grown.rows]
    assert grown.noise_floor == 0.0 and read_profile(path) == grown


@pytest.mark.parametrize("stop", [1, 6, 25, 31])
def test_a_stopped_profile_goes_on(subject: Subject, tmp_path: Path, stop: int) -> None:
    path, begun = tmp_path / "profile.json", profiles.profile(subject)
    first, rest, whole = Machine(subject, stops_after=stop), Machine(subject), Machine(subject)
    with pytest.raises(KeyboardInterrupt):
        grow(begun, subject, first, Effort(budget=30), seed=0, path=path)
    grown = grow(read_profile(path), subject, rest, Effort(budget=30), seed=0, path=path)
    grow(begun, subject, whole, Effort(budget=30), seed=0)
    twice = checked_twice(subject, 30, 0)
    # What is chosen by what was measured depends on the batches, which a stop divides otherwise.
    designed = len(dict.fromkeys([*twice, *planned(subject, 20, 0)]))
    together = first.asked + rest.asked
    assert together[:designed] == whole.asked[:designed] and together[-len(twice) :] == twice
    assert len(together) == len(whole.asked)
    assert len({row.key for row in grown.rows}) == 30
    done = Machine(subject)
    assert grow(grown, subject, done, Effort(budget=30), seed=0) == grown and not done.asked


def test_a_profile_says_how_long_its_rows_took_however_often_it_was_stopped(subject: Subject, tmp_path: Path) -> None:
    path, now = tmp_path / "profile.json", [0.0]

    class Slow(Machine):
        def __call__(self, candidate: Candidate) -> Timing:
            now[0] += 2.5
            return super().__call__(candidate)

    begun, first = profiles.profile(subject), Slow(subject, stops_after=4)
    with pytest.raises(KeyboardInterrupt):
        grow(begun, subject, first, Effort(budget=12), seed=0, path=path, clock=lambda: now[0])
    now[0] += 1000
    grown = grow(read_profile(path), subject, Slow(subject), Effort(budget=12), seed=0, clock=lambda: now[0])
    assert [row.seconds for row in grown.rows] == [2.5] * (12 + len(checked_twice(subject, 12, 0)))


def test_time_ends_it_once_there_are_enough(subject: Subject) -> None:
    machine, now = Machine(subject), [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    grow(profiles.profile(subject), subject, machine, Effort(budget=60, seconds=1.0), seed=0, clock=clock)
    assert len(set(machine.asked)) == LEAST


def test_a_small_space_is_measured_whole(subject: Subject) -> None:
    ends = [replace(c, options=c.options[-1:]) if c.name != "depth" else c for c in subject.space.choices]
    few = Subject(subject.name, subject.supernet, subject.inputs, Space(tuple(ends)))
    machine = Machine(subject)
    grow(profiles.profile(few), few, machine, Effort(budget=50), seed=0)
    assert len(set(machine.asked)) == few.space.size()


def test_rows_that_do_not_get_stable_are_an_error_and_measured_anew(subject: Subject) -> None:
    begun = profiles.profile(subject)
    with pytest.raises(UserError, match=r"24 of 24 profiled sub-networks did not get stable; stop what else runs"):
        grow(begun, subject, Machine(subject, stable=False), Effort(budget=30), seed=0)
    row = ProfileRow(candidate=dict(subject.space.largest()), timing=profiles.timing(1.0, stable=False), order=0)
    mended = grow(begun.model_copy(update={"rows": (row,)}), subject, Machine(subject), Effort(budget=8), seed=0)
    assert all(each.timing.stable for each in mended.rows)


def test_what_a_runtime_does_not_take_is_left_out(subject: Subject) -> None:
    machine, left_out = Machine(subject), []

    def odd(candidate: Candidate) -> bool:
        return candidate["depth"] == 3 and candidate["ffn.0"] == 32

    def picky(candidate: Candidate) -> Timing:
        if odd(candidate):
            raise NotTaken("it is odd")
        return machine(candidate)

    begun = profiles.profile(subject)
    effort = Effort(budget=30)
    grow(begun, subject, picky, effort, seed=0, on_refused=lambda candidate, _: left_out.append(candidate))
    assert left_out and all(map(odd, left_out))
    assert len(left_out) == len(set(left_out)) and len(set(machine.asked)) == 30

    def never(candidate: Candidate) -> Timing:
        raise NotTaken("it is odd")

    with pytest.raises(UserError, match="5 sub-networks could not be measured, more than could; the last: it is odd"):
        grow(begun, subject, never, effort, seed=0)


def test_a_plan_for_elsewhere_has_no_candidate_twice(subject: Subject) -> None:
    found = planned(subject, 25, seed=0)
    assert len(set(found)) == len(found) == 25
    assert found[: len(checked_twice(subject, 25, 0))] == checked_twice(subject, 25, 0)
    assert found == planned(subject, 25, seed=0)


def test_the_clock_is_that_of_the_protocol(subject: Subject) -> None:
    busy = profiles.timing(0.5).model_copy(
        update={"ratio": 0.7, "median_ms": 14.0, "quartiles": (14.0, 14.0), "p95_ms": 14.0}
    )
    by_wall = profiles.profile(subject, protocol=MeasurementProtocol(), reference=busy)
    by_cpu = by_wall.model_copy(update={"protocol": rows_protocol(Deployment())})
    assert (by_wall.ratio(busy), by_wall.full_ms) == (0.7, 14.0)
    assert (by_cpu.ratio(busy), by_cpu.full_ms) == (0.5, 10.0)
    assert rows_protocol(Deployment(threads=2)).clock == rows_protocol(Deployment(device="cuda")).clock == "wall"


def test_repeated_rows_count_once(subject: Subject) -> None:
    candidate = dict(subject.space.largest())
    rows = [
        ProfileRow(candidate=candidate, timing=profiles.timing(value), order=i) for i, value in enumerate((0.9, 1.1))
    ]
    encoded, ratios = learned_rows(profiles.profile(subject, rows=tuple(rows)), subject.space)
    assert encoded.shape == (1, len(subject.space.choices)) and ratios == pytest.approx([1.0])


def test_a_grown_profile_predicts_what_was_not_measured(subject: Subject) -> None:
    grown = grow(profiles.profile(subject), subject, Machine(subject), Effort(budget=30), seed=0)
    predictor = fitted(grown, subject.supernet.space, subject.kernels)
    unseen = subject.space.random(50, np.random.default_rng(1))
    ratio = profiles.known_latency(subject)
    truth = [ratio(candidate) for candidate in subject.space.decode(unseen)]
    mean, spread = predictor.predict(unseen)
    assert mean == pytest.approx(truth, rel=0.01)
    assert (spread >= 0).all() and predictor.mean(unseen) == pytest.approx(mean)
    judged = held_out(grown, subject.supernet.space, subject.kernels)
    assert judged is not None and judged.mape is not None and judged.mape < 1
