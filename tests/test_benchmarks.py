"""What the benchmark programs conclude from what they measured."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Harness
from instatune_common import SHARES, probability
from instatune_figures import Outcome, draw, figures, text

ROWS = 1000


def _correct(wrong: int) -> list[bool]:
    return [index >= wrong for index in range(ROWS)]


def _way(wrong: dict[float, int], largest: int) -> dict[str, Any]:
    picks = {f"{share:g}": {"saved": share + 0.01, "test_correct": _correct(count)} for share, count in wrong.items()}
    found = {"saved": [0.0, 0.5], "accuracy": [0.9, 0.8], "front": [[0.0, 0.9], [0.5, 0.8]], "seconds": 2.0}
    return {**found, "picks": picks, "largest_test_correct": _correct(largest)}


def _plain(wrong: int, validation: float) -> dict[str, Any]:
    return {"validation_accuracy": validation, "test_correct": _correct(wrong), "seconds": 1.0}


def _outcome(*lost: int, prefix: int = 20) -> Outcome:
    """Sub-networks that lose so many of 1,000 rows more than the reference, share by share."""
    picks = {share: 100 + count for share, count in zip(SHARES, lost, strict=True)}
    return Outcome(
        # The better on the test rows is not the better by validation.
        plain={"equal steps": [_plain(100, 0.9)], "equal time": [_plain(90, 0.8)]},
        reference="equal steps",
        ours=[_way(picks, 103)],
        prefix=[_way(dict.fromkeys(SHARES, 100 + prefix), 100)],
        alone={share: [_plain(100, 0.9)] for share in SHARES},
    )


def test_a_share_counts_only_when_it_and_all_smaller_ones_hold() -> None:
    found = figures(_outcome(2, 3, 1, 10, 11))
    assert found["macs_saved_no_loss"] == 0.3  # 0.5 loses a tenth of a point, but 0.4 before it three tenths
    assert found["macs_saved_one_point"] == 0.55


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
