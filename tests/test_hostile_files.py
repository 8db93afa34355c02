"""Numbers and names in files that a library would crash on: refused by the name of the file and of the field."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from conftest import Command
from profiles import profile, subject, timing
from safetensors.torch import load_file, save_file
from test_bad_input import refused
from tiny import write_model, write_reviews
from toy_pyramid import FACTORY, write_inputs

from hardware.profile import DeviceProfile, ProfileRow, parse_profile
from nas.bounded import loads
from nas.command.demo import _profiled
from nas.errors import UserError
from nas.evolving.evonorm import read_layer
from nas.objectives import check_values
from nas.records import MOST, read_record, write_record
from nas.runs.folder import RequestRecord
from nas.runs.requests import ProfileRequest
from search_spaces import Space
from search_spaces.graphs.published import published

FAR = "1" + "0" * 30


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def spoil(path: Path, **values: object) -> None:
    """Write other values into a JSON file; `a__b` is the field b of a."""
    held = json.loads(path.read_text(encoding="utf-8"))
    for name, value in values.items():
        *parts, last = name.split("__")
        part: Any = held
        for each in parts:
            part = part[int(each) if each.isdigit() else each]
        part[last] = value
    path.write_text(json.dumps(held), encoding="utf-8")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", FAR, f"-{FAR}", "1e-200"])
def test_no_number_out_of_bounds_is_read(number: str) -> None:
    with pytest.raises(ValueError, match=r"^a\.1\.b must be a number of usual size"):
        loads(f'{{"a": [1, {{"b": {number}}}]}}')
    assert loads('{"a": [0, -0.0, 1e-8, 4611686018427387904, true]}')


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latency_ms", 0.0),
        ("latency_ms_phone", -1.0),
        ("macs", 0),
        ("size_mib", 1e30),
        ("accuracy", 1.5),
        ("accuracy", -0.1),
        ("r2", 2.0),
        ("own:number", 1e200),
    ],
)
def test_values_are_of_their_quantity(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number of its kind"):
        check_values({name: value})
    check_values({"latency_ms": 3.0, "macs": 1e9, "accuracy": 0.0, "r2": -4.0, "own:number": -1e6, "error": 0.5})


def spoiled_profile(change: Callable[[dict[str, Any]], object]) -> bytes:
    of = subject()
    rows = tuple(ProfileRow(candidate=dict(of.whole.full()), timing=timing(0.5), order=n) for n in range(3))
    data = json.loads(profile(of, rows=rows).model_dump_json())
    change(data)
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("threads", lambda data: data.update(threads=2**20)),
        ("rows.0.timing.ratio", lambda data: data["rows"][0]["timing"].update(ratio=1e11)),
        ("rows.1.timing.ratio", lambda data: data["rows"][1]["timing"].update(ratio=1e-11)),
        ("rows.2.order", lambda data: data["rows"][2].update(order=float("inf"))),
        ("reference.samples", lambda data: data["reference"].update(samples=[1.0] * 20_000)),
        ("reference.median_ms", lambda data: data["reference"].update(median_ms=1e-300)),
    ],
)
def test_device_profiles(field: str, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        parse_profile(spoiled_profile(change))
    assert isinstance(parse_profile(spoiled_profile(len)), DeviceProfile)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"asked__max_tokens": -5}, "run.json is damaged (asked: Value error, max_tokens must be from 1 to"),
        ({"asked__max_tokens": "many"}, "max_tokens must be from 1 to"),
        ({"asked__task": "translation"}, "its task must be one of classification"),
        ({"rows__test": -1}, "rows.test: Input should be greater than or equal to 0"),
        ({"rows__test": 2**70}, "rows.test must be a number of usual size"),
    ],
)
def test_run_json(nas_command: Command, run: Path, values: dict[str, object], sentence: str) -> None:
    spoil(run / "run.json", **values)
    refused(nas_command("report", run), sentence)
    refused(nas_command("search", run, "--name", "new", "--objectives", "macs"), sentence)


def test_a_model_whose_name_looks_like_mathematics(nas_command: Command, run: Path) -> None:
    for name in ("/models/$", "/models/a$\\frac{$b", "/models/\u202e\x1b[31m"):
        spoil(run / "run.json", asked__model=name)
        answer = nas_command("report", run)
        assert answer.status == 0 and "\x1b" not in answer.out + answer.err, answer.err


@pytest.mark.parametrize("threads", [2**70, 10**9, 2**20, 0, "two"])
def test_threads_of_a_search(nas_command: Command, run: Path, threads: object) -> None:
    spoil(run / "searches" / "default" / "search.json", asked__threads=threads)
    sentence = "threads must be" if threads != 2**70 else "asked.threads must be a number of usual size"
    refused(nas_command("report", run), sentence)


@pytest.mark.parametrize("command", ["search", "profile"])
def test_threads_that_are_asked_for(nas_command: Command, run: Path, tmp_path: Path, command: str) -> None:
    flags = ["--name", "new", "--objectives", "macs"] if command == "search" else ["--out", tmp_path / "p.json"]
    refused(nas_command(command, run, *flags, "--threads", 2**20), "--threads must be from 1 to 1024, got 1048576")


def test_the_largest_counts(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    path.write_text(json.dumps({"asked": {"tokens": MOST, "seed": 7}, "versions": {}}), encoding="utf-8")
    assert read_record(path, RequestRecord).request["tokens"] == MOST
    path.write_text(json.dumps({"asked": {"tokens": MOST + 1}, "versions": {}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"search.json is damaged \(asked: .*tokens must be from 1 to"):
        read_record(path, RequestRecord)


def test_a_vocabulary_without_the_unknown_token(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(inputs / "model", tmp_path / "model"))
    (model / "tokenizer.json").unlink()
    (model / "vocab.txt").write_text("word\n", encoding="utf-8")
    command = ["finetune", model, "--data", inputs / "reviews.csv", "--out", tmp_path / "run", "--dry-run"]
    refused(nas_command(*command), "must take these texts, it fails: WordPiece error: Missing [UNK] token")


@pytest.mark.parametrize("order", [None, 0, "word", {"0": 1}])
def test_a_space_whose_blocks_are_no_list(nas_command: Command, run: Path, order: object) -> None:
    spoil(run / "supernet" / "space.json", choices__0__cuts__0__drop_order=order)
    command = ["search", run, "--name", "new", "--objectives", "accuracy,macs", "--dry-run"]
    refused(nas_command(*command), "drop_order of a cut must be a list")


def test_right_rows_of_a_study_that_has_no_accuracy(nas_command: Command, run: Path) -> None:
    path = run / "searches" / "default" / "study.journal"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace('"name":"accuracy"', '"name":"word"', 1), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != whole
    answer = nas_command("report", run)
    assert answer.status == 0, answer.err


def test_what_was_measured_again(nas_command: Command, run: Path) -> None:
    path = run / "searches" / "default" / "verified.json"
    spoil(path, rows__0__measured={"latency_ms": 0.0})
    refused(nas_command("report", run), "verified.json is damaged (rows.0: Value error, latency_ms must be a number")


def test_the_journal(nas_command: Command, run: Path) -> None:
    path = run / "searches" / "default" / "study.journal"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"seconds":', '"odd":1e999,"seconds":', 1), encoding="utf-8")
    refused(nas_command("report", run), "study.journal is damaged: ValueError: in line ")


@pytest.mark.parametrize("latency", [0, -1.0, "fast", None, float("inf")])
def test_the_latency_that_the_demo_begins_with(tmp_path: Path, latency: object) -> None:
    path = tmp_path / "today.json"
    path.write_text(json.dumps({"latency_ms": latency}), encoding="utf-8")
    request = ProfileRequest(subject="none", out=tmp_path / "profile.json")
    with pytest.raises(UserError, match=r"today.json is damaged \(latency_ms"):
        _profiled(request, path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"order": [float("inf")]}, "order.0 must be a number of usual size"),
        ({"order": [-1]}, "order.0: Input should be greater than or equal to 0"),
        ({"order": [1]}, "its plan does not name all of its networks"),
        ({"planned": []}, "planned: List should have at least 1 item"),
        ({"profile": None}, "profile: Input should be an object"),
        ({}, "schema_version: Field required"),
    ],
)
def test_results_of_another_device(
    nas_command: Command, run: Path, tmp_path: Path, values: dict[str, object], sentence: str
) -> None:
    content = {"planned": [{"depth": 2}], "order": [0], "profile": {}, **values}
    (tmp_path / "result.json").write_text(json.dumps(content), encoding="utf-8")
    answer = nas_command("profile-result", run, tmp_path / "result.json", "--out", tmp_path / "p.json")
    refused(answer, sentence)
    assert not (tmp_path / "p.json").exists()


@pytest.mark.parametrize("accuracies", [{"a": 7.0}, {"a": float("nan")}, {"a": "good"}, [], None])
def test_evolved_layers(tmp_path: Path, accuracies: object) -> None:
    path = tmp_path / "1.json"
    layer = json.loads(published("S0").to_json())
    path.write_text(json.dumps({"layer": layer, "accuracies": {"a": 0.7}}), encoding="utf-8")
    assert read_layer(path).mean == 0.7
    path.write_text(json.dumps({"layer": layer, "accuracies": accuracies}), encoding="utf-8")
    with pytest.raises(UserError, match=r"1.json must be a layer that nas wrote, it is damaged"):
        read_layer(path)


def test_spaces_of_any_size() -> None:
    def text(**changed: object) -> str:
        choice = {"name": "a", "options": [1, 2], "active_if": None, "ordered": True, "cuts": [], **changed}
        return json.dumps({"version": 1, "choices": [choice]})

    assert Space.from_json(text()).size() == 2
    for options in (
        {"start": 0, "stop": 10**18, "step": 1},
        [1, 2**70],
        [True, 2],
        {"start": 0.5, "stop": 2, "step": 1},
    ):
        with pytest.raises(ValueError, match=r"usual size|at most 65536 options"):
            Space.from_json(text(options=options))


@pytest.fixture
def inputs_here(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv")
    return tmp_path


CONFIGURATIONS = [
    ({"num_attention_heads": 0}, ""),
    ({"hidden_size": 0}, ""),
    ({"vocab_size": 10**9}, "config.json"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most"),
    ({"intermediate_size": 2**40}, "intermediate_size must be at most"),
    ({"hidden_act": "no-such-function"}, "no-such-function"),
    ({"attn_implementation": "no-such-attention"}, None),
    ({"pad_token_id": 10_000}, None),
    ({"layer_norm_eps": "small"}, ""),
    ({"hidden_dropout_prob": 7}, ""),
]


@pytest.mark.parametrize(("values", "words"), CONFIGURATIONS)
def test_configurations(nas_command: Command, inputs_here: Path, values: dict[str, object], words: str | None) -> None:
    spoil(inputs_here / "model" / "config.json", **values)
    data = ["--data", inputs_here / "reviews.csv", "--out", inputs_here / "run", "--dry-run"]
    tuned = nas_command("finetune", inputs_here / "model", *data)
    measured = nas_command("profile", inputs_here / "model", "--out", inputs_here / "p.json", "--dry-run")
    for answer in (tuned, measured):
        assert answer.status == 2 or (words is None and answer.status == 0), answer.err
        if answer.status == 2:
            refused(answer, words or "")
            assert str(inputs_here / "model") in answer.err


@pytest.mark.parametrize(("values", "words"), [each for each in CONFIGURATIONS if each[1] is not None])
def test_configurations_of_a_run(nas_command: Command, run: Path, values: dict[str, object], words: str) -> None:
    spoil(run / "supernet" / "config.json", **values)
    answer = nas_command("search", run, "--name", "new", "--objectives", "macs", "--dry-run")
    refused(answer, words)
    assert "config.json" in answer.err or "weights" in answer.err


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        ("tokenizer_config.json", {"model_max_length": -1}, "must have a model_max_length of at least 1, got -1"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "must have a model_max_length of at least 1, got long"),
        ("tokenizer.json", {"model__vocab__very": 4_000_000_000}, "it has the id 4000000000"),
        ("tokenizer.json", {"model__vocab__very": 1000}, "the tokenizer has 1001"),
        ("tokenizer.json", {"model__vocab": {}}, ""),
    ],
)
def test_tokenizers(
    nas_command: Command, inputs_here: Path, run: Path, file: str, values: dict[str, object], sentence: str
) -> None:
    data = ["--data", inputs_here / "reviews.csv", "--out", inputs_here / "new", "--dry-run"]
    spoil(inputs_here / "model" / file, **values)
    refused(nas_command("finetune", inputs_here / "model", *data), sentence)
    spoil(run / "supernet" / file, **values)
    refused(nas_command("search", run, "--name", "new", "--objectives", "macs", "--dry-run"), sentence)


@pytest.mark.parametrize("rows", [0, 5])
def test_a_test_split_that_lost_its_rows(nas_command: Command, run: Path, tmp_path: Path, rows: int) -> None:
    path = run / "data" / "test.parquet"
    table = pandas.read_parquet(path)
    table.head(rows).to_parquet(path, index=False)
    refused(nas_command("export", run, "--out", tmp_path / "out"), f"test.parquet must hold the {len(table)} rows of")
    assert not (tmp_path / "out").exists()


def write_pictures_model(folder: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": {"height": 0, "width": 0}}, "must have a size from 1 to 16384 pixels, got 0"),
        ({"size": {"height": 10**9, "width": 10**9}}, "must have a size from 1 to 16384 pixels"),
        ({"size": {"height": -4, "width": 16}}, "must have a size from 1 to 16384 pixels, got -4"),
        ({"image_std": [0.0, 0.5, 0.5]}, "must have a usable image_std, got 0"),
        ({"image_mean": [1e300, 0.5, 0.5]}, "image_mean.0 must be a number of usual size"),
    ],
)
def test_image_processors(nas_command: Command, tmp_path: Path, values: dict[str, object], words: str) -> None:
    write_inputs(tmp_path)
    model = write_pictures_model(tmp_path / "model")
    spoil(model / "preprocessor_config.json", **values)
    args = ["finetune", model, "--data", tmp_path / "pictures.parquet", "--out", tmp_path / "run", "--dry-run"]
    refused(nas_command(*args), words)


def test_a_record_is_written_only_where_it_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "search.json"
    with pytest.raises(UserError, match=r"search.json cannot hold this: asked.seed must be a number of usual size"):
        write_record(path, RequestRecord(asked={"seed": 2**64}, versions={}))
    assert not path.parent.exists()
    write_record(path, RequestRecord(asked={"seed": 2**62}, versions={}))
    assert read_record(path, RequestRecord).request == {"seed": 2**62}


def test_a_report_that_is_refused_draws_nothing(nas_command: Command, run: Path) -> None:
    spoil(run / "searches" / "default" / "search.json", asked__threads=0)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    refused(nas_command("report", run), "threads must be from 1 to 1024")
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    assert {path: time for path, time in after.items() if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


def test_a_search_that_is_refused_goes_on_with_nothing(nas_command: Command, run: Path) -> None:
    folder = run / "searches" / "default"
    spoil(folder / "verified.json", rows__0__candidate={"depth": 99})
    journal = (folder / "study.journal").read_bytes()
    flags = ["--objectives", "accuracy,macs", "--budget", 13]
    refused(nas_command("search", run, *flags), "verified.json is damaged: depth must be one of")
    assert (folder / "study.journal").read_bytes() == journal


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e38])
def test_weights(nas_command: Command, inputs_here: Path, run: Path, number: float) -> None:
    sentence = "must be numbers of usual size, "
    for path in (inputs_here / "model" / "model.safetensors", run / "supernet" / "model.safetensors"):
        tensors = load_file(path)
        next(each for name, each in tensors.items() if name.endswith("query.weight"))[0, 0] = number
        save_file(tensors, path, metadata={"format": "pt"})
    data = ["--data", inputs_here / "reviews.csv", "--out", inputs_here / "new", "--dry-run"]
    refused(nas_command("finetune", inputs_here / "model", *data), sentence)
    refused(nas_command("search", run, "--name", "new", "--objectives", "macs", "--dry-run"), sentence)
    factory = [FACTORY, "--weights", inputs_here / "odd.safetensors", "--data", inputs_here / "pictures.parquet"]
    write_inputs(inputs_here)
    save_file({**load_file(inputs_here / "pyramid.safetensors"), "head.bias": torch.full((3,), number)}, factory[2])
    refused(nas_command("finetune", *factory, "--out", inputs_here / "new"), "head.bias has others")
