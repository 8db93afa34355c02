"""`nas profile-kit` and `nas profile-result`: profiling a device without this project, by a folder copied there."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from hardware.inputs import map_inputs, split
from hardware.profile import MOST_BYTES, VERSION, DeviceProfile, noise_floor, parse_profile, write_profile
from nas.console import Bar, say
from nas.errors import NotTaken, UserError
from nas.files import read_json, replace_folder, write_json_atomic
from nas.profiling import on_device
from nas.profiling.bench import Bench
from nas.profiling.collection import checked_twice, planned
from nas.profiling.profiles import profile_at
from nas.profiling.subject import Subject, differences
from nas.records import MOST, Record, Scalar, Whole, read_record
from nas.runs.profile import bench_of, check_ranges, open_subject, summary_of
from nas.runs.requests import ProfileKitRequest, ProfileResultRequest
from nas.settings import KitSettings
from search_spaces import Candidate

_SCRIPT, _PLAN, _RESULT = "measure.py", "plan.json", "result.json"


class _Result(Record):
    """What the script writes on the device: the plan, and the profile with a row for each measured network."""

    planned: list[dict[str, Scalar]] = pydantic.Field(min_length=1, max_length=MOST)
    order: list[Whole] = pydantic.Field(max_length=2 * MOST)
    profile: dict[str, Any]


def write_kit(request: ProfileKitRequest) -> dict[str, Any]:
    """Write a folder that measures sub-networks on another device.

    Raises:
        UserError: wrong input, a runtime that is not installed, or a folder with something else in it.
    """
    settings, seed, folder = request.settings, request.common.seed, request.out
    check_ranges(settings)
    _refuse_other(folder)
    # The networks are written from a processor, wherever they will run.
    subject = open_subject(request, "cpu", settings.tokens, settings.batch, settings.multiple_of)
    bench = bench_of(subject, settings)
    candidates = planned(subject, min(settings.budget, subject.space.size()), seed)
    replace_folder(folder, lambda beside: _fill(beside, subject, bench, settings, candidates, seed))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    say(f"Copy {folder} to the device, run python {_SCRIPT} there, and copy {_RESULT} back")
    rows = read_json(folder / _PLAN)["rows"]
    return {"folder": str(folder), "sub_networks": len(rows), "size_mib": size, "runtime": settings.runtime}


def _refuse_other(folder: Path) -> None:
    """UserError where the folder, which is replaced, holds anything but what an earlier call wrote."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if _RESULT in names:
        raise UserError(f"{folder} holds a {_RESULT}; read it with nas profile-result, or name another folder")
    ours = {_SCRIPT, _PLAN, "inputs.npz", "full"}
    if any(name not in ours and not (name.isdecimal() and len(name) >= 3) for name in names):
        raise UserError(f"{folder} holds something else; name a new or an empty folder")


def read_result(request: ProfileResultRequest) -> dict[str, Any]:
    """Make a profile, in `out`, of what the script of such a folder wrote.

    Raises:
        UserError: a result that is damaged, lacks rows, or is of another network or other settings.
    """
    settings, result, out = request.settings, request.result, request.out
    profile = _complete(result)
    tokens = settings.tokens or profile.tokens or KitSettings.tokens
    batch, multiple_of = settings.batch or profile.batch, settings.multiple_of or profile.multiple_of
    subject = open_subject(request, "cpu", tokens, batch, multiple_of)
    named = {
        name: value
        for name in ("multiple_of", "runtime", "precision", "threads")
        if (value := getattr(settings, name)) is not None
    }
    expected = {**subject.fingerprint, "device": "cpu", **named}
    wrong = differences(profile, expected)
    if wrong:
        raise UserError(f"{result} must be of this network: {wrong[0]}; name the network that the folder was made for")
    if out.exists() and _loses(profile_at(out), profile, expected):
        raise UserError(f"{out} is another profile; name another --out")
    summary = summary_of(profile, subject, out)
    write_profile(profile, out)
    return summary


def _loses(old: DeviceProfile, new: DeviceProfile, expected: Mapping[str, object]) -> bool:
    """Whether anything of an old profile would be lost if a new one were written over it."""
    same = ("machine", "runtime", "runtime_version", "precision", "threads", "multiple_of", "protocol")
    alike = all(getattr(old, name) == getattr(new, name) for name in same)
    lost = {row.key for row in old.rows if row.timing.stable} - {row.key for row in new.rows if row.timing.stable}
    return bool(lost) or not alike or bool(differences(old, expected))


def _fill(
    folder: Path, subject: Subject, bench: Bench, settings: KitSettings, candidates: list[Candidate], seed: int
) -> None:
    # What the command line profiles has inputs with names.
    _, inputs = split(map_inputs(subject.inputs, lambda value: value.cpu()))
    (folder / "full").mkdir()
    bench.convert(subject.whole.full(), folder / "full")
    written = _written(folder, bench, candidates)
    rows = [{"folder": name, "candidate": dict(candidate)} for name, candidate in written.items()]
    arrays: dict[str, Any] = {name: value.numpy() for name, value in inputs.items()}
    np.savez(folder / "inputs.npz", **arrays)
    # They come first in the plan.
    twice = len(set(checked_twice(subject, settings.budget, seed)) & set(written.values()))
    header = bench.header(settings.multiple_of)
    model, protocol = subject.model.model_dump(mode="json"), vars(bench.protocol)
    profile = {**header, "schema_version": VERSION, "model": model, "shape": list(subject.shape), "protocol": protocol}
    write_json_atomic(folder / _PLAN, {"profile": profile, "rows": rows, "order": [*range(len(rows)), *range(twice)]})
    script = Path(on_device.__file__).read_text(encoding="utf-8")
    (folder / _SCRIPT).write_text(script, encoding="utf-8")


def _written(folder: Path, bench: Bench, candidates: list[Candidate]) -> dict[str, Candidate]:
    """Write every candidate that the runtime takes, in a folder of its name; UserError where it takes none."""
    written: dict[str, Candidate] = {}
    with Bar("Writing networks", len(candidates)) as bar:
        for number, candidate in enumerate(candidates, 1):
            name = f"{len(written):03d}"
            (folder / name).mkdir()
            try:
                bench.convert(candidate, folder / name)
                written[name] = candidate
            except NotTaken as error:
                shutil.rmtree(folder / name)
                say(f"One sub-network is left out: {error}")
            bar.update(number, name)
    if not written:
        raise UserError(f"none of {len(candidates)} sub-networks could be written for {bench.deployment.runtime}")
    return written


def _complete(path: Path) -> DeviceProfile:
    """The profile in a result; UserError, naming what is missing, unless every planned network was measured."""
    if not path.is_file():
        raise UserError(f"RESULT must be the {_RESULT} that {_SCRIPT} wrote, there is no file {path}")
    result = read_record(path, _Result, MOST_BYTES, f"run {_SCRIPT} to its end")
    wanted = result.planned
    try:
        if not set(range(len(wanted))) <= set(result.order):
            raise ValueError("its plan does not name all of its networks")
        profile = parse_profile(json.dumps(result.profile).encode())
    except ValueError as error:
        raise UserError(
            f"{path} is no result that can be used: {str(error)[:300]}; run {_SCRIPT} to its end"
        ) from error
    there, times = [row.candidate for row in profile.rows], Counter(result.order)
    missing = [number for number, candidate in enumerate(wanted) if there.count(candidate) < times[number]]
    if missing:
        numbers = ", ".join(f"{number:03d}" for number in missing[:10]) + (" ..." if len(missing) > 10 else "")
        raise UserError(
            f"{path} must have every network of its folder, {len(missing)} of {len(wanted)} are missing ({numbers}); "
            f"run {_SCRIPT} there again, which goes on, and copy the result anew"
        )
    return profile.model_copy(update={"noise_floor": noise_floor(profile)})
