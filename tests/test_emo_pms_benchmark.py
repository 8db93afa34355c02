"""The benchmark of EMO-PMS: what it concludes from scored networks, and what it prunes without a search."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_networks import ResNet
from emo_pms_figures import best, gain_figures, means, table, tau, tau_figures, volume, volume_figures
from emo_pms_peers import nearest
from emo_pms_picks import Clock, Network, bits
from emo_pms_problem import blocks_of
from emo_pms_searches import WHOLE, one_part

from search_spaces.pruning import partition

ROWS = 200


def _network(name: str, saved: float, wrong: int, validation: float | None = None) -> Network:
    right = np.arange(ROWS) >= wrong
    return Network(name, saved, saved, wrong / ROWS if validation is None else validation, right)


ORIGINAL = _network("original", 0.0, 20)


def _rows() -> dict[str, list[Network]]:
    """The original has 10 % wrong."""
    return {
        "ours": [_network("ours-40", 0.4, 20), _network("ours-50", 0.52, 24), _network("ours-60", 0.65, 30)],
        "whole": [_network("whole-50", 0.5, 30)],
        "whole-time": [_network("whole-time-50", 0.5, 60)],
        "torch-pruning": [_network("torch-pruning-50", 0.52, 26), _network("torch-pruning-60", 0.65, 40)],
    }


def test_a_volume_is_within_the_originals_cost_and_ten_points_more_error() -> None:
    assert volume([_network("a", 0.4, 20)], ORIGINAL) == pytest.approx(0.4)
    assert volume([_network("a", 0.5, 30)], ORIGINAL) == pytest.approx(0.5 * 0.5)
    # What the second adds: 0.12 of the cost, at 80 % of the error.
    assert volume(_rows()["ours"][:2], ORIGINAL) == pytest.approx(0.4 + 0.12 * 0.8)
    assert volume([ORIGINAL, _network("bad", 0.9, 40)], ORIGINAL) == 0 and volume([], ORIGINAL) == 0
    # A network that is better than the original has more than its share.
    assert volume([_network("better", 0.4, 18)], ORIGINAL) == pytest.approx(0.4 * 1.1)


def test_a_volume_of_zero_gives_no_figure() -> None:
    rows = _rows()
    ours = volume(rows["ours"], ORIGINAL)
    assert volume_figures(rows, ORIGINAL) == {
        "hypervolume_over_whole_equal_evaluations": pytest.approx(ours / volume(rows["whole"], ORIGINAL))
    }


def test_gains_are_of_the_best_by_validation() -> None:
    figures = gain_figures([_rows()])
    assert figures["error_gain_50"] == pytest.approx(1.0) and figures["error_gain_60"] == pytest.approx(5.0)
    assert figures["error_gain_60_low"] < 5 < figures["error_gain_60_high"]
    # One that only looks good on validation rows is taken, and its test error counts.
    rows = _rows()
    rows["ours"].append(_network("ours-lucky", 0.6, 50, validation=0.01))
    assert best(rows["ours"], 0.6) is rows["ours"][-1]
    assert gain_figures([rows])["error_gain_60"] == pytest.approx(-5.0)


def test_a_gain_without_a_network_is_absent() -> None:
    rows = {**_rows(), "torch-pruning": [_network("torch-pruning-50", 0.55, 26)]}
    assert set(gain_figures([rows])) == {"error_gain_50", "error_gain_50_low", "error_gain_50_high"}
    assert best(rows["torch-pruning"], 0.6) is None


def test_gains_of_seeds_are_over_all_their_rows() -> None:
    one, two = gain_figures([_rows()]), gain_figures([_rows(), _rows()])
    assert two["error_gain_50"] == pytest.approx(one["error_gain_50"])
    assert two["error_gain_50_high"] - two["error_gain_50_low"] < one["error_gain_50_high"] - one["error_gain_50_low"]


def test_a_ranking_is_as_good_as_errors_rise_along_it() -> None:
    assert tau([0.1, 0.2, 0.3]) == 1.0 and tau([0.3, 0.2, 0.1]) == -1.0
    assert tau([0.1, 0.1]) is None and tau([0.1]) is None
    assert tau_figures({"a": [0.1, 0.2, 0.15], "b": [0.1]}) == {"a": pytest.approx(1 / 3)}


def test_a_figure_of_some_seeds_is_their_mean() -> None:
    assert means([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}


def test_the_table_has_every_network() -> None:
    rows = _rows()
    lines = table(rows, ORIGINAL, dict.fromkeys(rows, 60.0), {"ours": "72 evaluations"}).splitlines()
    assert len(lines) == 2 + len(rows) + sum(map(len, rows.values()))
    assert lines[2].startswith("ours: hypervolume") and lines[2].endswith("60 s; 72 evaluations")
    assert lines[3].split() == ["ours-40", "40.0", "40.0", "10.00", "10.00"]


def test_what_is_pruned_is_near_its_target_and_saves_its_share() -> None:
    saved = np.array([0.3, 0.48, 0.52, 0.7])
    assert nearest(saved, 0.5, 0.4) == 1 and nearest(saved, 0.49, 0.5) == 2
    assert nearest(saved, 0.9, 0.8) == 3


def test_a_clock_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "row" / "clock.json"
    assert Clock(path).keep() >= 0
    path.write_text(json.dumps({"seconds": 100.0}))
    assert 100 <= Clock(path).keep() < 200
    assert json.loads(path.read_text())["seconds"] >= 100


def test_bits_are_read_as_they_were_written() -> None:
    right = np.random.default_rng(0).random(19) < 0.5
    digits = np.packbits(right).tobytes().hex()
    assert (bits(digits, 19) == right).all()


def test_a_whole_network_is_a_partition_of_one_part() -> None:
    torch.manual_seed(0)
    network = ResNet(1).eval()
    assert blocks_of(list(network.state_dict())) == 1
    pixels = torch.rand(2, 3, 32, 32)
    parts = partition(network, (pixels,))
    whole = one_part(parts)
    assert [each.name for each in whole.subnetworks] == [WHOLE] and whole.space == parts.space
    logits, outputs = whole.boundaries((pixels,))
    assert torch.equal(logits, network(pixels)) and torch.equal(outputs, logits)
