"""EvoNorm on CIFAR-10: what its tests of layers spare and lose, and what a search from random graphs finds.

`--data FOLDER` has cifar10_train20k.parquet and cifar10_test.parquet. Four fifths of the training images are trained
on, the others are the validation rows, which every choice goes by: tests of layers, search, ranking and learning rates.
Test rows are read after a training that is to be reported, and decide nothing. The stages, each kept in `--out`:

- `cost`: the six published layers as graphs beside careful modules by hand (`evonorm_modules.py`);
- `search`: `nas.evonorm` from random graphs, in two networks; the best are trained longer in these, and the best of
  them is `found`. All this is done before the unseen network is trained;
- `rejection`: known layers, random ones, and mutants of those known ones that the published rule accepts, by that rule
  and by ours (see `evonorm_rejection.py`), with the bound that `nas evolve` measures. `training_saved` is of the random
  layers, with which an evolution begins and of which half of its proposals are; `training_saved_mutants` of the
  mutants. `false_rejects` is of all that the published rule accepts;
- `small-batch`: the unseen network at batch size 4 with each layer, three seeds, each at the better of two learning
  rates by validation rows of the first. BN-ReLU and GN-ReLU are PyTorch's modules, the others graphs;
- `ordinary`: all networks at the ordinary batch size, by the training that ranks layers, one seed;
- `workers`: one evolution of layers on 1, 2 and 4 Ray workers, with trials that sleep.

What two cores can show, and what not. Networks have an eighth of the channels and images of 16 pixels, and they are
trained for minutes: accuracies are far below those of the paper, and say how fast a layer learns rather than where it
ends. The search tries hundreds of layers where the paper's tries hundreds of thousands, and a few seeds of one data set
and one unseen network tell differences of some points, not of tenths. It can show that the parts work together, what
the tests cost, spare and lose, and whether a layer that is found this way holds up in another network at a small batch
size. Whether it would on large images, only `--full` (the paper's sizes, all three networks in the search, an unseen
ResNet-18, all published layers) and more can tell.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from evonorm_cost import cost_ratios
from evonorm_figures import FOUND, TARGETS, cost_figures, gains, ordinary_table, small_batch_table
from evonorm_kept import Kept
from evonorm_problem import FULL, TINY, Layer, Problem, Sizes, load_problem
from evonorm_rejection import FEW, FirstStep, PublishedRule, Rules, as_json, bound, from_json, streams
from evonorm_rejection import figures as rejection_figures
from evonorm_rejection import table as rejection_table
from evonorm_search import search
from evonorm_search import text as search_text
from evonorm_trainings import ordinary, small_batch
from evonorm_workers import worker_efficiency
from harness import Figures, Harness, parser

from nas.evolving.anchors import ANCHORS
from nas.workers import mapped
from search_spaces.graphs import LayerGraph


@dataclass(frozen=True)
class Stages:
    """The stages of the benchmark; each is kept by the harness, and goes on in the middle of itself.

    Args:
        harness: keeps them.
        data: folder of the rows.
        sizes: how much is measured.
        folder: of what stages keep while they run.
        processes: trainings at a time, each on one thread.
    """

    harness: Harness
    data: Path
    sizes: Sizes
    folder: Path
    processes: int

    @cached_property
    def problem(self) -> Problem:
        """The rows, which are read when a stage needs them."""
        return load_problem(self.data, self.sizes)

    def cost(self) -> dict[str, Any]:
        """Times of graphs and modules."""
        return self.harness.stage("cost", lambda: cost_ratios(self.sizes.rounds), **self._of("rounds"))

    def workers(self) -> Figures:
        """Efficiencies of workers."""
        sizes = self.sizes
        return self.harness.stage(
            "workers",
            lambda: worker_efficiency(evaluations=sizes.evaluations, seconds=sizes.sleep_s),
            **self._of("evaluations", "sleep_s"),
        )

    def bound(self, stage: str, names: Sequence[str], steps: int) -> float:
        """The least accuracy after the first steps in these networks."""
        settings = self._of("anchors", "scored") | {"networks": ", ".join(names), "steps": steps}
        return float(
            self.harness.stage(stage, lambda: {"least": bound(self.problem, names, steps)}, **settings)["least"]
        )

    def rejection(self) -> dict[str, Any]:
        """The streams of layers, as JSON data."""
        settings = self._of("anchors", "scored")
        least = self.bound("rejection-bound", list(ANCHORS), FEW)

        def compute() -> dict[str, Any]:
            with mapped(self.processes, None) as over:
                trained, passed = (
                    Kept(self.folder / f"{name}.jsonl", json.dumps(settings), over)
                    for name in ("layers", "first-steps")
                )
                rules = Rules(PublishedRule(self.problem, least), trained, FirstStep(self.problem), passed)
                return as_json(streams(self.problem, rules))

        return self.harness.stage(
            "rejection", compute, **settings, **self._of("known", "random_layers", "accepted", "most_mutants", "round")
        )

    def search(self) -> dict[str, Any]:
        """The evolution and the ranking, as JSON data."""
        sizes = self.sizes
        least = sizes.least_accuracy
        if least is None:
            least = self.bound("search-bound", sizes.searched_in, sizes.quality_steps)
        evolution = ("population", "tournament_share", "quality_steps", "ascent_steps", "proxy_steps", "budget")

        def compute() -> dict[str, Any]:
            return search(self.problem, self.folder / "evolution", least, self.processes)

        settings = self._of("anchors", "scored", "searched_in", *evolution, "reranked", "longer_steps")
        return self.harness.stage("search", compute, least_accuracy=least, **settings)

    def small_batch(self, layers: Sequence[Layer]) -> dict[str, Any]:
        """The unseen network at the small batch size, by layer, as JSON data."""
        return self._trained("small-batch", small_batch, layers, "unseen", "small_steps", "small_rates", "seeds")

    def ordinary(self, layers: Sequence[Layer]) -> dict[str, Any]:
        """All networks at the ordinary batch size, by layer, as JSON data."""
        return self._trained("ordinary", ordinary, layers, "searched_in", "unseen", "longer_steps")

    def _trained(
        self, stage: str, train: Callable[..., dict[str, Any]], layers: Sequence[Layer], *names: str
    ) -> dict[str, Any]:
        settings = self._of("anchors", "chosen", "tested")
        keys = ", ".join(f"{layer.name} {layer.graph.key if layer.graph else ''}" for layer in layers)

        def compute() -> dict[str, Any]:
            with mapped(self.processes, None) as over:
                kept = Kept(self.folder / f"{stage}.jsonl", json.dumps(settings), over)
                return train(self.problem, layers, kept)

        return self.harness.stage(stage, compute, layers=keys, **settings, **self._of(*names))

    def _of(self, *names: str) -> dict[str, Any]:
        """Some of the sizes, as JSON data."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self.sizes)))
        return {name: json.dumps(found[name]) for name in names}


def run(stages: Stages) -> None:
    """Run all stages, or read what is kept of them, and report."""
    to = sys.stderr if stages.harness.options.json else sys.stdout
    cost, found = stages.cost(), stages.search()
    print(f"{search_text(found)}\n", file=to, flush=True)
    tried = from_json(stages.rejection())
    print(f"{rejection_table(tried)}\n", file=to, flush=True)
    layers = [Layer(name) for name in stages.sizes.layers]
    if found["ranked"]:
        layers.append(Layer(FOUND, LayerGraph.from_json(json.dumps(found["ranked"][0]["graph"]))))
    small, usual = stages.small_batch(layers), stages.ordinary(layers)
    workers = stages.workers()
    best = found["ranked"][0]["formula"] if found["ranked"] else "none, all layers were rejected"
    print(f"The best layer that was found: {best}\n", file=to)
    print(f"Unseen {stages.sizes.unseen}, batch size 4:\n{small_batch_table(small)}\n", file=to)
    print(f"Ordinary batch size:\n{ordinary_table(usual, stages.sizes.unseen)}\n", file=to)
    figures = rejection_figures(tried) | cost_figures(cost) | workers
    if found["ranked"]:
        figures |= gains(small)
    stages.harness.report(figures, TARGETS, list(range(stages.sizes.seeds)))


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the cifar10_* files")
    flags.add_argument("--small", action="store_true", help="a few minutes, to see that it runs")
    flags.add_argument("--processes", type=int, default=2, help="trainings at a time, each on one thread")
    options: argparse.Namespace = flags.parse_args()
    torch.set_num_threads(1)
    sizes = FULL if options.full else TINY if options.small else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        run(Stages(Harness(options), options.data, sizes, out, options.processes))


if __name__ == "__main__":
    main()
