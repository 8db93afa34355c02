"""What commands print at their end is for people: sentences and tables with rounded figures and their units."""

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
from conftest import Answer, Command

from nas.console import print_object
from nas.reporting.endings import (
    PRUNED_NETWORK,
    print_comparison,
    print_finetuned,
    print_profile,
    print_pruned,
    print_report,
    print_search,
)

DEPLOYMENT = {"runtime": "pytorch", "runtime_version": "2", "precision": "float32", "threads": 1, "batch": 1}
VALUES = {"accuracy": np.float64(0.8512345678901234), "latency_ms": 7.612345678901234, "macs": 2_622_528.0}
SEARCH: dict[str, Any] = {
    "run": "run",
    "search": "default",
    "measured": 60,
    "failed": 0,
    "known": 0,
    "every_sub_network": False,
    "full": VALUES,
    "front": [{**VALUES, "measured_latency_ms": 8.0123456789}],
    "deployment": {"machine": "a phone, 8 cores", **DEPLOYMENT, "tokens": 128},
    "table": "run/searches/default/front.csv",
}
PROFILE: dict[str, Any] = {
    "profile": "laptop.json",
    "model": "model",
    **DEPLOYMENT,
    "tokens": None,
    "sub_networks": 1,
    "full_network_ms": 0.1887654321,
    "noise_floor_percent": None,
    "held_out": None,
    "seconds": 123.456,
}


def printed(show: Callable[[Mapping[str, Any], TextIO], None], result: Mapping[str, Any]) -> str:
    out = io.StringIO()
    show(result, out)
    return out.getvalue()


def readable(text: str) -> bool:
    """No Python value as Python writes it, and no number of more digits than anybody reads."""
    raw = re.search(r"[{}\[\]']|\bNone\b|\bTrue\b|\bFalse\b|\bnp\.|_ms\b|\d\.\d{5}|\d{8}|e-\d\d", text)
    return bool(text) and raw is None


def test_a_front_is_a_table_with_units() -> None:
    text = printed(print_search, {**SEARCH, "failed": 2, "known": 3, "every_sub_network": True})
    assert readable(text), text
    assert all(each in text for each in ("85.1 %", "7.61 ms", "8.01 ms", "latency, measured again", "full network"))
    assert "60 sub-networks measured, all that there are, 2 failed, 3 known from before" in text
    assert "pytorch 2, float32, 1 thread, batch 1, 128 tokens, a phone, 8 cores" in text


def test_of_a_long_front_the_first_are_shown() -> None:
    text = printed(print_search, {**SEARCH, "front": [VALUES] * 60, "full": None})
    assert readable(text) and "60 sub-networks" in text and "40 more are in the table" in text
    assert "│ 20 " in text and "│ 21 " not in text


def test_a_chosen_sub_network_in_words() -> None:
    chosen = {**VALUES, "measured_latency_ms": 8.0123, "precisions": "all in int8", "candidate": {"depth": 2}}
    chosen["sizes"] = "depth 2; heads 3 4 ·"
    report = {**SEARCH, "front": 3, "chosen": chosen, "report": "report.html", "picture": "pareto.png"}
    text = printed(print_report, report)
    assert readable(text) and "accuracy 85.1 %" in text and "latency, measured again 8.01 ms" in text
    assert "Its sizes: depth 2; heads 3 4 ·" in text and "Its precisions: all in int8" in text
    assert "60 sub-networks measured, 3 on the front" in text and "in a browser: report.html" in text
    many = printed(print_report, {**report, "chosen": {**chosen, "sizes": "heads " + "4 " * 999}})
    assert max(map(len, many.splitlines())) < 450
    assert "1 pruned network measured" in printed(partial(print_report, noun=PRUNED_NETWORK), {**report, "measured": 1})
    assert "Chosen: none" in printed(print_report, {**report, "chosen": None})
    assert printed(print_report, {"run": "run", "training": "training.png"}).count("\n") == 1


def test_what_a_profile_says() -> None:
    text = printed(print_profile, PROFILE)
    assert readable(text) and "0.189 ms; 1 sub-network measured beside it in 2 minutes" in text and "too few" in text
    judged = {"mape_percent": 3.21234, "kendall_tau": 0.91234, "inside_90_percent_intervals": 0.8765}
    text = printed(print_profile, {**PROFILE, "held_out": judged, "noise_floor_percent": 1.2345, "sub_networks": 100})
    assert readable(text) and "off by 3.2 % in the mean" in text and "0.91, 88 % of them" in text
    assert "differs by 1.2 %" in text
    unknown = printed(print_profile, {**PROFILE, "held_out": dict.fromkeys(judged)})
    assert readable(unknown) and "no number" in unknown


def test_an_export_is_worded_as_all_other_figures_are() -> None:
    today = {"test_accuracy": 0.9, "latency_ms": 1.42, "macs": 2.7e6, "parameters": 30_338, "size_mib": 0.12}
    today["predicted_latency_ms"] = None
    full = {**today, "latency_ms": 1.2, "predicted_latency_ms": 1.25}
    chosen = {"test_accuracy": 0.892, "latency_ms": 0.8717, "macs": 6.15e5, "parameters": 9_000, "size_mib": 0.04}
    chosen["predicted_latency_ms"] = 0.85
    result = {"today": today, "full": full, "chosen": chosen, "accuracy_difference_points": -0.8}
    result |= {"accuracy_difference_interval": [-1.6, 0.04], "deployment": {"threads": 1}, "export": "subnet"}
    text = printed(print_comparison, {**result, "what_the_data_can_tell": "Little."})
    assert readable(text.replace("[−1.6, ±0]", "")), text
    for cell in ("−0.8 points [−1.6, ±0]", "0.87 ms", "1.63 times as fast", "0.61 M", "2.70 M", "−77 %", "89.2 %"):
        assert cell in text, cell
    assert "1.47 times as fast" in text, "as predicted in the deployment"


def test_what_a_pruning_says() -> None:
    stage = {"forms": 30, "front": 7, "base_error": np.float64(0.123456789), "failed": 1}
    network = {"pruned_parameters": 0.503456789, "pruned_macs": 0.41234567}
    text = printed(print_pruned, {**SEARCH, "sub_networks": {"0": stage}, "networks": {"parameters -50 %": network}})
    assert readable(text) and "12.3 %" in text and "50.3 %" in text and "41.2 %" in text
    assert "Stages of the network" in text and "60 pruned networks measured" in text
    assert "The front: 1 pruned network " in text and "sub-network" not in text.lower()


def test_what_a_fine_tuning_bought() -> None:
    probed = {
        "full": {"r2": 0.9, "parameters": 22_700_000, "macs": 2_780_000_000},
        "smallest": {"r2": None, "parameters": 16_400_000, "macs": 790_000_000},
    }
    rows = {"train": 1680, "validation": 360, "test": 360}
    result = {"run": "run", "rows": rows, "classes": [], "steps": 260, "loss": 0.41234567, "seconds": 243.1}
    result |= {"validation_r2": 0.91234567, "probed": probed, "probed_rows": 300}
    text = printed(print_finetuned, result)
    assert readable(text) and "0.912 on the 360 validation rows" in text and "on 300 validation rows" in text
    assert "−72 %" in text and "−28 %" in text and "no number" in text and "4 minutes" in text
    assert "smallest" not in printed(print_finetuned, {**result, "probed": {}, "validation_r2": None})


def test_objects_have_no_python_in_them() -> None:
    text = printed(print_object, {"layers": [{"mean_accuracy": 0.81234567, "tried": 1234}], "left": None, "all": True})
    assert text == "layers: mean accuracy 0.8123, tried 1,234\nleft: none\nall: yes\n"


@pytest.mark.slow
def test_every_line_of_the_commands(nas_command: Command, inputs: Path, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))

    def answered(*args: object) -> Answer:
        answer = nas_command(*args)
        assert answer.status == 0, answer.err
        return answer

    trained = [inputs / "model", "--data", inputs / "reviews.csv", "--out", run, "--steps", 40]
    trained = ["finetune", *trained, "--learning-rate", "3e-3"]
    found = json.loads(answered(*trained, "--json").out)
    assert list(found["probed"]) == ["full", "smallest", "random_1", "random_2", "random_3"]
    assert found["probed"]["full"]["macs"] > found["probed"]["random_1"]["macs"] > found["probed"]["smallest"]["macs"]
    assert found["probed"]["full"]["accuracy"] == found["validation_accuracy"], "on these few rows both are of all"
    search = ["search", run, "--objectives", "accuracy,macs", "--budget", 12]
    for args in (trained, search, ["report", run]):
        text = answered(*args).out
        assert readable(text.replace(str(tmp_path), "")) and " %" in text, text
