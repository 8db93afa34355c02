"""A search that was made in a run folder, loaded for the commands that come after it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import get_args

from hardware.deployment import Deployment
from hardware.machine import in_words
from hardware.policy import PrecisionChoices
from hardware.profile import BY_LAYER, DeviceProfile
from hardware.profile import Precision as AnyPrecision
from hardware.registry import NAMES
from nas.console import say
from nas.errors import UserError
from nas.objectives import LATENCY, SCORES
from nas.profiling.choice import choose
from nas.profiling.profiles import kept_profiles
from nas.profiling.reasons import reason
from nas.profiling.verification import Verified
from nas.profiling.verified_record import read_verified
from nas.records import Scalar
from nas.runs.folder import JOURNAL, RunFolder, no_search
from nas.runs.precisions import QUANTIZE, recorded_precisions
from nas.runs.products import PRODUCTS
from nas.searching.measurement import Measurement
from nas.searching.objectives import on_every_device
from nas.searching.relative_latency import LatencySettings
from nas.searching.selection import Bound, bounds_of
from nas.searching.storage_address import Storage, is_url
from nas.searching.study import Study, load_study
from nas.sentences import did_you_mean, one_of, quoted
from nas.settings import Precision, Runtime, SearchSettings
from search_spaces import Candidate, Space
from search_spaces.quantization import architecture

CALIBRATION_ROWS = "calibration_rows"
"""The entry of a search's record, where they are not as many as usual."""


@dataclass(frozen=True)
class Best:
    """The best within limits, and why it is: a sentence each without its full stop, where that is not plain."""

    measurement: Measurement
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class LoadedSearch:
    """What a search found, and what it was for.

    Args:
        folder: of the search.
        name: of the search.
        request: as `search.json` has it.
        study: every measurement.
        verified: what was measured again.
        profiles: the device profiles, by the name of the objective.
        deployment: what the chosen network will run in; its device is the processor unless a profile says otherwise.
        precisions: what layers may compute in, where precision goes by layer.
        chooses_full: whether the full network may be chosen.
        unlimited: what is said of a choice without limits; empty where there is nothing to say.
    """

    folder: Path
    name: str
    request: Mapping[str, Scalar]
    study: Study
    verified: list[Verified]
    profiles: Mapping[str, DeviceProfile]
    deployment: Deployment
    precisions: PrecisionChoices | None = None
    chooses_full: bool = True
    unlimited: str = ""

    @property
    def calibration_rows(self) -> int:
        """How many training rows its quantized files are calibrated on."""
        return _whole(self.request.get(CALIBRATION_ROWS), SearchSettings.calibration_rows)

    def best(self, limits: Mapping[str, float]) -> Best:
        """The best within the limits, see `nas.profiling.choice.choose`.

        Says why it is the best where that is not plain, and what of the front was not measured.
        """
        names = {objective.name for objective in self.study.objectives}
        of_files = set() if self.deployment.is_eager_float32 else names & {*SCORES, "size_mib"}
        _say_unmeasured(self.study, self.verified, self.profiles, of_files)
        best = choose(self.study, self.verified, limits, self._never)
        why = reason(self.study, self.verified, limits, best.candidate, self._never)
        reasons = tuple(filter(None, ("" if self.bounds(limits) else self.unlimited, why)))
        for each in reasons:
            say(each)
        return Best(best, reasons)

    def bounds(self, limits: Mapping[str, float]) -> list[Bound]:
        """All that a choice within these limits is bounded by, those of the search's own objectives too."""
        objectives = self.study.objectives
        return bounds_of(objectives, on_every_device(limits, [objective.name for objective in objectives]))

    @property
    def _never(self) -> Candidate | None:
        return None if self.chooses_full else self.study.space.full()

    def with_deployment(self, profile: str | None, runtime: Runtime | None, precision: Precision | None) -> Deployment:
        """The deployment of the search, or another one that the user names.

        Args:
            profile: name of one of several device profiles.
            runtime: instead of the deployment's.
            precision: instead of the deployment's; None with another runtime: float32.

        Raises:
            UserError: no profile of that name, or a deployment that this machine does not have.
        """
        deployment = self.deployment if profile is None else self._of_profile(profile)
        return redeployed(deployment, runtime, precision)

    def _of_profile(self, name: str) -> Deployment:
        found = self.profiles.get(name) or self.profiles.get(f"{LATENCY}_{name}")
        if found is None:
            known = [each.removeprefix(f"{LATENCY}_") for each in self.profiles]
            raise UserError(
                f"--profile must name a device profile of the search (there are: {', '.join(known) or 'none'}), "
                f"got {quoted(name)}{did_you_mean(name, known)}"
            )
        return Deployment.of_profile(found)


def load_search(folder: RunFolder, name: str) -> LoadedSearch:
    """Read a search; UserError where there is none of that name, or it is damaged."""
    request, path = folder.read_search(name).request, folder.search(name)
    study, profiles = load_study(path / JOURNAL), kept_profiles(path, request.get("profile"))
    _check_of_run(study, folder, path)
    run = folder.read()
    meaning = PRODUCTS[run.product]
    return LoadedSearch(
        folder=path,
        name=name,
        request=request,
        study=study,
        verified=read_verified(path, study.space),
        profiles=profiles,
        deployment=search_deployment(request, profiles, text=run.kind == "text"),
        precisions=recorded_precisions(request),
        chooses_full=meaning.chooses_full,
        unlimited=meaning.unlimited,
    )


def _check_of_run(study: Study, folder: RunFolder, path: Path) -> None:
    """UserError unless the sub-networks of a study are among those of the run."""
    try:
        there = Space.from_json((folder.supernet / "space.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the super-network of the run cannot be read: {error}") from error
    known = {choice.name: set(choice.options) for choice in there.choices}
    for choice in architecture(study.space).choices:
        if not set(choice.options) <= known.get(choice.name, set()):
            raise UserError(
                f"the study in {path / JOURNAL} must be of this run, which has no choice {choice.name} with these "
                "options; put a copy in its place, or begin another search"
            )


def search_deployment(
    request: Mapping[str, Scalar], profiles: Mapping[str, DeviceProfile], *, text: bool
) -> Deployment:
    """What a search is for: the deployment of its first profile, else the one that its record names."""
    if profiles:
        return Deployment.of_profile(next(iter(profiles.values())))
    tokens, threads = (_whole(request.get(name), getattr(LatencySettings, name)) for name in ("tokens", "threads"))
    runtime, precision = str(request.get("runtime", "pytorch")), request.get("precision", "float32")
    if runtime not in NAMES:
        raise UserError(f"the runtime of a search must be {one_of(NAMES, runtime)}")
    if QUANTIZE in request:
        return Deployment(runtime, BY_LAYER, threads, 1, tokens if text else None)
    known = next((each for each in get_args(Precision) if each == precision), None)
    if known is None:
        raise UserError(f"the precision of a search must be {one_of(get_args(Precision), precision)}")
    return Deployment(runtime, known, threads, 1, tokens if text else None)


def conditions_of(deployment: Deployment, profiles: Mapping[str, DeviceProfile]) -> dict[str, str | int]:
    """What the latencies of a search depend on: on the machine of its first profile, else on this one."""
    profile = next(iter(profiles.values()), None)
    if profile is None:
        try:
            return deployment.conditions()
        except PackageNotFoundError:
            # The run may come from another machine.
            return deployment.conditions_on("another machine", "not installed here")
    machine = profile.machine
    return deployment.conditions_on(in_words(machine.processor, machine.cores), profile.runtime_version)


def redeployed(deployment: Deployment, runtime: Runtime | None, precision: Precision | None) -> Deployment:
    """The deployment with what a user names instead; another runtime begins in float32. UserError as `usable`.

    Precisions by layer stay with another runtime, and give way to one precision that is named.
    """
    if runtime is not None and runtime != deployment.runtime:
        # Precisions by layer are part of the network, and go with it.
        kept: AnyPrecision = BY_LAYER if deployment.by_layer else "float32"
        deployment = replace(deployment, runtime=runtime, precision=kept, device="cpu")
    return usable(replace(deployment, precision=precision or deployment.precision))


def usable(deployment: Deployment) -> Deployment:
    """The same deployment; UserError where this machine does not have it."""
    try:
        deployment.check()
    except ValueError as error:
        raise UserError(str(error)) from error
    return deployment


def _say_unmeasured(
    study: Study, verified: Sequence[Verified], profiled: Collection[str], of_files: Collection[str]
) -> None:
    """Print how many members of the front have only predicted latencies for the objectives `profiled`."""
    done = {each.candidate: each.done for each in verified}
    front = study.front()

    def missing(names: Collection[str]) -> int:
        return sum(not set(names) <= done.get(member.candidate, frozenset()) for member in front)

    if count := missing(profiled):
        say(
            f"{count} of the {len(front)} sub-networks of the front have predicted latencies that were not measured "
            "again; the same nas search, where the device is, measures what is missing"
        )
    if count := missing(of_files):
        say(
            f"{count} of the {len(front)} sub-networks of the front were not measured as they are delivered; the same "
            "nas search measures what is missing (with limits, one with a larger --verify)"
        )


def _whole(value: Scalar, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def study_at(name: str, besides: Path) -> Storage:
    """The study or table that a warm start names, which may be the folder of a search or of a run too.

    Args:
        name: as the user gave it.
        besides: the folder of the search that is to begin with it, which a run's folder does not stand for.

    Raises:
        UserError: a run that has several searches and none with the usual name, or none.
    """
    path = Path(name)
    if is_url(name) or not path.is_dir():
        return name if is_url(name) else path
    folder = RunFolder(path)
    if not folder.run_json.is_file():
        return path / JOURNAL
    names = [each for each in folder.searches() if folder.search(each).resolve() != besides.resolve()]
    chosen = names[0] if len(names) == 1 else SearchSettings.name
    if chosen not in names:
        raise UserError(f"{no_search(name, chosen, names)}; name the folder of a search")
    return folder.search(chosen) / JOURNAL
