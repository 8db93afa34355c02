"""Device profiles: written and read the same, and whatever else comes is one clear sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardware.profile import (
    DeviceProfile,
    Machine,
    MeasurementProtocol,
    ProfiledModel,
    ProfileRow,
    Timing,
    differs,
    noise_floor,
    parse_profile,
    read_profile,
    write_profile,
)


def timing(ratio: float = 0.5, **changes: Any) -> Timing:
    whole: dict[str, Any] = {
        "median_ms": 10 * ratio,
        "p95_ms": 12 * ratio,
        "quartiles": (9 * ratio, 11 * ratio),
        "cpu_ms": 10 * ratio,
        "noise": 0.2,
        "samples": (9 * ratio, 10 * ratio, 11 * ratio),
        "ratio": ratio,
        "cpu_ratio": ratio,
        "half_width": 0.01,
        "stable": True,
    }
    return Timing(**(whole | changes))


def profile(**changes: Any) -> DeviceProfile:
    rows = (
        ProfileRow(
            candidate={"depth": 2, "ffn.0": 24, "ffn.1": None, "kind": "a", "share": 0.5}, timing=timing(0.5), order=0
        ),
        ProfileRow(
            candidate={"depth": 3, "ffn.0": 24, "ffn.1": 48, "kind": "b", "share": 1.0}, timing=timing(0.8), order=1
        ),
    )
    whole: dict[str, Any] = {
        "model": ProfiledModel(name="tiny", family="bert", space_sha256="0" * 64, macs=1000),
        "machine": Machine(processor="A processor", cores=2, system="Linux", features=("avx2",)),
        "runtime": "pytorch",
        "runtime_version": "2.13.0",
        "precision": "float32",
        "threads": 1,
        "batch": 1,
        "tokens": 128,
        "shape": (1, 128),
        "protocol": MeasurementProtocol(),
        "reference": timing(1.0),
        "rows": rows,
    }
    return DeviceProfile(**(whole | changes))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_profile(profile(), tmp_path / "here.json")
    read = read_profile(tmp_path / "here.json")
    assert read == profile()
    assert [type(value) for value in read.rows[1].candidate.values()] == [int, int, int, str, float]
    assert [each.name for each in tmp_path.iterdir()] == ["here.json"]
    assert read.latency_ms(read.rows[0]) == pytest.approx(5.0)
    row = ProfileRow(candidate={}, timing=timing(0.5, cpu_ratio=0.4), order=0)
    by_cpu = profile(protocol=MeasurementProtocol(clock="cpu"), rows=(row,))
    assert by_cpu.latency_ms(row) == pytest.approx(4.0)


def test_differences_are_named() -> None:
    same = {"model": "tiny", "family": "bert", "batch": 1, "tokens": 128, "runtime": "pytorch", "precision": "float32"}
    assert differs(profile(), {**same, "threads": 1, "device": "cpu", "space_sha256": "0" * 64}) == []
    assert differs(profile(), {**same, "batch": 8, "tokens": None}) == [
        "batch is 1 in the profile and 8 is requested",
        "tokens is 128 in the profile and None is requested",
    ]
    with pytest.raises(ValueError, match="is compared by model, family"):
        differs(profile(), {"colour": 1})


def test_networks_of_one_name_are_told_apart_by_their_work() -> None:
    assert differs(profile(), {"macs": 1005}) == []
    differences = differs(profile(), {"macs": 1100, "shape": (1, 128)})
    assert differences == ["macs is 1000 in the profile and 1100 is requested"]


def test_noise_floor_is_the_median_difference_of_repeats() -> None:
    assert noise_floor(profile()) is None
    rows = [
        ProfileRow(candidate={"depth": depth}, timing=timing(ratio), order=order)
        for order, (depth, ratio) in enumerate([(1, 0.5), (2, 1.0), (3, 0.7), (4, 1.0), (1, 0.5), (2, 1.5), (4, 1.1)])
    ]
    assert noise_floor(profile(rows=tuple(rows))) == pytest.approx(0.1 / 1.05)


def _damaged(change: Callable[[dict[str, Any]], object]) -> bytes:
    whole = json.loads(profile().model_dump_json())
    change(whole)
    return json.dumps(whole).encode()


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "JSON"),
    "no JSON": (b"latency: 3", "JSON"),
    "not an object": (b"[1, 2]", "object"),
    "not UTF-8": (b'{"schema_version": 1, "runtime": "\xff"}', "JSON"),
    "deep list": (b'{"schema_version":1,"rows":' + b"[" * 1_000_000, "recursion"),
    "deep object": (b'{"schema_version":' * 100_000, "recursion"),
    "newer": (b'{"schema_version": 2, "anything": []}', "schema version must be 1, got 2"),
    "version by name": (_damaged(lambda p: p.update(schema_version="1")), "schema_version"),
    "not a number": (_damaged(lambda p: p["reference"].update(median_ms=float("nan"))), "median_ms"),
    "infinite": (_damaged(lambda p: p["reference"].update(p95_ms=float("inf"))), "p95_ms"),
    "overflow": (
        _damaged(lambda p: p["reference"].update(cpu_ms=0)).replace(b'"cpu_ms": 0,', b'"cpu_ms": 1e999,'),
        "cpu_ms",
    ),
    "infinite option": (_damaged(lambda p: p["rows"][0]["candidate"].update(share=float("inf"))), "candidate"),
    "infinite tolerance": (_damaged(lambda p: p["protocol"].update(tolerance=float("inf"))), "tolerance"),
    "negative time": (_damaged(lambda p: p["rows"][0]["timing"].update(median_ms=-1.0)), "greater than or equal to"),
    "huge integer": (_damaged(lambda p: p["rows"][0]["candidate"].update(depth=10**400)), "candidate"),
    "true as a number": (_damaged(lambda p: p.update(threads=True)), "threads"),
    "text as a number": (_damaged(lambda p: p.update(threads="1")), "threads"),
    "no threads": (_damaged(lambda p: p.update(threads=0)), "threads"),
    "unknown field": (_damaged(lambda p: p.update(model_file="../../etc/passwd")), "model_file: Extra inputs"),
    "unknown field inside": (_damaged(lambda p: p["protocol"].update(code="x")), "code"),
    "missing field": (_damaged(lambda p: p.pop("rows")), "rows: Field required"),
    "unknown precision": (_damaged(lambda p: p.update(precision="float8")), "precision"),
    "control characters": (_damaged(lambda p: p.update(runtime="\x1b[2Jgone")), "runtime"),
    "very long name": (_damaged(lambda p: p.update(runtime="x" * 10_000_000)), "runtime"),
    "very long key": (_damaged(lambda p: p.update({"\x1b" * 100_000: 1})), r"\?\?\?: Extra inputs"),
    "other choices": (_damaged(lambda p: p["rows"][0]["candidate"].pop("depth")), "same choices"),
    "order twice": (_damaged(lambda p: p["rows"][0].update(order=1)), "order of its own"),
    "another batch": (_damaged(lambda p: p.update(batch=2)), "first axis"),
    "quartiles crossed": (_damaged(lambda p: p["reference"].update(quartiles=[11.0, 9.0])), "in order"),
    "a warm-up without end": (_damaged(lambda p: p["protocol"].update(warmup_most=10**12)), "none above 10000"),
    "a huge input": (_damaged(lambda p: p.update(batch=2**20, shape=[2**20, 512])), "at most 268435456 numbers"),
    "CPU time of threads": (_damaged(lambda p: [p["protocol"].update(clock="cpu"), p.update(threads=2)]), "one thread"),
    "no CPU time": (
        _damaged(lambda p: [p["protocol"].update(clock="cpu"), p["reference"].update(cpu_ms=0.0)]),
        "above 0",
    ),
    "protocol that cannot be": (_damaged(lambda p: p["protocol"].update(rounds=5)), "rounds"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_no_profile_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    data, message = DAMAGED[case]
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as raised:
        read_profile(path)
    text = str(raised.value)
    assert text.startswith(f"{path} is no device profile that can be used: ")
    assert "\n" not in text and "\x1b" not in text and len(text) < 1000
    with pytest.raises(ValueError, match=message):
        parse_profile(data)


def test_large_files_and_missing_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="found no such file; make one with nas profile"):
        read_profile(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="found no such file"):
        read_profile(tmp_path)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(32 * 2**20 + 1)
    with pytest.raises(ValueError, match="must be at most 32 MiB"):
        read_profile(tmp_path / "large.json")
    monkeypatch.setattr("hardware.profile.MOST_BYTES", 100)
    with pytest.raises(ValueError, match="must be at most"):
        write_profile(profile(), tmp_path / "mine.json")
    assert not (tmp_path / "mine.json").exists()


@pytest.mark.parametrize(
    "wrong", [{"window": 0}, {"rounds": 5}, {"rounds": 9, "rounds_most": 8}, {"tolerance": 0.0}, {"clock": "sun"}]
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a protocol needs"):
        MeasurementProtocol(**wrong)
