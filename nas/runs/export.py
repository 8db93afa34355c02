"""`nas export`: one sub-network of a run as a folder of its own, with figures of its files from the test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from hardware.cost import cost
from hardware.deployment import Deployment
from nas.console import say
from nas.data.tasks import Task
from nas.errors import UserError
from nas.exporting.card import Card
from nas.exporting.comparison import Comparison, Contender, compare
from nas.exporting.folder import NetworkExport, check_target, in_place_of, staged
from nas.files import read_json
from nas.networks.loading import maker
from nas.networks.policies import joined_space, policy_of
from nas.objectives import LATENCY, quantity
from nas.profiling.device_latency import elsewhere
from nas.profiling.profiles import Profiles, predictions
from nas.runs.exported import keep_exported
from nas.runs.folder import RunFolder
from nas.runs.loaded_search import LoadedSearch, load_search, redeployed
from nas.runs.loading import LoadedRun, load_run
from nas.runs.requests import ExportRequest
from nas.searching.beyond_limits import Beyond, beyond_limits
from nas.searching.selection import Bound
from nas.sentences import did_you_mean
from nas.settings import ModelSettings, SearchSettings
from search_spaces import Candidate, Space
from search_spaces.inputs import Inputs


@dataclass(frozen=True)
class Chosen:
    """A sub-network and how it will run.

    Args:
        candidate: the sub-network.
        deployment: how it will run.
        values: what the search measured of it; empty where none did.
        profiles: of the search.
        calibration_rows: training rows that quantized files are calibrated on.
        bounds: the limits that it was chosen within.
    """

    candidate: Candidate
    deployment: Deployment
    values: Mapping[str, float] = field(default_factory=dict)
    profiles: Profiles = field(default_factory=dict)
    calibration_rows: int = SearchSettings.calibration_rows
    bounds: Sequence[Bound] = ()


def export_run(request: ExportRequest) -> dict[str, Any]:
    """Write one candidate as a folder of its own, in its deployment, with figures from the test rows.

    Raises:
        UserError: no such search or candidate, a limit on something that the search did not measure, a deployment that
            this machine does not have, or `out` is something else.
        NoFeasible: nothing meets the limits.
        ExportError: what was written computes something else; nothing is left.
    """
    folder, out, limits = RunFolder(request.run), request.out, request.limits.checked()
    folder.read()
    if request.own != ModelSettings():
        raise UserError(
            "--weights, --image-size, --mean, --std and --tokenizer are for the network that an evolved layer is put "
            "into; a run knows those of its own network, leave them out"
        )
    check_target(out)
    with folder.locked():
        # 1. The choice, by what the search measured on validation rows, and how it will run.
        loaded = load_run(folder, request.common.device, request.model)
        chosen = named_candidate(loaded, request.candidate or "chosen", request.name, limits)
        chosen = replace(chosen, deployment=_deployment(folder, chosen, request))
        # 2. Its files, and their figures beside the full network's, from test rows that neither training nor search has
        # seen; the folder takes its place when all of it was checked.
        result = deliver(loaded, chosen, loaded.extract(chosen.candidate), out, request.model)
        if request.name in folder.searches():
            keep_exported(folder.search(request.name), result)
    return {**result, "search": {"run": str(request.run), "name": request.name, **chosen.values}}


def _deployment(folder: RunFolder, chosen: Chosen, request: ExportRequest) -> Deployment:
    """That of the search, unless the request names another."""
    if request.name in folder.searches() or request.profile is not None:
        search = load_search(folder, request.name)
        return search.with_deployment(request.profile, request.runtime, request.precision)
    return redeployed(chosen.deployment, request.runtime, request.precision)


def named_candidate(loaded: LoadedRun, spec: str, name: str, limits: Mapping[str, float]) -> Chosen:
    """The sub-network that a user names: chosen, its number in the front, largest, smallest, or a JSON file.

    Args:
        loaded: the run.
        spec: `chosen` is the best of the search `name` within the limits; numbers count from 1, as in front.csv.
        name: of the search.
        limits: by flag name, for `chosen` alone.

    Raises:
        UserError: no such search or number, or a file that is missing, damaged or of another space.
        NoFeasible: nothing meets the limits.
    """
    folder, space = loaded.folder, loaded.supernet.space
    if spec == "chosen":
        search = load_search(folder, name)
        best, bounds = search.best(limits).measurement, search.bounds(limits)
        return Chosen(best.candidate, search.deployment, best.values, search.profiles, search.calibration_rows, bounds)
    if limits:
        raise UserError("limits choose among the candidates of a search: give them without --candidate, or with chosen")
    if spec.isdecimal():
        return _numbered(load_search(folder, name), int(spec))
    deployment = loaded.default_deployment()
    # The default need not exist for networks that no search chose; any other name is meant.
    if name in folder.searches() or name != SearchSettings.name:
        search = load_search(folder, name)
        space, deployment = joined_space(loaded.supernet, search.precisions), search.deployment
    if spec in ("largest", "smallest"):
        return Chosen(space.full() if spec == "largest" else space.smallest(), deployment)
    return Chosen(_in_file(loaded, space, Path(spec)), deployment)


def _numbered(search: LoadedSearch, number: int) -> Chosen:
    front = search.study.front()
    if not 1 <= number <= len(front):
        raise UserError(
            f"--candidate must be a number from 1 to {len(front)}, the members of the front of {search.name}, "
            f"got {number}"
        )
    member = front[number - 1]
    again = next((each.measured for each in search.verified if each.candidate == member.candidate), {})
    values = {**member.values, **again}
    return Chosen(member.candidate, search.deployment, values, search.profiles, search.calibration_rows)


def _in_file(loaded: LoadedRun, space: Space, path: Path) -> Candidate:
    if not path.is_file():
        known = "chosen, a number in the front, largest, smallest or a JSON file"
        meant = did_you_mean(str(path), ("chosen", "largest", "smallest"))
        raise UserError(f"--candidate must be {known}, there is no file {path}{meant}")
    try:
        values = read_json(path)
    except ValueError as error:
        raise UserError(f"--candidate: {path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--candidate: {path} must hold one object with an option for each choice, e.g. depth")
    try:
        return space.candidate(values)
    except ValueError as error:
        raise UserError(f"--candidate: {path} must fit the sub-networks of {loaded.folder.path}: {error}") from error


def not_met(beyond: Beyond, *, busy: bool = False) -> str:
    """The sentence on a limit that the exported network does not meet, without its full stop.

    Args:
        beyond: the limit.
        busy: whether other programs disturbed the latencies, which then say nothing of the limit.
    """
    known = quantity(beyond.flag.partition("_")[2])
    on = " on the test rows" if known.source == "score" else ""
    unit = f" {known.unit}" if known.unit and known.scale == 1 else ""
    wanted = f"--{beyond.flag.replace('_', '-')} {beyond.limit:g}"
    # Whoever takes another network for what the test rows say of this one has chosen by them.
    advice = "" if on or (busy and known.name == LATENCY) else "; a stricter limit leaves room for that"
    return (
        f"The exported network does not meet {wanted}: {known.label}{on} is {beyond.measured:.6g}{unit} as this export "
        f"measures it{advice}"
    )


def deliver(
    loaded: LoadedRun, chosen: Chosen, module: nn.Module, out: Path, model: str | None, *notes: str
) -> dict[str, Any]:
    """Write a sub-network as a folder whose card states figures of the files in it.

    Args:
        loaded: the run.
        chosen: the candidate, and how it runs.
        module: its network, which may have been trained further.
        out: the folder to write.
        model: `module:factory` of a network of the user's own.
        notes: go into the card first.
    """
    deployment = loaded.on_its_device(chosen.deployment)
    inputs = loaded.example(deployment.tokens or 1)
    factory = maker(model, len(loaded.record.classes))
    calibration = loaded.int8_calibration(chosen.calibration_rows) if deployment.is_quantized else None
    network = NetworkExport.of(module, inputs, factory)
    with TemporaryDirectory() as scratch, staged(out) as part:
        # 1. The files.
        say(f"Exporting to {out}{in_place_of(out / 'config.json')}")
        network.write(part, loaded.preprocessor)
        policy = policy_of(loaded.supernet, chosen.candidate) if deployment.by_layer else None
        deployed = network.deploy(part, deployment, calibration, policy)
        # 2. Their figures, beside those of the full network's files.
        say("Measuring the full and the chosen network")
        whole = NetworkExport.of(loaded.extract(loaded.supernet.space.full()), inputs, factory)
        beside = {
            name: _contender(whole, each, Path(scratch, name), calibration)
            for name, each in _beside(deployment).items()
        }
        today = beside.pop("today")
        exported = Contender(deployed, cost(module, inputs))
        one_input = loaded.example(deployment.tokens or 1, deployment.batch)
        rows = loaded.split("test")
        comparison = compare(today, beside.pop("full", today), exported, rows, one_input, beside)
        busy = comparison.waiting.warning("the latencies are too high; stop those programs and repeat the command")
        if busy is not None:
            say(busy)
        comparison = comparison.predicted(*_predicted(loaded, chosen, deployment))
        # 3. The card that states them.
        card = _card(loaded, comparison, chosen, notes, rows.task)
        network.write_card(part, card, deployed, loaded.preprocessor)
    # What was chosen by a search is not refused for what one measurement more makes of it, but that is said.
    figures = comparison.chosen.named(comparison.metric)
    beyond = beyond_limits(chosen.bounds, figures, _of_other_devices(loaded, chosen, deployment))
    for each in beyond:
        say(not_met(each, busy=busy is not None))
    return {
        **comparison.to_json(),
        **({"serving_fp32": comparison.full.named(comparison.metric)} if deployment.by_layer else {}),
        "beyond_limits": {each.flag: {"limit": each.limit, "measured": each.measured} for each in beyond},
        "candidate": dict(chosen.candidate),
        "what_the_data_can_tell": comparison.what_the_data_can_tell(),
        "export": str(out),
    }


def _beside(deployment: Deployment) -> dict[str, Deployment]:
    """What the full network is measured in, by the name that the comparison has for it."""
    found = {"today": replace(deployment, runtime="pytorch", precision="float32")}
    if deployment.by_layer:
        # The full network has no policy: it is shown in each of the precisions that a policy mixes.
        return {
            **found,
            "full": replace(deployment, precision="float32"),
            "serving_int8": replace(deployment, precision="int8"),
        }
    return found if deployment.is_eager_float32 else {**found, "full": deployment}


def _contender(
    network: NetworkExport, deployment: Deployment, folder: Path, calibration: Sequence[Inputs] | None
) -> Contender:
    """The full network, written into a new folder and loaded from there."""
    folder.mkdir()
    return Contender(network.deploy(folder, deployment, calibration), cost(network.network, network.inputs))


def _of_other_devices(loaded: LoadedRun, chosen: Chosen, deployment: Deployment) -> set[str]:
    """The latencies of the search that what is measured here says nothing of: of other machines, or one of several."""
    several = len(chosen.profiles) > 1
    return {
        name
        for name, profile in chosen.profiles.items()
        if elsewhere(profile, loaded.subject(profile.tokens or 1)) is not None
        or (several and Deployment.of_profile(profile) != deployment)
    }


def _predicted(loaded: LoadedRun, chosen: Chosen, deployment: Deployment) -> tuple[float | None, float | None]:
    """Latency of the full and the chosen network as a profile of this machine and deployment predicts it."""
    for name, profile in chosen.profiles.items():
        space = joined_space(loaded.supernet, profile.precisions)
        if Deployment.of_profile(profile) != deployment or profile.batch != 1:
            continue
        subject = partial(loaded.subject, precisions=profile.precisions)
        formula = predictions(subject, {name: profile}, space)[name]
        if elsewhere(profile, formula.subject) is None:
            full, small = formula(space.encode([space.full(), chosen.candidate]))
            return float(full), float(small)
    return None, None


def _card(loaded: LoadedRun, comparison: Comparison, chosen: Chosen, notes: tuple[str, ...], task: Task) -> Card:
    record = loaded.record
    model, data = (str(record.request.get(key)) for key in ("model", "data"))
    networks = comparison.networks()
    if comparison.full is comparison.today:
        del networks["today"]
    figures = {name: _numbers(each.named(comparison.metric)) for name, each in networks.items()}
    return Card(
        title=f"{loaded.meaning.title} {Path(model).name}",
        base_model=model,
        origin=loaded.meaning.origin,
        data=f"{Path(data).name}, {record.rows['train']:,} training, {comparison.test_rows:,} test rows",
        classes=tuple(record.classes),
        task=task,
        max_tokens=loaded.max_tokens,
        figures=figures,
        conditions=comparison.conditions,
        chosen_by=chosen.values,
        notes=(*notes, comparison.what_the_data_can_tell()),
        judged=comparison.judged,
    )


def _numbers(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}
