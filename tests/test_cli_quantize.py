"""`--quantize`: sub-network and precision of every layer in one search, delivered as the files that were measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from test_cli_deployment import answered, bytes_of, card_says, front, refused

from nas.runs.folder import RunFolder
from nas.runs.loading import load_run

QUANTIZE = ("--quantize", "--runtime", "openvino", "--name", "joint")
FILES = ("openvino/model.xml", "openvino/model.bin")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def precisions(found: dict[str, Any]) -> dict[str, str]:
    return {name: option for name, option in found.items() if name.startswith("precision.") and option is not None}


@pytest.mark.slow
def test_what_is_chosen_by_layer_is_what_is_written(nas_command: Command, run: Path, tmp_path: Path) -> None:
    search = ("search", run, "--objectives", "accuracy,size_mib", "--budget", 8, "--rows", 20, *QUANTIZE, "--json")
    found = answered(nas_command(*search))
    assert found["deployment"]["precision"] == "by-layer" and found["measured"] == 8
    members = front(run / "searches" / "joint" / "front.csv")
    assert any(each.startswith("precision.") for each in members[0])
    assert all(each["measured_size_mib"] for each in members), "the front is measured as files"
    assert answered(nas_command(*search)) == found, "nothing is measured again"

    out, loaded = tmp_path / "sub", load_run(RunFolder(run), "cpu")
    exported = answered(nas_command("export", run, "--name", "joint", "--candidate", 1, "--out", out, "--json"))
    assert {"today", "full", "serving_fp32", "serving_int8", "chosen"} <= set(exported)
    assert exported["full"] == exported["serving_fp32"]
    assert exported["chosen"]["size_mib"] == bytes_of(out, *FILES) / 2**20
    assert float(members[0]["measured_size_mib"]) == pytest.approx(exported["chosen"]["size_mib"], rel=2e-3)
    validation = card_says(out, "openvino", loaded.split("validation"), tmp_path)
    assert validation == float(members[0]["measured_accuracy"])
    assert card_says(out, "openvino", loaded.split("test"), tmp_path) == exported["chosen"]["test_accuracy"]
    card = (out / "README.md").read_text("utf-8")
    assert all(precision in card for precision in precisions(exported["candidate"]).values())
    assert answered(nas_command("report", run, "--name", "joint", "--json"))["front"] == len(members)


@pytest.mark.slow
def test_a_profile_by_layer_predicts_what_is_searched(nas_command: Command, run: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    made = ("profile", run, "--out", profile, "--budget", 20, "--tolerance", 5, "--tokens", 16, *QUANTIZE[:3], "--json")
    assert answered(nas_command(*made))["precision"] == "by-layer"
    rows = json.loads(profile.read_text("utf-8"))["rows"]
    assert all(precisions(row["candidate"]) for row in rows)
    refused(nas_command("search", run, "--name", "joint", "--budget", 4, "--profile", profile), "--quantize", "add it")
    search = (
        "search",
        run,
        "--name",
        "joint",
        "--budget",
        6,
        "--rows",
        20,
        "--profile",
        profile,
        "--quantize",
        "--json",
    )
    found = answered(nas_command(*search))
    assert found["measured"] == 6 and all("measured_latency_ms" in each for each in found["front"])
    kept = ("search", run, "--name", "other", "--profile", profile, "--quantize", "--keep-float", "*")
    refused(nas_command(*kept), "the profile says")


def test_wrong_flags_say_what_to_do(nas_command: Command, run: Path) -> None:
    def search(*flags: object) -> Any:
        return nas_command("search", run, "--name", "joint", "--budget", 4, "--objectives", "accuracy,macs", *flags)

    refused(search("--quantize", "--precision", "int8", "--runtime", "openvino"), "--quantize", "--precision")
    refused(search("--quantize"), "pytorch has no precision by layer", "--runtime openvino")
    refused(search("--precisions", "int8,float32"), "--quantize", "add it")
    refused(search(*QUANTIZE, "--precisions", "int3"), "--precisions must be some of", "int3")
    refused(search(*QUANTIZE, "--precisions", "float32"), "besides float32")
    refused(search(*QUANTIZE, "--keep-float", "no.such.*"), "no.such.*")
    assert not (run / "searches" / "joint").exists(), "nothing is written"


@pytest.mark.slow
def test_a_search_goes_on_with_its_precisions(nas_command: Command, run: Path) -> None:
    def search(budget: int, *flags: object) -> Any:
        objectives = ("--objectives", "accuracy,size_mib")
        return nas_command("search", run, *objectives, "--budget", budget, "--rows", 20, *QUANTIZE, *flags, "--json")

    first = answered(search(4, "--precisions", "int8,int4-weights", "--keep-float", "*classifier"))
    assert first["measured"] == 4
    # As begun, whatever this machine would offer now.
    assert answered(search(6))["measured"] == 6
    refused(search(6, "--precisions", "int8"), "was begun with quantize")
