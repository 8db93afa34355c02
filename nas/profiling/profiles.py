"""The device profiles of a search: which there are, whether they are of its network, and what they predict.

Each is kept beside the study, under the name of its objective, so that what comes after the search needs no other file.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hardware.profile import DeviceProfile, digest, read_profile, write_profile
from nas.errors import UserError
from nas.objectives import LATENCY
from nas.profiling.objective import PredictedLatency, latency_objective, predicted_latency
from nas.profiling.sizes import with_multiples
from nas.profiling.subject import Subject, differences
from nas.searching.measurement import Objective
from nas.searching.relative_latency import LatencySettings
from search_spaces import Space

Profiles = Mapping[str, DeviceProfile]
"""By the name of the objective: `latency_ms`, or `latency_ms_<profile>` where there are several."""

_FOLDER = "profiles"
_MOST = 16


def profile_at(path: Path) -> DeviceProfile:
    """The profile in a file; UserError where it is missing, damaged or of another version."""
    try:
        return read_profile(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def read_profiles(paths: Sequence[Path]) -> dict[str, DeviceProfile]:
    """The profiles that `--profile` names; UserError where one cannot be read, or two have one name."""
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
    """What tells these profiles from others, for the record of a search; nothing where there are none."""
    digests = ", ".join(f"{name} {digest(each)}" for name, each in profiles.items())
    return {"profile": digests} if digests else {}


def keep_profiles(folder: Path, profiles: Profiles) -> None:
    """Write them into the folder of a search."""
    for name, profile in profiles.items():
        (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
        write_profile(profile, folder / _FOLDER / f"{name}.json")


def kept_profiles(folder: Path) -> dict[str, DeviceProfile]:
    """The profiles in the folder of a search; empty where it measured its latencies, or none."""
    paths = sorted((folder / _FOLDER).glob(f"{LATENCY}*.json"))
    return {path.stem: profile_at(path) for path in paths[:_MOST]}


def space_with(space: Space, profiles: Profiles) -> Space:
    """The sub-networks whose sizes run fast on all of the devices, as their profiles ask."""
    for profile in profiles.values():
        space = with_multiples(space, profile.multiple_of)
    return space


MakeSubject = Callable[[int, int, int], Subject]
"""The network of a run with inputs of so many tokens and rows, and of sizes that are multiples of a number."""


def predictions(
    make_subject: MakeSubject,
    profiles: Profiles,
    space: Space,
    *,
    tokens: int | None = None,
    threads: int | None = None,
) -> dict[str, PredictedLatency]:
    """What each profile predicts of candidates encoded in `space`, by the name of the objective.

    Args:
        make_subject: the network that is searched.
        profiles: by the name of the objective.
        space: of the search.
        tokens: that the profiles must be of; None: any.
        threads: that the profiles must be of; None: any.

    Raises:
        UserError: a profile of another network, inputs, tokens or threads; or one whose rows did not get stable.
    """
    given = {"tokens": tokens, "threads": threads}
    return {
        name: predicted_latency(profile, _subject(make_subject, name, profile, given), space)
        for name, profile in profiles.items()
    }


def with_predictions(objectives: Sequence[Objective], predicted: Mapping[str, PredictedLatency]) -> list[Objective]:
    """The objectives, those that a profile predicts with its formula."""
    return [
        latency_objective(each.name, predicted[each.name], each.limit) if each.name in predicted else each
        for each in objectives
    ]


def _subject(make_subject: MakeSubject, name: str, profile: DeviceProfile, given: Mapping[str, int | None]) -> Subject:
    subject = make_subject(profile.tokens or LatencySettings.tokens, profile.batch, profile.multiple_of)
    wanted = subject.asked
    for flag, value in given.items():
        # Images have no length.
        if value is not None and not (flag == "tokens" and subject.tokens is None):
            wanted[flag] = value
    wrong = differences(profile, wanted)
    if wrong:
        raise UserError(f"the profile of {name} must be of this run's network: {wrong[0]}; profile the run itself")
    return subject
