"""Does an exported folder keep what its card states? Its own lines run in fresh processes that cannot see this project.

`--export FOLDER` is what `nas export` or `nas demo` wrote for a text task, `--rows FILE` the test rows of its run
(`RUN/data/test.parquet`). Both runtimes get batches of 7 rows, padded to the longest, unlike the exported example.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas
from harness import Figures, Harness, parser

TARGETS = {"torch_accuracy": "equal to card_accuracy", "onnxruntime_accuracy": "equal to card_accuracy"}
_BLIND = """
import importlib.abc, json, sys

class Blind(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nas", "search_spaces", "predictors", "hardware"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blind())
texts, labels = json.loads(sys.stdin.read())

def score(logits_of):
    right = 0
    for start in range(0, len(texts), 7):
        rows = tokenizer(texts[start:start + 7], padding=True, truncation=True, max_length=128, return_tensors="np")
        logits = logits_of({name: rows[name] for name in ("input_ids", "attention_mask")})
        right += int((logits.argmax(1) == labels[start:start + 7]).sum())
    print(right / len(texts))
"""
_TORCH = """
from transformers import AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained("."), load()
with torch.inference_mode():
    score(lambda rows: model(**{name: torch.from_numpy(value) for name, value in rows.items()}).logits.numpy())
"""
_ONNX = """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(".")
score(lambda rows: session.run(["logits"], rows)[0])
"""


def _blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def _accuracy(folder: Path, rows: Path, program: str) -> float:
    table = pandas.read_parquet(rows)
    given = json.dumps([table["text"].tolist(), table["label"].tolist()])
    command = [sys.executable, "-I", "-c", _BLIND + program]
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--export", type=Path, required=True, help="the exported folder")
    flags.add_argument("--rows", type=Path, required=True, help="the test rows of its run, test.parquet")
    options = flags.parse_args()
    card = (options.export / "README.md").read_text(encoding="utf-8")
    loader, _, onnx = _blocks(card)
    stated = re.search(r"\| test_accuracy \| ([0-9.]+)", card)
    figures: Figures = {
        "torch_accuracy": _accuracy(options.export, options.rows, loader + _TORCH),
        "onnxruntime_accuracy": _accuracy(options.export, options.rows, onnx + _ONNX),
    }
    if stated:
        figures = {"card_accuracy": float(stated.group(1)), **figures}
    Harness(options).report(figures, TARGETS, [])


if __name__ == "__main__":
    main()
