"""Does the full network suffer from being trained as a super-network? MiniLM on SST-2, equal steps and equal tuning.

`--data FOLDER` holds sst2_train.csv.gz, sst2_dev.csv.gz and sst2_test.csv.gz (columns text, label). The weights are
those of `nas demo`, fetched by pip into its cache. Both ways of fine-tuning get the same steps, batches and grid of
learning rates; each picks its own rate on the development rows; the test rows are read once, with the picked ones.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from harness import Figures, Harness, parser

from nas import InstaTuneConfig, instatune
from nas.accuracy import accuracy, paired_difference, predict
from nas.demo_files import WEIGHTS, cache_folder, fetch, unpack_model
from nas.importance import order_by_importance
from nas.models import load_pretrained
from nas.split import Split, make_split
from search_spaces import Supernet, space, spread

RATES, MAX_TOKENS, THREADS = (1e-4, 2e-4), 64, 2
TARGETS = {"largest_minus_plain": "at least -0.5 points"}
PLAIN = {"samples": 0}


def _splits(data: Path, preprocessor: Any) -> dict[str, Split]:
    tables = {name: pandas.read_csv(data / f"sst2_{name}.csv.gz") for name in ("train", "dev", "test")}
    return {
        name: make_split(list(table["text"]), table["label"].to_numpy(), preprocessor, MAX_TOKENS)
        for name, table in tables.items()
    }


def _run(folder: Path, data: Path, settings: dict[str, Any], rate: float, steps: int, seed: int) -> dict[str, Any]:
    """Fine-tune once; development accuracy, test correctness of the full network, and seconds."""
    torch.set_num_threads(THREADS)
    model, preprocessor = load_pretrained(folder, ("negative", "positive"), "text", seed=seed)
    splits = _splits(data, preprocessor)
    supernet = Supernet(model, space(model, drop_order=spread, heads=(3, 6, 9, 12), ffn=(0.25, 0.5, 0.75, 1.0)))
    if settings != PLAIN:
        order_by_importance(supernet, splits["train"])
    config = InstaTuneConfig(steps=steps, learning_rate=rate, freeze_embeddings=True, seed=seed, **settings)
    history = instatune(supernet, splits["train"], config)
    model.eval()
    logits = {name: predict(model, splits[name]) for name in ("dev", "test")}
    return {
        "dev_accuracy": accuracy(logits["dev"], splits["dev"].labels),
        "test_correct": [bool(value) for value in logits["test"].argmax(1) == splits["test"].labels],
        "seconds": sum(step.seconds for step in history.steps),
    }


def _tuned(
    harness: Harness, name: str, settings: dict[str, Any], folder: Path, steps: int, seed: int
) -> dict[str, Any]:
    """The run whose rate is best on the development rows."""
    runs = [
        harness.stage(
            f"{name}_{rate:g}_seed{seed}",
            lambda rate=rate: _run(folder, harness.options.data, settings, rate, steps, seed),
            steps=steps,
            data=str(harness.options.data.resolve()),
        )
        for rate in RATES
    ]
    best = max(range(len(runs)), key=lambda index: runs[index]["dev_accuracy"])
    return runs[best] | {"rate": RATES[best]}


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the sst2_*.csv.gz files")
    options = flags.parse_args()
    harness = Harness(options)
    steps, seeds = (2000, (0, 1, 2)) if options.full else (300, (0,))
    archives = fetch(cache_folder(), print)
    figures: Figures = {}
    correct: dict[str, list[bool]] = {"plain": [], "supernet": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        unpack_model(archives[WEIGHTS], folder)
        for seed in seeds:
            for name, settings in (("plain", PLAIN), ("supernet", {})):
                best = _tuned(harness, name, settings, folder, steps, seed)
                correct[name] += best["test_correct"]
                figures[f"{name}_rate_seed{seed}"] = best["rate"]
                figures[f"{name}_dev_accuracy_seed{seed}"] = best["dev_accuracy"]
                figures[f"{name}_seconds_seed{seed}"] = best["seconds"]
    for name, values in correct.items():
        figures[f"{name}_test_accuracy"] = float(np.mean(values))
    difference = paired_difference(correct["supernet"], correct["plain"])
    figures |= {
        "largest_minus_plain": difference.points,
        "largest_minus_plain_low": difference.low,
        "largest_minus_plain_high": difference.high,
    }
    harness.report(figures, TARGETS, seeds)


if __name__ == "__main__":
    main()
