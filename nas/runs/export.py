"""`nas export`: one sub-network of a run as a folder of its own, with figures from the test rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from nas.console import say
from nas.errors import UserError
from nas.exporting.card import Card
from nas.exporting.comparison import Comparison, compare
from nas.exporting.folder import check_target, export
from nas.files import read_json
from nas.networks.loading import maker
from nas.profiling.front import chosen_of, elsewhere, tell_unmeasured, verified_of
from nas.profiling.profiles import Profiles, kept_profiles, predictions
from nas.runs.folder import JOURNAL, RunFolder
from nas.runs.loading import LoadedRun, load_run
from nas.runs.requests import ExportRequest
from nas.searching.relative_latency import LatencySettings
from nas.searching.study import load_study
from nas.settings import Limits
from search_spaces import Candidate


@dataclass(frozen=True)
class Chosen:
    """A sub-network, and what a search measured of it (empty where none was asked), with its device profiles."""

    candidate: Candidate
    values: Mapping[str, float]
    tokens: int = LatencySettings.tokens
    threads: int = LatencySettings.threads
    profiles: Profiles = field(default_factory=dict)


def export_run(request: ExportRequest) -> dict[str, Any]:
    """Write the best candidate within the limits as a folder of its own, with figures from the test rows.

    Raises:
        UserError: no such search, or a limit on something that it did not measure, or `out` is something else.
        NoFeasible: nothing meets the limits.
        ExportError: what was written computes something else; nothing is left.
    """
    folder, out = RunFolder(request.run), request.out
    folder.read()
    check_target(out)
    with folder.locked():
        # 1. The choice, by what the search measured on validation rows.
        chosen = _of_search(folder, request.name, request.limits)
        opened = load_run(folder, request.common.device, request.model)
        # 2. Its figures beside the full network's, from test rows that neither training nor search has seen, and
        # the folder, checked before it takes its place.
        result = deliver(opened, chosen, opened.extract(chosen.candidate), out, request.model)
    return {**result, "search": {"run": str(request.run), "name": request.name, **chosen.values}}


def named_candidate(opened: LoadedRun, spec: str, name: str, limits: Limits) -> Chosen:
    """The sub-network that `--candidate` names: chosen (by the search `name`), largest, smallest, or a JSON file.

    Raises:
        UserError: no such search, or a file that is missing, damaged or of another space.
        NoFeasible: nothing meets the limits.
    """
    if spec == "chosen":
        return _of_search(opened.folder, name, limits)
    if limits.given():
        raise UserError("limits choose among the candidates of a search: give them with --candidate chosen only")
    space = opened.supernet.space
    if spec in ("largest", "smallest"):
        return Chosen(space.largest() if spec == "largest" else space.smallest(), {})
    path = Path(spec)
    if not path.is_file():
        raise UserError(f"--candidate must be chosen, largest, smallest or a JSON file, there is no file {spec}")
    try:
        values = read_json(path)
    except ValueError as error:
        raise UserError(f"--candidate: {path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--candidate: {path} must hold one object with an option for each choice, e.g. depth")
    try:
        return Chosen(space.candidate(values), {})
    except ValueError as error:
        raise UserError(f"--candidate: {path} must fit the sub-networks of {opened.folder.path}: {error}") from error


def _of_search(folder: RunFolder, name: str, limits: Limits) -> Chosen:
    asked, place = folder.read_search(name).request, folder.search(name)
    study, profiles = load_study(place / JOURNAL), kept_profiles(place)
    verified = verified_of(place, study)
    tell_unmeasured(study, verified, profiles)
    best = chosen_of(study, verified, limits)
    tokens = _whole(asked.get("tokens"), LatencySettings.tokens)
    return Chosen(best.candidate, best.values, tokens, _whole(asked.get("threads"), LatencySettings.threads), profiles)


def deliver(
    opened: LoadedRun, chosen: Chosen, module: nn.Module, out: Path, model: str | None, *notes: str
) -> dict[str, Any]:
    """Measure a sub-network beside the full one and write it; `notes` go into its card first."""
    say("Measuring the full and the chosen network")
    comparison = compare(opened, module, tokens=chosen.tokens, threads=chosen.threads)
    comparison = comparison.predicted(*_predicted(opened, chosen))
    say(f"Exporting to {out}")
    card = _card(opened, comparison)
    export(
        module,
        out,
        opened.example(chosen.tokens),
        card=replace(card, notes=(*notes, *card.notes)),
        preprocessor=opened.preprocessor,
        factory=maker(model, len(opened.record.classes)),
    )
    return {
        **comparison.to_json(),
        "speedup": comparison.full.latency_ms / comparison.chosen.latency_ms,
        "candidate": dict(chosen.candidate),
        "what_the_data_can_tell": comparison.what_the_data_can_tell(),
        "export": str(out),
    }


def _predicted(opened: LoadedRun, chosen: Chosen) -> tuple[float | None, float | None]:
    """Latency of the full and the chosen network as a profile of this machine predicts it, measured as they are."""
    space = opened.supernet.space
    tokens = opened.example(chosen.tokens, 1)
    for name, profile in chosen.profiles.items():
        alike = (profile.runtime, profile.precision, profile.batch, profile.threads) == (
            "pytorch",
            "float32",
            1,
            chosen.threads,
        )
        if alike and profile.tokens in (None, next(iter(tokens.values())).shape[1]):
            formula = predictions(opened, {name: profile}, space)[name]
            if elsewhere(profile, formula.subject) is not None:
                continue
            full, small = formula(space.encode([space.full(), chosen.candidate]))
            return float(full), float(small)
    return None, None


def _card(opened: LoadedRun, comparison: Comparison) -> Card:
    record = opened.record
    model, data = (str(record.request.get(key)) for key in ("model", "data"))
    return Card(
        title=f"A sub-network of {Path(model).name}",
        base_model=model,
        data=f"{Path(data).name}, {record.rows['train']:,} training, {comparison.test_rows:,} test rows",
        classes=tuple(record.classes),
        figures=_numbers(comparison.chosen.named(comparison.metric)),
        full=_numbers(comparison.full.named(comparison.metric)),
        measured_on=comparison.measured_on,
        notes=(comparison.what_the_data_can_tell(),),
    )


def _numbers(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and value > 0 else otherwise
