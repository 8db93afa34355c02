"""An exported folder gives, in a fresh process without this project, the accuracy and the size that its card states."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Command

from hardware.latency import Latency
from nas.runs.export import not_met
from nas.searching.beyond_limits import beyond_limits

# The card's own first block defines `load`; rows are read in batches of five, each as long as its longest text.
PROGRAM = """
import json, sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nas", "search_spaces", "predictors", "hardware"):
            raise ImportError(f"{name} must not be needed")


sys.meta_path.insert(0, Absent())
rows, block = sys.argv[1:]
exec(block)
import numpy, onnxruntime, pandas, torch
from transformers import AutoTokenizer

table, model, tokenizer = pandas.read_parquet(rows), load(), AutoTokenizer.from_pretrained(".")
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
right = {"torch": 0, "onnxruntime": 0}
for start in range(0, len(table), 5):
    part = table[start : start + 5]
    inputs = tokenizer(list(part["text"]), padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = {"torch": model(**inputs).logits.numpy()}
    logits["onnxruntime"] = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
    for name, values in logits.items():
        right[name] += int((values.argmax(1) == part["label"].to_numpy()).sum())
print(json.dumps({name: count / len(table) for name, count in right.items()}))
"""


@pytest.mark.slow
def test_the_card_keeps_its_word(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    run, out = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "subnet"
    answer = nas_command("export", run, "--out", out, "--json")
    assert answer.status == 0, answer.err
    result, card = json.loads(answer.out), (out / "README.md").read_text(encoding="utf-8")
    stated, rows = result["chosen"]["test_accuracy"], result["test_rows"]
    assert re.search(rf"^\| test_accuracy .*\({round(stated * rows):,} of {rows:,}\) \|$", card, re.MULTILINE)
    size = sum((out / name).stat().st_size for name in ("model.safetensors", "config.json"))
    assert re.search(rf"^\| size_mib .*\({size:,} bytes\) \|$", card, re.MULTILINE)
    assert result["chosen"]["size_mib"] == size / 2**20

    assert "0 `0`, 1 `1`" in card and card.count("truncation=True, max_length=64") >= 2
    block = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)[0]
    command = [sys.executable, "-c", PROGRAM, str(run / "data" / "test.parquet"), block]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"torch": stated, "onnxruntime": stated}


def slow(networks: Sequence[object], *inputs: object, **settings: object) -> list[Latency]:
    """Two seconds for each network, in place of a clock."""
    return [Latency(2000.0, 2000.0, (2000.0, 2000.0), 2000.0, 0.0, (2000.0,)) for _ in networks]


def test_an_export_says_which_limit_its_files_break_and_what_it_replaces(
    nas_command: Command, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "subnet"
    answer = nas_command("search", run, "--name", "fast", "--max-latency-ms", 1900, "--budget", 2)
    assert answer.status == 0, answer.err
    export = ("export", run, "--name", "fast", "--out", out, "--max-latency-ms", 1950, "--json")
    answer = nas_command(*export)
    assert answer.status == 0 and json.loads(answer.out)["beyond_limits"] == {}, answer.err
    assert "does not meet" not in answer.err and "in place of" not in answer.err
    os.utime(out / "config.json", (0, 1_700_000_000))
    monkeypatch.setattr("nas.exporting.comparison.measure_latency", slow)
    answer = nas_command(*export)
    assert answer.status == 0, answer.err
    # The limit of the search is the stricter one.
    assert json.loads(answer.out)["beyond_limits"] == {"max_latency_ms": {"limit": 1900, "measured": 2000}}
    assert (
        "The exported network does not meet --max-latency-ms 1900: latency is 2000 ms as this export measures it; a "
        "stricter limit leaves room for that\n"
    ) in answer.err
    assert f"Exporting to {out}, in place of the export of 2023-11-1" in answer.err


def test_the_figures_that_do_not_meet_a_limit() -> None:
    figures = {"test_accuracy": 0.88, "latency_ms": 8.02, "macs": 5e6, "size_mib": 2.0, "parameters": None}
    bounds = [
        ("accuracy", -1.0, 0.9),
        *(("latency_ms_laptop", 1.0, limit) for limit in (9.0, 8.0, 7.0)),
        ("latency_ms_phone", 1.0, 3.0),
        ("macs", 1.0, 5e6),
        ("memory_mib", 1.0, 1.0),
        ("parameters", 1.0, 1.0),
    ]
    accuracy, latency = beyond_limits(bounds, figures, {"latency_ms_phone"})
    assert (accuracy.flag, accuracy.limit, accuracy.measured) == ("min_accuracy", 0.9, 0.88)
    assert (
        not_met(accuracy, busy=True)
        == not_met(accuracy)
        == (
            "The exported network does not meet --min-accuracy 0.9: accuracy on the test rows is 0.88 as this export "
            "measures it"
        )
    )
    assert (latency.flag, latency.limit, latency.measured) == ("max_latency_ms", 7.0, 8.02)
    assert "--max-latency-ms 7: latency is 8.02 ms as this export measures it; a stricter limit" in not_met(latency)
    assert not_met(latency, busy=True).endswith("latency is 8.02 ms as this export measures it")
    assert beyond_limits(bounds[-3:], figures) == []
