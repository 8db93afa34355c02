"""A profile and its objective from Python: measured here, and refused where it is of something else."""

from pathlib import Path

import profiles
import pytest
import torch

import nas
from hardware import DeviceProfile, read_profile
from nas.errors import UserError
from nas.profiling.collection import Effort, grow


def test_a_super_network_is_profiled_and_searched_by_it(tmp_path: Path) -> None:
    subject, path = profiles.subject(), tmp_path / "profile.json"
    # Times are not the point here, so any is stable enough.
    profile = nas.measure_profile(subject.supernet, subject.inputs, seed=0, budget=20, tolerance=100.0, path=path)
    assert read_profile(path) == profile and len({row.key for row in profile.rows}) == 20
    latency = nas.objective_from_profile(profile, subject.supernet, subject.inputs)
    space = subject.supernet.space
    assert latency.exact is not None
    study = nas.search(
        subject.supernet,
        space,
        None,
        [nas.Objective("parameters", "maximize"), latency],
        budget=30,
        seed=0,
        example_inputs=subject.inputs,
    )
    # One at a time, as the search does: the last bit of a product of matrices hangs on how many rows there are.
    for member in study.measurements:
        assert member.values["latency_ms"] == latency.exact(space.encode([member.candidate]))[0] > 0


def test_a_study_goes_on_with_the_same_profile_only(tmp_path: Path) -> None:
    subject = profiles.subject()
    ratio = profiles.known_latency(subject)

    def profile(speed: float) -> DeviceProfile:
        begun = profiles.profile(subject)
        return grow(begun, subject, lambda each: profiles.timing(speed * ratio(each)), Effort(budget=20), seed=0)

    def search(of: DeviceProfile, budget: int) -> nas.Study:
        return nas.search(
            subject.supernet,
            subject.supernet.space,
            None,
            [nas.Objective("parameters", "maximize"), nas.objective_from_profile(of, subject.supernet, subject.inputs)],
            budget=budget,
            seed=0,
            example_inputs=subject.inputs,
            storage=tmp_path / "study.journal",
        )

    here, there = profile(1.0), profile(0.5)
    begun = search(here, 6).measurements
    assert search(here, 8).measurements[:6] == begun
    with pytest.raises(UserError, match="belongs to a search with another objectives"):
        search(there, 10)


def test_a_profile_of_something_else_is_refused() -> None:
    subject = profiles.subject()
    profile = profiles.profile(subject)
    longer = {name: torch.cat([value, value], dim=1) for name, value in dict(subject.inputs).items()}
    with pytest.raises(nas.UserError, match="these inputs: tokens is"):
        nas.objective_from_profile(profile, subject.supernet, longer)
    with pytest.raises(nas.UserError, match="profiled sub-networks"):
        nas.objective_from_profile(profile, subject.supernet, subject.inputs)
