"""`nas prune` on a small conv net: the whole command, what report and export make of it, and wrong input."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pandas
import pytest
import torch
from conftest import Command
from safetensors.torch import save_file
from test_bad_input import refused
from test_kill import finish, stop
from torch import nn
from toy_pyramid import FACTORY, pyramid, write_inputs

from hardware.latency import Latency
from search_spaces.weights import load_tensors

FEW = ["--budget", "6", "--population", "4", "--offspring", "2", "--detector-epochs", "2", "--epochs", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pictures.parquet` and `pyramid.safetensors`; not to be changed."""
    made = tmp_path_factory.mktemp("pictures")
    write_inputs(made)
    return made


def command(folder: Path, run: Path, *flags: object) -> list[str]:
    given = ["--weights", str(folder / "pyramid.safetensors"), "--data", str(folder / "pictures.parquet")]
    return ["prune", FACTORY, *given, "--out", str(run), *FEW, *map(str, flags)]


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was pruned by two rates; not to be changed."""
    run = tmp_path_factory.mktemp("pruned") / "run"
    finish(command(folder, run, "--rates", "0.2,0.4"))
    return run


def test_the_whole_way(nas_command: Command, folder: Path, done: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    # 1. Another limit joins and fine-tunes, and repeats no search.
    before = {path: path.read_bytes() for path in run.glob("pruning/searches/*/study.journal")}
    answer = nas_command(*command(folder, run, "--max-macs", 500_000, "--json"))
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert {path: path.read_bytes() for path in before} == before and len(before) == 2
    assert set(found["networks"]) == {"macs <= 500000"}
    assert set(found["sub_networks"]) == {"0", "1"}
    table = pandas.read_csv(found["table"])
    assert table["macs"].min() <= 500_000
    # 2. The page shows the channels of every layer.
    answer = nas_command("report", run, "--json")
    assert answer.status == 0, answer.err
    page = Path(json.loads(answer.out)["report"]).read_text(encoding="utf-8")
    assert "Channels by layer" in page and "deep.0.conv1" in page and "Sub-networks searched" in page
    # 3. What is exported is the fine-tuned network, with fewer channels, and its card's loader gives its outputs.
    out = tmp_path / "exported"
    answer = nas_command("export", run, "--model", FACTORY, "--out", out, "--max-macs", 500_000, "--json")
    assert answer.status == 0, answer.err
    chosen = json.loads(answer.out)
    assert chosen["chosen"]["macs"] <= 500_000 < chosen["full"]["macs"]
    assert "found by EMO-PMS" in (out / "README.md").read_text(encoding="utf-8")
    # 4. A limit that no fine-tuned network meets names the nearest.
    answer = nas_command("export", run, "--model", FACTORY, "--out", tmp_path / "none", "--max-macs", 10)
    assert answer.status == 3 and "the nearest has" in answer.err


def test_the_original_is_compared_with_and_never_chosen(nas_command: Command, done: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done, tmp_path / "run"))
    said = "Without a limit the most accurate of the pruned networks is chosen, never the original"
    answer = nas_command("report", run, "--json")
    assert answer.status == 0 and answer.err.count(said) == 1, answer.err
    assert "such as --max-macs, or `nas export --candidate`, takes another one" in answer.err
    found = json.loads(answer.out)
    table = pandas.read_csv(found["table"])
    pruned = table[~table["role"].str.contains("full")]
    assert len(pruned) < len(table)
    assert found["chosen"]["macs"] in set(pruned["macs"]) and table["macs"].max() not in set(pruned["macs"])
    assert said in Path(found["report"]).read_text(encoding="utf-8")
    answer = nas_command("report", run, "--json", "--max-macs", 1e12, "--min-accuracy", 0.01)
    assert answer.status == 0 and said not in answer.err
    assert json.loads(answer.out)["chosen"]["macs"] in set(pruned["macs"])
    # With the limit on accuracy, what it is compared with is said.
    (why,) = [line for line in answer.err.splitlines() if "an estimate that corrects the measured accuracy" in line]
    assert "% measured" in why and why in Path(found["report"]).read_text(encoding="utf-8")


def test_networks_that_were_not_fine_tuned_cannot_be_exported(nas_command: Command, done: Path, tmp_path: Path) -> None:
    args = ["export", done, "--model", FACTORY, "--out", tmp_path / "none", "--candidate"]
    refused(nas_command(*args, "smallest"), "a network of these channels must have been fine-tuned")


def test_an_input_that_the_network_does_not_have(nas_command: Command, done: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done, tmp_path / "run"))
    path = run / "supernet" / "preprocessor_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"pixels"', '"words"'), encoding="utf-8")
    command = ["export", run, "--model", FACTORY, "--out", tmp_path / "out"]
    refused(nas_command(*command), "must name the input of the network, which is not 'words'")


def test_the_settings_of_a_fine_tuned_network(nas_command: Command, folder: Path, done: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    again = command(folder, run, "--rates", "0.2,0.4")
    path = next(run.glob("pruned/*/training.json"))
    path.write_text(json.dumps({"version": 1, "settings": "others"}), encoding="utf-8")
    answer = nas_command(*again, "--json")
    assert answer.status == 0, answer.err
    assert answer.err.count("this network was fine-tuned with other settings before, and stays as it is") == 1
    # What went is at least what was asked for, and said where it is more.
    found = {name: each["pruned_parameters"] for name, each in json.loads(answer.out)["networks"].items()}
    assert set(found) == {"parameters -20 %", "parameters -40 %"}
    more = {name: share for name, share in found.items() if share - int(name[-4:-2]) / 100 >= 0.005}
    assert all(f"{name}: of the" in answer.err and f"{100 * more[name]:.1f} % fewer" in answer.err for name in more)
    assert answer.err.count("% fewer parameters") == len(more) and min(found.values()) >= 0.2
    shown = nas_command(*again)
    assert shown.status == 0 and "Networks asked for" in shown.out and "{" not in shown.out, shown.out
    for content in (b"", b"null", b'"settings"', b'{"version": 1, "settings": "\xff"}', b'{"version": 1}'):
        path.write_bytes(content)
        refused(nas_command(*again), "training.json is damaged")


@pytest.mark.slow
def test_int8_in_openvino(nas_command: Command, folder: Path, tmp_path: Path) -> None:
    flags = ["--rates", "0.3", "--runtime", "openvino", "--precision", "int8"]
    answer = nas_command(*command(folder, tmp_path / "run", *flags, "--json"))
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["deployment"]["precision"] == "int8"
    answer = nas_command("export", tmp_path / "run", "--model", FACTORY, "--out", tmp_path / "out", "--json")
    assert answer.status == 0, answer.err
    assert (tmp_path / "out" / "openvino" / "model.xml").is_file()
    found = json.loads(answer.out)
    assert found["chosen"]["macs"] < found["full"]["macs"]


def by_parameters(networks: Sequence[nn.Module], row: object, *, repeats: int, **_: object) -> list[Latency]:
    """A latency of a millisecond for a thousand parameters, in place of a clock."""
    counts = [sum(each.numel() for each in network.parameters()) for network in networks]
    return [
        Latency(count / 1000, count / 1000, (count / 1000,) * 2, count / 1000, 0.0, (count / 1000,) * repeats)
        for count in counts
    ]


def test_latency_as_the_limit_of_a_new_run(
    nas_command: Command, folder: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.searching.relative_latency.measure_latency", by_parameters)
    run, full = tmp_path / "run", sum(each.numel() for each in pyramid().parameters()) / 1000
    # The searches of the run, as they are before a network is fine-tuned.
    shutil.copytree(done, run, ignore=shutil.ignore_patterns("pruned", "default", "report*"))
    answer = nas_command(*command(folder, run, "--max-latency-ms", 0.8 * full, "--json"))
    assert answer.status == 0, answer.err
    (network,) = json.loads(answer.out)["networks"].values()
    assert 0.2 <= network["pruned_parameters"] < 0.6
    refused(nas_command(*command(folder, run, "--max-latency-ms", 1e-6)), "latency_ms <= 1e-06 is out of reach")
    # Latencies of another runtime are not taken for those of this one.
    shutil.rmtree(run / "searches")
    flags = ["--max-latency-ms", 0.8 * full, "--runtime", "onnxruntime"]
    refused(nas_command(*command(folder, run, *flags)), "was begun with runtime 'pytorch', now it is 'onnxruntime'")


def test_dry_run_writes_nothing(nas_command: Command, folder: Path, tmp_path: Path) -> None:
    answer = nas_command(*command(folder, tmp_path / "run", "--dry-run", "--json"))
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["trained_forms"] == 12 and found["seconds"] > 0
    forms = found["possible_forms_of_each_sub_network"]
    assert set(forms) == {"0", "1"} and all(int(count) >= 6 for count in forms.values())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["searching", "fine-tuning", "measuring"])
def test_killed_and_repeated(folder: Path, done: Path, tmp_path: Path, where: str) -> None:
    run = tmp_path / "run"
    signs = {
        "searching": "pruning/searches/1/study.journal",
        "fine-tuning": "pruned/*/model.safetensors",
        "measuring": "searches/default/study.journal",
    }

    status, err = stop(command(folder, run, "--rates", "0.2,0.4"), lambda: any(run.glob(signs[where])), signal.SIGKILL)
    assert status == -signal.SIGKILL, err
    finish(command(folder, run, "--rates", "0.2,0.4"))
    trained = [*done.glob("pruning/searches/*/kept/*/model.safetensors"), *done.glob("pruned/*/model.safetensors")]
    assert len(trained) > 3
    for path in trained:
        # Two trainings may differ in the last bits of their sums.
        found = load_tensors(run / path.relative_to(done))
        torch.testing.assert_close(found, load_tensors(path), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rates", "0.3,x"], "--rates must be shares above 0 and below 1, separated by commas"),
        (["--rates", "0,5"], "so write 0.5 with a point"),
        (["--rates", "1.5"], "above 0 and below 1, separated by commas, e.g. 0.3,0.5,0.7, got '1.5'"),
        (["--rates", "0.9999"], "is out of reach of the searched sub-networks"),
        (["--min-accuracy", "0.5"], "a pruning has the limits --max-macs"),
        (["--budget", "0"], "budget must be at least 1"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--form-epochs", "0"], "form_epochs must be at least 1"),
        (["--form-rows", "1"], "--form-rows must be at least 2, got 1"),
        (["--batch-size", "1"], "--batch-size must be at least 2, got 1"),
        (["--population", "1"], "population must be at least 2, got 1"),
        (["--max-latency-ms", "nan"], "--max-latency-ms must be above 0 and finite"),
        (["--max-latency-ms", "5", "--ranking", "best"], "--ranking best ranks by what is counted"),
        (["--precision", "int8"], "int8"),
        (["--keep", "nothing.*"], "nothing"),
    ],
)
def test_wrong_flags(
    nas_command: Command, folder: Path, done: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    run = tmp_path / "run"
    if "0.9999" in flags:
        shutil.copytree(done, run)
    refused(nas_command(*command(folder, run, *flags)), message)
    assert run.exists() == ("0.9999" in flags)


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_is_not_trained(nas_command: Command, folder: Path, tmp_path: Path, seed: int) -> None:
    """Without weights; and with those of another number of classes, so that the head is made new."""
    data = ["--data", folder / "pictures.parquet", "--out", tmp_path / "run", *FEW, "--seed", seed]
    weights = load_tensors(folder / "pyramid.safetensors")
    five = {
        name: tensor.repeat(2, 1)[:5] if tensor.ndim == 2 else tensor.repeat(2)[:5]
        for name, tensor in weights.items()
        if name.startswith("head.")
    }
    save_file(weights | five, tmp_path / "five.safetensors")
    for flags in ([], ["--weights", tmp_path / "five.safetensors"]):
        answer = nas_command("prune", FACTORY, *data, *flags)
        refused(answer, "a pruning needs a network that is trained for these classes")
        assert "drawn at random" in answer.err
        assert answer.err.count("is made new") == len(flags) // 2 and not (tmp_path / "run").exists()


def test_texts_are_refused(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    args = ["prune", inputs / "model", "--data", inputs / "reviews.csv", "--out", tmp_path / "run"]
    refused(nas_command(*args), "a pruning needs images with classes, the data holds text rows")


@pytest.mark.parametrize("name", ["search", "refine"])
def test_commands_for_super_networks(nas_command: Command, done: Path, tmp_path: Path, name: str) -> None:
    flags = {"search": ["--budget", 2], "refine": ["--candidate", "largest", "--out", tmp_path / "out"]}
    answer = nas_command(name, done, "--model", FACTORY, *flags[name])
    refused(answer, "must hold a run of `nas finetune`, it is one of `nas prune`")


def test_other_settings_in_the_same_folder(nas_command: Command, folder: Path, done: Path) -> None:
    refused(nas_command(*command(folder, done, "--multiple-of", 4)), "was begun with multiple-of 1, now it is 4")


def test_another_deployment_of_the_same_networks(nas_command: Command, folder: Path, done: Path) -> None:
    refused(nas_command(*command(folder, done, "--runtime", "onnxruntime")), "was begun with runtime None")


def test_a_pruning_that_was_cut_off_says_what_to_repeat(nas_command: Command, done: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    shutil.rmtree(run / "searches")
    refused(nas_command("report", run), "repeat the `nas prune` command to go on with the pruning")


def test_finetune_into_a_pruning(nas_command: Command, inputs: Path, done: Path) -> None:
    answer = nas_command("finetune", inputs / "model", "--data", inputs / "reviews.csv", "--out", done)
    refused(answer, "must hold a run of `nas finetune`, it is one of `nas prune`")
