"""An exported folder gives, in a fresh process without this project, the accuracy and the size that its card states."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command

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
