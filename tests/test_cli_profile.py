"""`nas profile`, and a search with what it wrote: predicted, measured again, and refused where it does not fit."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command

from hardware.backend import Backend
from nas.errors import NotTaken
from nas.profiling.bench import Bench
from search_spaces import Candidate

# Times are not the point here, so any is stable enough.
QUICK = ("--budget", 8, "--tolerance", 100, "--tokens", 16)


@pytest.fixture(scope="session")
def profiled(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the finished run; not to be changed."""
    from nas.command.cli import main

    path = tmp_path_factory.mktemp("profiled") / "laptop.json"
    assert main(["profile", str(finished), "--out", str(path), *map(str, QUICK)]) == 0
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def changed(profile: Path, path: Path, **values: object) -> Path:
    held = json.loads(profile.read_text(encoding="utf-8"))
    for name, value in values.items():
        part, _, inner = name.partition("__")
        if inner:
            held[part][inner] = value
        else:
            held[part] = value
    path.write_text(json.dumps(held), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_model_alone_is_profiled_and_the_profile_goes_on(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(inputs / "model" / "config.json", tmp_path / "model")
    out = tmp_path / "profile.json"
    answer = nas_command("profile", tmp_path / "model", "--out", out, *QUICK, "--json")
    assert answer.status == 0, answer.err
    told = json.loads(answer.out)
    assert told["sub_networks"] == 8 and told["tokens"] == 16 and told["noise_floor_percent"] >= 0
    assert told["seconds"] > 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    more = json.loads(nas_command("profile", tmp_path / "model", "--out", out, *QUICK, "--budget", 12, "--json").out)
    assert more["sub_networks"] == 12
    assert more["held_out"] is not None
    assert json.loads(out.read_text(encoding="utf-8"))["rows"][: len(rows)] == rows

    (tmp_path / "latest").symlink_to(tmp_path / "model")
    answer = nas_command("profile", tmp_path / "latest", "--out", out, *QUICK, "--budget", 12)
    assert answer.status == 0, "a link to the model is the same model: " + answer.err

    answer = nas_command("profile", tmp_path / "model", "--out", out, *QUICK, "--batch", 2)
    assert (answer.status, "batch is 1 in the profile and 2 is requested" in answer.err) == (2, True)
    answer = nas_command("profile", tmp_path / "model", "--out", out, *QUICK, "--depth", "2,4")
    assert (answer.status, "the sub-networks to choose from" in answer.err) == (2, True)
    answer = nas_command("profile", tmp_path / "model", "--out", out, "--dry-run", *QUICK, "--json")
    assert json.loads(answer.out)["seconds"] > 0
    answer = nas_command("profile", tmp_path / "model", "--out", out, "--dry-run", *QUICK, "--batch", 2)
    assert (answer.status, "batch is 1 in the profile and 2 is requested" in answer.err) == (2, True)


@pytest.mark.slow
def test_a_search_measures_accuracy_alone_and_then_its_front(
    nas_command: Command, run: Path, profiled: Path, tmp_path: Path
) -> None:
    search = ("search", run, "--name", "predicted", "--budget", 10, "--profile", profiled, "--json")
    answer = nas_command(*search)
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert set(found["full"]) == {"accuracy", "latency_ms", "measured_accuracy", "measured_latency_ms"}
    again = found["verified"]["latency_ms"]
    assert again["count"] == len(found["front"]) >= again["non_dominated"] >= 1
    assert all(member["measured_latency_ms"] > 0 for member in found["front"])
    place = run / "searches" / "predicted"
    assert not (place / "study.journal.latency.json").exists(), "nothing was measured during the search"
    with (place / "front.csv").open(encoding="utf-8", newline="") as file:
        assert all(row["measured_latency_ms"] for row in csv.DictReader(file) if "front" in row["role"])
    verified = (place / "verified.json").read_text(encoding="utf-8")
    assert json.loads(nas_command(*search).out) == found
    assert (place / "verified.json").read_text(encoding="utf-8") == verified, "what is measured stays"
    held = json.loads(verified)
    held["rows"][0]["unstable"], held["rows"][0]["measured"] = ["latency_ms"], {"latency_ms_elsewhere": 7.0}
    held["rows"][0]["predicted"]["latency_ms_elsewhere"] = 6.0
    (place / "verified.json").write_text(json.dumps(held), encoding="utf-8")
    assert nas_command(*search).status == 0
    mended = json.loads((place / "verified.json").read_text(encoding="utf-8"))["rows"]
    assert not mended[0]["unstable"] and mended[0]["measured"]["latency_ms"] > 0, "what was not stable is measured anew"
    assert mended[0]["measured"]["latency_ms_elsewhere"] == 7.0 and mended[1:] == held["rows"][1:]
    (place / "verified.json").unlink()
    answer = nas_command("report", run, "--name", "predicted", "--json")
    assert f"{again['count']} of the {again['count']} sub-networks of the front have predicted latencies" in answer.err
    assert "verified" not in json.loads(answer.out)
    (place / "verified.json").write_text(verified, encoding="utf-8")

    # The rivals of the front are measured and offered too, and one of them may be faster than all of it.
    least = min(row["measured"]["latency_ms"] for row in json.loads(verified)["rows"] if row["measured"])
    report = json.loads(nas_command("report", run, "--name", "predicted", "--max-latency-ms", least, "--json").out)
    assert report["chosen"]["measured_latency_ms"] == least, "one alone of what was measured is so fast"
    exported = json.loads(
        nas_command("export", run, "--name", "predicted", "--out", tmp_path / "sub", "--json", "--debug").out
    )
    assert exported["chosen"]["predicted_latency_ms"] > 0, "the latency is that of the profile's length"


def test_a_member_of_the_front_that_breaks_a_limit_when_measured_is_not_offered(
    nas_command: Command, run: Path, profiled: Path
) -> None:
    nas_command("search", run, "--name", "predicted", "--budget", 10, "--profile", profiled)
    path = run / "searches" / "predicted" / "verified.json"
    held = json.loads(path.read_text(encoding="utf-8"))
    for row in held["rows"]:
        row["measured"]["latency_ms"] = 1e6
    held["rows"][0]["measured"]["latency_ms"] = 5.0
    path.write_text(json.dumps(held), encoding="utf-8")
    report = json.loads(nas_command("report", run, "--name", "predicted", "--max-latency-ms", 10, "--json").out)
    assert report["chosen"]["candidate"] == held["rows"][0]["candidate"]
    answer = nas_command("report", run, "--name", "predicted", "--max-latency-ms", 1)
    assert (answer.status, "none of" in answer.err) == (3, True)
    path.write_text("{", encoding="utf-8")
    answer = nas_command("report", run, "--name", "predicted")
    assert (answer.status, "verified.json is damaged" in answer.err) == (2, True)


def test_several_devices_in_one_search(nas_command: Command, run: Path, profiled: Path, tmp_path: Path) -> None:
    other = changed(profiled, tmp_path / "phone.json", machine__processor="a phone")
    answer = nas_command(
        "search", run, "--name", "two", "--budget", 8, "--profile", profiled, "--profile", other, "--json"
    )
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    predicted = {"accuracy", "latency_ms_laptop", "latency_ms_phone"}
    assert set(found["full"]) == predicted | {"measured_accuracy", "measured_latency_ms_laptop"}
    assert set(found["verified"]) == {"latency_ms_laptop"}
    assert "latency_ms_phone is not measured again: its machine is another one, a phone" in answer.err, answer.err
    config = tmp_path / "flags.json"
    config.write_text(json.dumps({"profile": [str(other)], "budget": 4}), encoding="utf-8")
    answer = nas_command("search", run, "--name", "one", "--config", config, "--profile", profiled, "--json")
    full = json.loads(answer.out)["full"]
    assert "latency_ms" in full and "latency_ms_phone" not in full, "the command line takes the file's place"
    limit = found["full"]["latency_ms_phone"] * 1e3
    assert nas_command("report", run, "--name", "two", "--max-latency-ms", limit).status == 0
    both = ("--profile", profiled, "--profile", other)
    answer = nas_command("search", run, "--name", "half", *both, "--objectives", "accuracy,latency_ms_phone")
    assert answer.status == 2 and "latency_ms_laptop is not among --objectives" in answer.err, answer.err


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model__name": "bart"}, "model is bart in the profile and model is requested"),
        ({"model__family": "vit"}, "family is vit in the profile and bert is requested"),
        ({"model__space_sha256": "0" * 64}, "the sub-networks to choose from"),
        ({"schema_version": 7}, "schema version must be 1, got 7"),
        ({"batch": 3}, "first axis of the shape must be the batch"),
        ({"batch": 3, "shape": [3, 8]}, "the shape of an input is (3, 8) in the profile and (3, 16) is requested"),
        ({"rows": []}, "of 0 profiled sub-networks"),
        ({"rows": 3}, "is no device profile that can be used"),
    ],
)
def test_profiles_that_do_not_fit(
    nas_command: Command, run: Path, profiled: Path, tmp_path: Path, values: dict[str, object], sentence: str
) -> None:
    other = changed(profiled, tmp_path / "other.json", **values)
    answer = nas_command("search", run, "--name", "new", "--budget", 4, "--profile", other)
    assert answer.status == 2 and sentence in answer.err, answer.err
    assert not (run / "searches" / "new").exists()


def test_wrong_flags(nas_command: Command, run: Path, inputs: Path, profiled: Path, tmp_path: Path) -> None:
    model, out = inputs / "model", tmp_path / "p.json"
    for flags, sentence in (
        (("--out", out, "--runtime", "tensorrt"), "tensorrt"),
        (("--out", out, "--budget", 0), "--budget must be from 1 to"),
        (("--out", out, "--minutes", 0), "--minutes must be above 0"),
        ((), "--out"),
        (("--out", tmp_path / "no" / "p.json", *QUICK), "there is no"),
        (("--remote", tmp_path / "r"), "is a command of its own now: nas profile-kit MODEL --out FOLDER"),
        (("--out", out, "--result", out), "is a command of its own now: nas profile-result MODEL RESULT --out FILE"),
        (("--out", out, "--precision", "int8"), "pytorch does not take this network"),
        (("--out", out, "--drop-order", "importance"), "is known of a run only"),
    ):
        answer = nas_command("profile", model, *flags)
        assert answer.status == 2 and sentence in answer.err, (flags, answer.err)
    answer = nas_command("profile-kit", model, "--out", tmp_path / "kit", "--runtime", "pytorch")
    assert answer.status == 2 and "pytorch" in answer.err and not (tmp_path / "kit").exists()
    answer = nas_command("profile-kit", model, "--out", tmp_path / "kit", "--batch", 0)
    assert answer.status == 2 and "--batch must be from 1 to" in answer.err
    answer = nas_command("profile-result", model, out, "--out", out)
    assert answer.status == 2 and "there is no file" in answer.err
    answer = nas_command("search", run, "--budget", 4, "--name", "x", "--profile", tmp_path / "none.json")
    assert answer.status == 2 and "found no such file" in answer.err
    answer = nas_command("search", run, "--name", "x", "--profile", profiled, "--tokens", 32)
    assert answer.status == 2 and "tokens is 16 in the profile and 32 is requested" in answer.err
    answer = nas_command("search", run, "--name", "x", "--profile", profiled, "--profile", profiled)
    assert answer.status == 2 and "file names of their own" in answer.err


@pytest.mark.slow
def test_networks_that_a_runtime_does_not_take_are_left_out(
    nas_command: Command, run: Path, profiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, asked = Bench.convert, []

    def picky(bench: Bench, candidate: Candidate, folder: Path) -> tuple[Backend, Path]:
        asked.append(candidate)
        if len(asked) == 2:
            (folder / "half").touch()
            raise NotTaken("onnxruntime does not take this network: it is odd")
        return taken(bench, candidate, folder)

    monkeypatch.setattr(Bench, "convert", picky)
    sentence = "left out: onnxruntime does not take this network: it is odd"
    answer = nas_command("profile", run, "--out", tmp_path / "p.json", *QUICK, "--json")
    assert answer.status == 0 and sentence in answer.err
    assert json.loads(answer.out)["sub_networks"] == 8
    asked.clear()
    flags = ("--runtime", "onnxruntime", "--budget", 4, *QUICK[2:])
    answer = nas_command("profile-kit", run, "--out", tmp_path / "remote", *flags, "--json")
    assert answer.status == 0 and sentence in answer.err
    assert json.loads(answer.out)["sub_networks"] == 3
    assert {path.name for path in (tmp_path / "remote").iterdir() if path.is_dir()} == {"full", "000", "001", "002"}
    asked.clear()
    answer = nas_command("search", run, "--name", "odd", "--budget", 6, "--profile", profiled, "--json")
    assert (
        answer.status == 0
        and "latency_ms of one sub-network is not measured, so that it is not offered: onnxruntime" in answer.err
    )
    front = json.loads(answer.out)["front"]
    assert [each for each in front if "measured_latency_ms" not in each] == front[:1]


@pytest.mark.slow
def test_a_folder_for_another_device(nas_command: Command, run: Path, tmp_path: Path) -> None:
    folder, flags = tmp_path / "remote", ("--runtime", "onnxruntime", "--budget", 6, *QUICK[2:])
    answer = nas_command("profile-kit", run, "--out", folder, *flags, "--json")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["sub_networks"] == 6
    there = Path(shutil.copytree(folder, tmp_path / "device"))
    done = subprocess.run(
        [sys.executable, "-I", str(there / "measure.py")], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    result, out = there / "result.json", tmp_path / "phone.json"
    read = ("profile-result", run, result, "--out", out)
    assert nas_command(*read).status == 0
    changed(out, out, runtime="openvino")
    assert "is another profile; name another --out" in nas_command(*read).err
    changed(out, out, runtime="onnxruntime")
    answer = nas_command("search", run, "--name", "phone", "--budget", 6, "--profile", out)
    assert answer.status == 0, answer.err

    held = json.loads(result.read_text(encoding="utf-8"))
    whole = json.dumps(held)
    held["profile"]["rows"] = held["profile"]["rows"][2:5]
    result.write_text(json.dumps(held), encoding="utf-8")
    answer = nas_command(*read)
    assert answer.status == 2 and "are missing (00" in answer.err and "which goes on" in answer.err
    held["profile"]["rows"][0]["timing"]["stable"] = False
    result.write_text(json.dumps(held), encoding="utf-8")
    assert subprocess.run([sys.executable, "-I", str(there / "measure.py")], timeout=300).returncode == 0
    again = json.loads(result.read_text(encoding="utf-8"))["profile"]["rows"]
    assert len({row["order"] for row in again}) == len(again) == len(json.loads(whole)["profile"]["rows"])
    assert all(row["timing"]["stable"] for row in again if row["order"] == held["profile"]["rows"][0]["order"])
    assert nas_command(*read).status == 0
    other = json.loads(whole)
    other["profile"]["rows"] = other["profile"]["rows"][:-1]
    result.write_text(json.dumps(other), encoding="utf-8")
    assert "are missing (00" in nas_command(*read).err, "one that is to be measured twice was measured once"
    for text, sentence in (
        ("{", "is damaged"),
        (whole.replace('"multiple_of": 1', '"multiple_of": 4'), "multiple_of is 4 in the profile and 1 is requested"),
        ("[" * 100_000, "is damaged"),
    ):
        result.write_text(text, encoding="utf-8")
        answer = nas_command(*read, "--multiple-of", 1)
        assert answer.status == 2 and sentence in answer.err, answer.err
    result.write_text(whole, encoding="utf-8")
    for flag, value, sentence in (
        ("--runtime", "openvino", "runtime is onnxruntime in the profile and openvino is requested"),
        ("--tokens", 32, "tokens is 16 in the profile and 32 is requested"),
        ("--threads", 2, "threads is 1 in the profile and 2 is requested"),
    ):
        answer = nas_command(*read, flag, value)
        assert answer.status == 2 and sentence in answer.err, answer.err
    (folder / "thesis.txt").touch()
    for place, sentence in ((run, "holds something else"), (folder, "holds something else"), (there, "holds a result")):
        answer = nas_command("profile-kit", run, "--out", place, *flags)
        assert answer.status == 2 and sentence in answer.err
