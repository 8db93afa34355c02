"""The device profiles of a search: read them, check that they match its network, and predict latencies from them.

A copy of each is kept beside the study, under the name of its objective, so that later commands need no other file.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hardware.profile import DeviceProfile, digest, read_profile, write_profile
from nas.errors import UserError
from nas.objectives import LATENCY, is_latency
from nas.profiling.objective import PredictedLatency, latency_objective, predicted_latency
from nas.profiling.sizes import with_multiples
from nas.profiling.subject import Subject, differences
from nas.records import Scalar
from nas.searching.measurement import Objective
from nas.searching.relative_latency import LatencySettings
from search_spaces import Space

Profiles = Mapping[str, DeviceProfile]
"""Profiles by the name of their objective: `latency_ms`, or `latency_ms_<file name>` if there are several."""

_FOLDER = "profiles"
_MOST = 16


def profile_at(path: Path) -> DeviceProfile:
    """Read a profile; raises UserError if it is missing, damaged or of another version."""
    try:
        return read_profile(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def read_profiles(paths: Sequence[Path]) -> dict[str, DeviceProfile]:
    """Read the profiles given by `--profile`, by the name of their objective.

    Raises:
        UserError: a profile cannot be read, two have the same file name, or there are too many.
    """
    if len(paths) > _MOST:
        raise UserError(f"--profile may be given {_MOST} times at most, got {len(paths)}")
    found: dict[str, DeviceProfile] = {}
    for path in paths:
        label = re.sub(r"[^A-Za-z0-9.-]", "_", path.stem)[:40]
        name = LATENCY if len(paths) == 1 else f"{LATENCY}_{label}"
        if name in found:
            raise UserError(f"profiles must have file names of their own, got {path.stem} twice; rename one")
        found[name] = profile_at(path)
    return found


def profiles_fingerprint(profiles: Profiles) -> dict[str, str]:
    """The entry of these profiles in the record of a search, by which it recognises them; empty without profiles."""
    digests = ", ".join(f"{name} {digest(each)}" for name, each in profiles.items())
    return {"profile": digests} if digests else {}


def keep_profiles(folder: Path, profiles: Profiles) -> None:
    """Write copies of the profiles into the folder of a search."""
    for name, profile in profiles.items():
        (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
        write_profile(profile, folder / _FOLDER / f"{name}.json")


def kept_profiles(folder: Path, fingerprint: Scalar) -> dict[str, DeviceProfile]:
    """The profiles in the folder of a search; empty where it has none. UserError where one is missing or damaged.

    Args:
        folder: of the search.
        fingerprint: its `profiles_fingerprint`, which has their order: the first decides what the search is for.
    """
    if fingerprint is None:
        # A folder may hold profiles of a search that was cut off before its request was written.
        return {}
    names = [part.partition(" ")[0] for part in str(fingerprint).split(", ")][:_MOST]
    if not all(is_latency(name) and re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names):
        raise UserError(f"the profiles in the record of a search must be named after latencies, got {fingerprint!r}")
    return {name: profile_at(folder / _FOLDER / f"{name}.json") for name in names}


def space_with(space: Space, profiles: Profiles) -> Space:
    """Restrict a space to the sizes that all profiles were measured with, see `DeviceProfile.multiple_of`."""
    for profile in profiles.values():
        space = with_multiples(space, profile.multiple_of)
    return space


MakeSubject = Callable[[int, int, int], Subject]
"""Creates the subject of a run from the number of tokens, the number of rows, and the divisor of sizes."""


def predictions(
    make_subject: MakeSubject,
    profiles: Profiles,
    space: Space,
    *,
    tokens: int | None = None,
    threads: int | None = None,
) -> dict[str, PredictedLatency]:
    """Fit a latency predictor to each profile.

    Args:
        make_subject: creates the subject of the network that is searched.
        profiles: by the name of the objective.
        space: the space that is searched, in which candidates are encoded.
        tokens: number of tokens that the profiles must have; None accepts any.
        threads: number of threads that the profiles must have; None accepts any.

    Returns:
        The predicted latencies by the name of the objective.

    Raises:
        UserError: a profile has another network, inputs, tokens or threads, or too few stable rows.
    """
    given = {"tokens": tokens, "threads": threads}
    return {
        name: predicted_latency(profile, _subject(make_subject, name, profile, given), space)
        for name, profile in profiles.items()
    }


def with_predictions(objectives: Sequence[Objective], predicted: Mapping[str, PredictedLatency]) -> list[Objective]:
    """Replace the objectives whose latency a profile predicts by computed ones."""
    return [
        latency_objective(each.name, predicted[each.name], each.limit) if each.name in predicted else each
        for each in objectives
    ]


def _subject(make_subject: MakeSubject, name: str, profile: DeviceProfile, given: Mapping[str, int | None]) -> Subject:
    subject = make_subject(profile.tokens or LatencySettings.tokens, profile.batch, profile.multiple_of)
    requested = subject.fingerprint
    for flag, value in given.items():
        # Images have no length in tokens, so the flag does not apply to them.
        if value is not None and not (flag == "tokens" and subject.tokens is None):
            requested[flag] = value
    wrong = differences(profile, requested)
    if wrong:
        raise UserError(f"the profile of {name} must be of this run's network: {wrong[0]}; profile the run itself")
    return subject
