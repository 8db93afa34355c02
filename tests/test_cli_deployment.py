"""`nas search` and `nas export` for a runtime and precision: what is searched for is what is written and stated."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import profiles
import pytest
from conftest import Answer, Command
from safetensors.torch import load_file, save_file
from test_cli_tasks import OWN, write_images
from tiny import write_model

import hardware.onnx
from hardware.machine import in_words
from hardware.profile import DeviceProfile, write_profile
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.errors import UserError
from nas.profiling.collection import Effort, grow
from nas.profiling.deployed_candidates import DeployedCandidates
from nas.runs.export import Chosen
from nas.runs.folder import RunFolder
from nas.runs.loading import LoadedRun, load_run
from search_spaces import Candidate
from search_spaces.inputs import Inputs

INT8 = ("--runtime", "onnxruntime", "--precision", "int8")
CONDITIONS = ["machine", "runtime", "runtime_version", "precision", "threads", "batch"]
# The card's own block defines `run`; the rows come as arrays, so nothing but the runtime is needed.
FRESH = """
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nas", "search_spaces", "predictors", "hardware"):
            raise ImportError(f"{name} must not be needed")


sys.meta_path.insert(0, Absent())
file, block = sys.argv[1:]
exec(block)
import numpy

with numpy.load(file) as held:
    arrays = {name: held[name] for name in held.files}
labels = arrays.pop("labels")
print(int((run(arrays).argmax(1) == labels).sum()) / len(labels))
"""


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def answered(answer: Answer) -> dict[str, Any]:
    assert answer.status == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


def refused(answer: Answer, *parts: str, status: int = 2) -> None:
    assert answer.status == status and answer.err.splitlines()[-1].startswith("nas: error: "), answer.err
    assert all(part in answer.err for part in parts), answer.err


def front(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["number"]]


def undecided(loaded: LoadedRun) -> None:
    """Give the full network of a run outputs close to its limit, and make what it says then right: rounding shows."""
    full = loaded.extract(loaded.supernet.space.full())
    rows = {name: loaded.split(name) for name in ("validation", "test")}
    logits = {name: np.asarray(predict(full, each)) for name, each in rows.items()}
    middle = float(np.median(logits["validation"][:, 1] - logits["validation"][:, 0]))
    for name, each in rows.items():
        right = (logits[name][:, 1] - logits[name][:, 0] > middle).astype(np.int64)
        Split(each.rows, right, each.inputs, each.task).save(loaded.folder.data / f"{name}.parquet")
    path = loaded.folder.supernet / "model.safetensors"
    weights = load_file(path)
    weights["classifier.bias"][1] -= middle
    save_file(weights, path)


def card_says(out: Path, runtime: str, rows: Split, tmp_path: Path) -> float:
    """The accuracy that the files have when the card's own lines load them, in a process without this project."""
    blocks = re.findall(r"^```python\n(.*?)^```", (out / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    block = next(each for each in blocks if f"import {runtime}" in each and "def run(" in each)
    arrays = {name: value.numpy() for name, value in rows.batch(range(len(rows))).items()}
    np.savez(tmp_path / "rows.npz", labels=rows.labels, **arrays)  # type: ignore[arg-type]
    command = [sys.executable, "-c", FRESH, str(tmp_path / "rows.npz"), block]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def bytes_of(out: Path, *names: str) -> int:
    return sum((out / name).stat().st_size for name in names)


@pytest.mark.slow
def test_a_search_for_int8(nas_command: Command, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out, calibrated = tmp_path / "run", tmp_path / "sub", list[Inputs]()
    data = ("--data", inputs / "reviews.csv", "--out", run, "--steps", 12, "--learning-rate", "3e-3")
    assert nas_command("finetune", write_model(tmp_path / "model", layers=1), *data).status == 0
    undecided(load_run(RunFolder(run), "cpu"))
    loaded = load_run(RunFolder(run), "cpu")
    quantize = hardware.onnx.quantize

    def spied(path: Path, calibration: Sequence[Inputs], target: Path, **more: bool) -> Path:
        calibrated.extend(calibration)
        return quantize(path, calibration, target, **more)

    monkeypatch.setattr("hardware.onnxruntime.quantize", spied)
    few = ("--calibration-rows", 24)
    search = ("search", run, "--objectives", "accuracy,macs", "--budget", 2, *few, *INT8, "--json")
    found = answered(nas_command(*search))
    assert list(found["deployment"]) == [*CONDITIONS, "tokens"]
    assert (found["deployment"]["runtime"], found["deployment"]["precision"]) == ("onnxruntime", "int8")
    assert found["full"]["accuracy"] == 1.0, "the search scores float32"
    assert found["full"]["measured_accuracy"] < 1.0, "the full network is measured as INT8 too"
    members = front(run / "searches" / "default" / "front.csv")
    measured = [float(each["measured_accuracy"]) for each in members]
    assert measured == [each["measured_accuracy"] for each in found["front"]]
    assert measured != [float(each["accuracy"]) for each in members], "INT8 costs something here"
    count = len(calibrated)
    assert answered(nas_command(*search)) == found and len(calibrated) == count, "nothing is measured again"

    exported = answered(nas_command("export", run, "--candidate", 1, "--out", out, "--json"))
    # What the search measured of the first member is what the exported files give, and so is what the card states.
    assert card_says(out, "onnxruntime", loaded.split("validation"), tmp_path) == measured[0]
    stated = exported["chosen"]["test_accuracy"]
    assert card_says(out, "onnxruntime", loaded.split("test"), tmp_path) == stated
    assert f"| test_accuracy | {exported['today']['test_accuracy']:.6g}" in (out / "README.md").read_text("utf-8")
    files = {each.name for each in out.iterdir()}
    assert {"model.onnx", "model-int8.onnx", "model.safetensors", "config.json", "README.md"} <= files
    assert exported["chosen"]["size_mib"] * 2**20 == bytes_of(out, "model-int8.onnx")
    assert exported["deployment"] == found["deployment"]
    assert exported["today"]["test_accuracy"] == 1.0, "today is eager float32"
    for name in ("today", "full"):
        assert exported["speed_up_over_today" if name == "today" else "speedup"] == pytest.approx(
            exported[name]["latency_ms"] / exported["chosen"]["latency_ms"]
        )
    assert exported["full"] != exported["today"] and exported["full"]["macs"] == exported["today"]["macs"]
    assert exported["search"]["accuracy"] == measured[0], "chosen by what was measured"

    ids = {name: {tuple(row) for row in _texts(loaded.split(name))} for name in ("train", "validation", "test")}
    seen = {tuple(dict(row)["input_ids"][0].tolist()) for row in calibrated}
    assert seen <= ids["train"] and len(seen) == 24 and not seen & (ids["validation"] | ids["test"])


def _texts(rows: Split) -> list[list[int]]:
    return [rows.batch([row])["input_ids"][0].tolist() for row in range(len(rows))]


@pytest.mark.slow
def test_images_and_a_network_of_ones_own_in_openvino(
    nas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, run, out = f"own_{tmp_path.name}".replace("-", "_"), tmp_path / "run", tmp_path / "sub"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model, own = f"{name}:small", ("--model", f"{name}:small")
    data = ("--data", write_images(tmp_path / "images"), "--out", run, "--channels", "0.5,1.0", "--steps", 4)
    assert nas_command("finetune", model, *data).status == 0
    search = ("search", run, "--runtime", "openvino", "--precision", "int8", "--objectives", "accuracy,size_mib")
    found = answered(nas_command(*search, "--budget", 3, *own, "--json"))
    assert list(found["deployment"]) == CONDITIONS, "images have no length"
    assert all({"measured_accuracy", "measured_size_mib"} <= set(each) for each in found["front"])
    exported = answered(nas_command("export", run, "--candidate", 1, "--out", out, *own, "--json"))
    assert (exported["deployment"]["runtime"], exported["deployment"]["precision"]) == ("openvino", "int8")
    int8 = ("openvino/model.xml", "openvino/model.bin")
    assert exported["chosen"]["size_mib"] * 2**20 == bytes_of(out, *int8)
    assert exported["chosen"]["size_mib"] == pytest.approx(found["front"][0]["measured_size_mib"], rel=0.01)
    rows = load_run(RunFolder(run), "cpu", model).split("test")
    assert card_says(out, "openvino", rows, tmp_path) == exported["chosen"]["test_accuracy"]
    for precision in ("bfloat16", "float32"):
        to = ("--runtime", "openvino", "--precision", precision)
        answer = nas_command("export", run, "--candidate", 1, "--out", out, *to, *own, "--json")
        if answer.status == 2:
            refused(answer, "openvino must have the precision bfloat16 on this machine")
            continue
        exported = answered(answer)
        assert exported["deployment"]["precision"] == precision and not (out / "openvino").exists()
        assert exported["chosen"]["size_mib"] * 2**20 == bytes_of(out, "model.onnx")
        assert card_says(out, "openvino", rows, tmp_path) == exported["chosen"]["test_accuracy"]


# What follows writes no files: their scores are made up, and exports are only begun. ----------------------------------


def scored(candidate: Candidate) -> float:
    """Other values than the search's, and another order: the larger the better."""
    return 0.5 + 0.05 * float(candidate["depth"] or 0) + 0.001 * float(candidate["ffn.0"] or 0)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """The candidates whose files were scored."""
    found: list[Candidate] = []

    def score(files: DeployedCandidates, candidate: Candidate) -> float:
        found.append(candidate)
        return scored(candidate)

    monkeypatch.setattr(DeployedCandidates, "score", score)
    return found


@pytest.fixture
def begun(nas_command: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Chosen]:
    """Says what an export with these flags would write, and stops there."""
    found: list[Chosen] = []

    def deliver(loaded: LoadedRun, chosen: Chosen, *rest: object) -> dict[str, Any]:
        found.append(chosen)
        raise UserError("so far and no further")

    def export(*flags: object) -> Chosen:
        refused(nas_command("export", run, "--out", run.parent / "sub", *flags), "so far and no further")
        return found[-1]

    monkeypatch.setattr("nas.runs.export.deliver", deliver)
    return export


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[object]:
    """Objectives with several best sub-networks: the more parameters the better, and the fewer operations."""
    (tmp_path / "own_size.py").write_text("def of(net): return -sum(p.numel() for p in net.parameters())\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_size", raising=False)
    return "--objectives", "accuracy,own_size:of,macs", "--budget", 8


def test_a_limit_goes_by_the_accuracy_of_the_files(
    nas_command: Command, run: Path, wide: Sequence[object], scores: list[Candidate], begun: Callable[..., Chosen]
) -> None:
    search = ("search", run, "--name", "int8", *wide, *INT8)
    found = answered(nas_command(*search, "--json"))
    assert len(found["front"]) == len(set(scores)) == len(scores) > 3
    assert [each["measured_accuracy"] for each in found["front"]] != [each["accuracy"] for each in found["front"]]
    best = max(each["measured_accuracy"] for each in found["front"])
    limit = ("--name", "int8", "--min-accuracy", best - 1e-6, "--max-macs", 1e9)
    assert answered(nas_command("report", run, *limit, "--json"))["chosen"]["measured_accuracy"] == best
    chosen = begun(*limit)
    assert chosen.values["accuracy"] == scored(chosen.candidate) == best
    above = ("--name", "int8", "--min-accuracy", best + 1e-6)
    refused(nas_command("report", run, *above), f"none of {len(found['front'])} measured candidates meets", status=3)
    refused(nas_command("export", run, *above, "--out", run.parent / "sub"), "none of", status=3)
    refused(
        nas_command("search", run, "--name", "limited", *wide, *INT8, "--min-accuracy", best + 1e-6),
        "measured candidates meets accuracy >=",
        status=3,
    )


def test_a_front_that_was_cut_off_is_measured_on(
    nas_command: Command, run: Path, wide: Sequence[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Candidate] = []
    stop_after = [3]

    def score(files: DeployedCandidates, candidate: Candidate) -> float:
        if len(measured) == stop_after[0]:
            raise KeyboardInterrupt
        measured.append(candidate)
        return scored(candidate)

    monkeypatch.setattr(DeployedCandidates, "score", score)
    search = ("search", run, "--name", "cut", *wide, *INT8, "--json")
    assert nas_command(*search).status == 130
    table = run / "searches" / "cut" / "front.csv"
    assert table.exists(), "the front as the search has it is there to be read"
    stop_after[0] = -1
    found = answered(nas_command(*search))
    assert len(measured) == len(set(measured)) == len(found["front"]), "each once"
    assert all(float(each["measured_accuracy"]) for each in front(table))
    assert answered(nas_command(*search)) == found and len(measured) == len(found["front"])


def test_what_candidate_names(run: Path, begun: Callable[..., Chosen]) -> None:
    """Members of the front, ends of the space and files; the deployment is the search's or the one named."""
    space, file = load_run(RunFolder(run), "cpu").supernet.space, run.parent / "one.json"
    file.write_text(json.dumps(dict(space.smallest())), encoding="utf-8")
    for spec, candidate in (("largest", space.full()), ("smallest", space.smallest()), (file, space.smallest())):
        chosen = begun("--candidate", spec)
        assert chosen.candidate == candidate and chosen.deployment.is_eager_float32 and not chosen.values
    chosen, first = begun("--candidate", 1), front(run / "searches" / "default" / "front.csv")[0]
    assert all(first[name] == ("" if value is None else str(value)) for name, value in chosen.candidate.items())
    assert chosen.values["macs"] == float(first["macs"])
    assert begun("--candidate", "chosen") == begun()
    limited = begun("--max-macs", 1e12)
    assert limited.bounds == [("macs", 1.0, 1e12)] and replace(limited, bounds=[]) == begun()
    deployment = begun("--candidate", 1, "--runtime", "openvino").deployment
    assert (deployment.runtime, deployment.precision, deployment.tokens) == ("openvino", "float32", 128)
    shutil.rmtree(run / "searches")
    deployment = begun("--candidate", "largest", *INT8).deployment
    assert (deployment.runtime, deployment.precision, deployment.tokens) == ("onnxruntime", "int8", 128)


def test_exports_that_are_refused(nas_command: Command, run: Path) -> None:
    (run.parent / "bad.json").write_text(json.dumps({"depth": 17}), encoding="utf-8")
    for flags, sentence in (
        (("--candidate", 99), "--candidate must be a number from 1 to 1, the members of the front of default, got 99"),
        (("--candidate", 0), "--candidate must be a number from 1 to 1"),
        (("--candidate", 1, "--max-macs", 1e9), "give them without --candidate"),
        (("--candidate", "none.json"), "there is no file none.json"),
        (("--candidate", run.parent / "bad.json"), "must fit the sub-networks of"),
        (("--runtime", "onnxruntime", "--precision", "bfloat16"), "ONNX Runtime does not compute in it on a processor"),
        (("--precision", "int8"), "PyTorch alone does not compute in it; use openvino or onnxruntime"),
        (("--profile", "laptop"), "--profile must name a device profile of the search (there are: none), got 'laptop'"),
        (("--name", "other"), "has no search named 'other'"),
        (("--name", "other", "--candidate", "largest", "--profile", "laptop"), "no search named 'other'"),
    ):
        refused(nas_command("export", run, "--out", run.parent / "sub", *flags), sentence)
    assert not (run.parent / "sub").exists()


def test_a_search_is_of_one_deployment(
    nas_command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ("search", run, "--objectives", "accuracy,macs", "--budget", 12)
    refused(nas_command(*search, "--runtime", "onnxruntime"), "was begun with runtime None, now it is 'onnxruntime'")
    assert nas_command(*search, "--runtime", "pytorch", "--precision", "float32").status == 0, "as it was begun"
    new = (*search, "--name", "new")
    refused(nas_command(*new, "--precision", "int8"), "PyTorch alone does not compute in it")
    refused(nas_command(*new, "--runtime", "onnxruntime", "--precision", "bfloat16"), "does not compute in it")
    path = tmp_path / "laptop.json"
    write_profile(profiles.profile(profiles.subject(), runtime="openvino", precision="int8"), path)
    for flag, other in (("runtime", "pytorch"), ("precision", "float32")):
        sentence = f"--{flag} must be that of the first --profile, {'openvino' if flag == 'runtime' else 'int8'}"
        refused(nas_command(*new, "--profile", path, f"--{flag}", other), sentence, f"got {other}")
    monkeypatch.setattr("nas.searching.runners.energy_meter", lambda: None)
    refused(nas_command("search", run, "--name", "new", "--objectives", "accuracy,energy_mj"), "leave it out of")
    assert not (run / "searches" / "new").exists()


def test_the_profile_whose_deployment_is_written(nas_command: Command, run: Path, begun: Callable[..., Chosen]) -> None:
    subject = load_run(RunFolder(run), "cpu").subject(16)
    ratio = profiles.known_latency(subject)

    def profile(name: str, **settings: object) -> Path:
        empty: DeviceProfile = profiles.profile(subject, **settings)
        path = run.parent / f"{name}.json"
        write_profile(grow(empty, subject, lambda each: profiles.timing(ratio(each)), Effort(budget=20), seed=0), path)
        return path

    there = profiles.profile(subject).machine.model_copy(update={"processor": "a phone"})
    first = profile("server", machine=there)
    second = profile("phone", machine=there, runtime="openvino", precision="int8", runtime_version="1.0")
    search = ("search", run, "--name", "two", "--budget", 4, "--profile", first, "--profile", second, "--json")
    found = answered(nas_command(*search))["deployment"]
    assert (found["machine"], found["runtime"], found["tokens"]) == (in_words("a phone", there.cores), "pytorch", 16)
    for flags, runtime, precision in (
        ((), "pytorch", "float32"),
        (("--profile", "server"), "pytorch", "float32"),
        (("--profile", "phone"), "openvino", "int8"),
        (("--profile", "phone", "--precision", "float32"), "openvino", "float32"),
        (("--profile", "phone", "--runtime", "onnxruntime"), "onnxruntime", "float32"),
    ):
        deployment = begun("--name", "two", *flags).deployment
        assert (deployment.runtime, deployment.precision, deployment.tokens) == (runtime, precision, 16)
    export = ("export", run, "--name", "two", "--out", run.parent / "sub")
    refused(nas_command(*export, "--profile", "tablet"), "(there are: server, phone), got 'tablet'")


# A run of version 0.1 -----------------------------------------------------------------------------------------------


def test_a_run_of_version_0_1_goes_on(nas_command: Command, run: Path, begun: Callable[..., Chosen]) -> None:
    """Its records as that version wrote them: the request under `asked`, and nothing of runtimes or precisions."""
    versions, search = {"supersieve": "0.1.0"}, run / "searches" / "default"
    held = json.loads((run / "run.json").read_text(encoding="utf-8"))
    held["versions"] = versions
    assert "asked" in held
    (run / "run.json").write_text(json.dumps(held), encoding="utf-8")
    asked = {"objectives": "accuracy,macs", "algorithm": "linas", "rows": None, "tokens": 128, "threads": 1, "seed": 0}
    record = {"version": 1, "asked": asked, "versions": versions}
    (search / "search.json").write_text(json.dumps(record), encoding="utf-8")
    (search / "front.csv").unlink()
    report = answered(nas_command("report", run, "--json"))
    assert report["measured"] == 12
    assert (report["deployment"]["runtime"], report["deployment"]["precision"]) == ("pytorch", "float32")
    chosen = begun()
    assert chosen.deployment.is_eager_float32 and chosen.deployment.tokens == 128
    assert dict(chosen.candidate) == report["chosen"]["candidate"]
    further = answered(nas_command("search", run, "--objectives", "accuracy,macs", "--budget", 14, "--json"))
    assert further["measured"] == 14
    before = {"candidate": report["chosen"]["candidate"], "predicted": {"macs": 2.0}, "measured": {"macs": 3.0}}
    verified = {"version": 1, "rows": [{**before, "unstable": []}]}
    (search / "verified.json").write_text(json.dumps(verified), encoding="utf-8")
    assert answered(nas_command("report", run, "--json"))["chosen"]["measured_macs"] == 3.0
