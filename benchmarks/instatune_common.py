"""Shared stages of the two InstaTune benchmarks: trainings, searches, and the choice of sub-networks.

Each stage is stored under `--out` and is not repeated with the same settings. Learning rates, the sub-network for each
share of saved multiply-accumulates, and the plain run to compare with are all chosen on validation rows. Test rows are
scored once, with the networks that were chosen.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Harness
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas import InstaTuneConfig, instatune
from nas.data.accuracy import accuracy, predict
from nas.data.split import Split
from nas.learning.augmentation import augmented
from nas.learning.block_order import block_order
from nas.learning.importance import ImportanceConfig, order_by_importance
from nas.learning.training import History
from nas.searching.supernet_search import search
from nas.seeds import generator
from search_spaces import Candidate, Space, Supernet, exact_costs, recalibrate

SHARES = (0.3, 0.4, 0.5, 0.55, 0.6)
"""Those of the tables; the networks trained alone with a fifth of the time each are of these sizes too."""
CALIBRATED = 2048
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where networks are scored; trainings find it themselves."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """A network, its data, and the settings of all stages.

    Args:
        name: name of the picture.
        prefix: prefix of the names of the figures.
        key: settings that all stages depend on; a stored stage with another key is run again.
        network: (seed) -> the pre-trained network.
        space: (network, drop orders of its stacks of blocks, or None for last first) -> its space.
        splits: the splits "train", "validation" and "test".
        example: inputs for which multiply-accumulates are counted, with at least two rows.
        config: settings of the super-network's fine-tuning; the other trainings share all of them but the loss.
        importance: settings for ordering units and blocks.
        first: steps of plain fine-tuning before. The super-network starts from the result, which is also the strong
            teacher if there is one. 0: the pre-trained network has been trained on this task already and is both.
        rates: the grid of learning rates. The best one for the full network is used for everything else.
        shared_rate: learning rate of super-networks and of sub-networks that are tuned alone; None: the chosen one.
        evaluations: budget of a search.
        scored: number of validation rows on which a search scores candidates.
        finalists: number of best candidates of a search, for each share, that are scored on all validation rows.
        shares: what the chosen sub-networks save at least.
        judges_hidden_states: whether a super-network is trained without hidden states too, to compare.
    """

    name: str
    prefix: str
    key: Mapping[str, float | str]
    network: Callable[[int], nn.Module]
    space: Callable[[nn.Module, Any], Space]
    splits: Mapping[str, Split]
    example: Mapping[str, Tensor]
    config: InstaTuneConfig
    importance: ImportanceConfig
    first: int
    rates: tuple[float, ...]
    shared_rate: float | None
    evaluations: int
    scored: int
    finalists: int
    shares: tuple[float, ...] = SHARES
    judges_hidden_states: bool = False

    @cached_property
    def placed_example(self) -> dict[str, Tensor]:
        """The example where networks are scored."""
        return {name: tensor.to(DEVICE) for name, tensor in self.example.items()}

    @cached_property
    def searched(self) -> Split:
        """The validation rows on which a search scores candidates."""
        return self.splits["validation"].take(self.scored, generator(0, "scored"))

    @cached_property
    def calibrating(self) -> Split:
        """Training rows for the statistics of batch norms, augmented if the training augments them."""
        train = self.splits["train"]
        return augmented(train) if self.config.augment else train

    @cached_property
    def calibration(self) -> list[dict[str, Tensor]]:
        """Batches of inputs on which batch-norm statistics are measured."""
        rows = generator(0, "calibration").permutation(len(self.calibrating))[:CALIBRATED]
        parts = (self.calibrating.batch(part) for part in np.array_split(rows, -(-CALIBRATED // 256)))
        return [{name: tensor.to(DEVICE) for name, tensor in part.items()} for part in parts]


@dataclass(frozen=True)
class Bench:
    """The stages of one problem with one seed; weights are stored in `folder` beside the results."""

    harness: Harness
    problem: Problem
    seed: int
    folder: Path

    def ours(self) -> Result:
        """Result for a super-network with ordered units and blocks; see `_way`."""
        return self._way("ours", self.ordered()["drop_order"])

    def prefix(self) -> Result:
        """Result without ordering, as in the paper: prefixes of the units as they are, last blocks dropped first."""
        return self._way("prefix", None)

    @property
    def steps(self) -> int:
        """Training steps of a super-network, including the plain fine-tuning before."""
        return self.problem.first + self._second

    @property
    def _second(self) -> int:
        return self.problem.config.total_steps(len(self.problem.splits["train"]))

    def equal_steps(self) -> Result:
        """Result of plain fine-tuning for as many steps, at the learning rate that is best on validation rows."""
        runs = [self._plain(rate, self.steps, "plain_steps") for rate in self.problem.rates]
        return max(runs, key=lambda run: float(run["validation_accuracy"]))

    @cached_property
    def _rate(self) -> float:
        return float(self.equal_steps()["rate"])

    @cached_property
    def _plain_config(self) -> InstaTuneConfig:
        """Plain fine-tuning through the same loop as InstaTune's: without sub-networks."""
        return replace(
            self.problem.config,
            seed=self.seed,
            samples=0,
            sampling="uniform",
            full_weight=1.0,
            distillation="low-cost",
            hidden_weight=None,
            steps=None,
        )

    @property
    def _shared_rate(self) -> float:
        return self.problem.shared_rate or self._rate

    def equal_time(self, seconds: float) -> Result:
        """Result of plain fine-tuning for as many steps as take the given time."""
        steps = max(1, round(self.steps * seconds / self.equal_steps()["seconds"]))
        return self._plain(self._rate, steps, "plain_time")

    def alone(self, pick: Sequence[int]) -> Result:
        """Result of a sub-network that is extracted from the initial super-network and fine-tuned alone."""

        def compute() -> Result:
            supernet = self.supernet("ours", self.ordered()["drop_order"])
            return self._trained_alone(supernet, pick, self._second)

        return self.stage(f"alone_{_named(pick)}", compute, **self._alone_depends(pick), steps=self._second)

    def alone_in_a_fifth(self, pick: Sequence[int], seconds: float) -> Result:
        """Result of a sub-network of the pre-trained network, fine-tuned alone in a fifth of some seconds.

        Who wants five sizes and has no super-network divides the time among them. Units and blocks are in the order
        that ours are in.
        """
        steps = max(1, round(self._second * seconds / 5 / self.alone(pick)["seconds"]))

        def compute() -> Result:
            ordered = self.ordered()
            model = self.problem.network(self.seed)
            supernet = Supernet(model, self.problem.space(model, _orders(ordered["drop_order"]))).to(DEVICE)
            supernet.reorder({name: torch.tensor(order) for name, order in ordered["orders"].items()})
            return self._trained_alone(supernet, pick, steps)

        return self.stage(f"fifth_{_named(pick)}", compute, **self._alone_depends(pick), steps=steps)

    def _trained_alone(self, supernet: Supernet, pick: Sequence[int], steps: int) -> Result:
        module = self._extract(supernet, supernet.space.decode(np.array([pick]))[0])
        seconds = _spent(lambda: self._train_plain(module, self._shared_rate, steps))
        return self._judged(module) | {"seconds": seconds, "steps": steps}

    def _alone_depends(self, pick: Sequence[int]) -> dict[str, float | str]:
        return {"pick": str(list(pick)), "rate": self._shared_rate, "config": repr(self._plain_config)}

    def ordered(self) -> Result:
        """Find the drop orders, order the units, and store the ordered network."""

        def compute() -> Result:
            problem, train = self.problem, self.problem.splits["train"]
            model = self._start()
            # Spaces are made where example inputs are by default, on the CPU.
            last_first = Supernet(model, problem.space(model, None)).to(DEVICE)
            drop_order = block_order(last_first, train, problem.importance)
            supernet = Supernet(model.cpu(), problem.space(model, drop_order)).to(DEVICE)
            orders = order_by_importance(supernet, train, problem.importance)
            self._keep("ordered", model)
            return {"drop_order": drop_order, "orders": {name: order.tolist() for name, order in orders.items()}}

        return self.stage("ordered", compute, importance=repr(self.problem.importance))

    def supernet(self, way: str, drop_order: Mapping[str, Sequence[int]] | None) -> Supernet:
        """The initial super-network, with ordered units or not."""
        model = self._start()
        if way == "ours":
            self.restore("ordered", model)
        return Supernet(model, self.problem.space(model, _orders(drop_order))).to(DEVICE)

    def _way(self, way: str, drop_order: Mapping[str, Sequence[int]] | None) -> Result:
        """Fine-tune a super-network, search it, choose sub-networks and score them on test rows.

        Returns:
            `front` as [saved share, accuracy] pairs, `picks` by share, the largest network, and `seconds`.
        """
        tuned = self.tuned(way, drop_order)
        supernet = self.supernet(way, drop_order)
        self.restore(way, supernet.model)
        supernet.eval()
        common = {
            "evaluations": self.problem.evaluations,
            "scored": self.problem.scored,
            "rate": self._shared_rate,
            "config": repr(self.problem.config),
        }
        found = self.stage(f"{way}_search", lambda: self._search(supernet), **common)
        finalists = self.problem.finalists
        picked = self.stage(f"{way}_picks", lambda: self._picks(supernet, found), **common, finalists=finalists)
        return tuned | found | picked

    def tuned(
        self, way: str, drop_order: Mapping[str, Sequence[int]] | None, settings: InstaTuneConfig | None = None
    ) -> Result:
        config = replace(settings or self.problem.config, learning_rate=self._shared_rate, seed=self.seed)
        ordered = "prefix" if way == "prefix" else "ours"

        def compute() -> Result:
            supernet = self.supernet(ordered, drop_order)
            # The teacher is a copy of the network as the training begins, with its units in the same order.
            teacher = None if config.distillation == "low-cost" else self.supernet(ordered, drop_order).model
            with tempfile.TemporaryDirectory() as kept:
                seconds = _spent(lambda: self._instatuned(supernet, config, teacher, Path(kept)))
            self._keep(way, supernet.model)
            return {"seconds": self._first()["seconds"] + seconds, "second_seconds": seconds}

        return self.stage(way, compute, config=repr(config))

    def _instatuned(
        self, supernet: Supernet, config: InstaTuneConfig, teacher: nn.Module | None, folder: Path
    ) -> History:
        return instatune(supernet, self.problem.splits["train"], config, teacher=teacher, kept=folder / "outputs")

    def _first(self) -> Result:
        """Result of the plain fine-tuning that comes before the super-network's."""
        if not self.problem.first:
            return {"seconds": 0.0}
        return self._plain(self._rate, self.problem.first, "first")

    def _start(self) -> nn.Module:
        """The network that the super-network starts from, and its strong teacher, in evaluation mode."""
        model = self.problem.network(self.seed)
        if self.problem.first:
            self.restore(f"first_{self._first()['rate']:g}", model)
        return model.eval()

    def _plain(self, rate: float, steps: int, name: str) -> Result:
        def compute() -> Result:
            module = self.problem.network(self.seed)
            seconds = _spent(lambda: self._train_plain(module, rate, steps))
            self._keep(f"{name}_{rate:g}", module)
            return self._judged(module) | {"seconds": seconds}

        found = self.stage(f"{name}_{rate:g}", compute, steps=steps, config=repr(self._plain_config))
        return found | {"rate": rate, "steps": steps}

    def _train_plain(self, module: nn.Module, rate: float, steps: int) -> History:
        alone = Supernet(module, Space(()))
        config = replace(self._plain_config, learning_rate=rate, steps=steps)
        return instatune(alone, self.problem.splits["train"], config)

    def _judged(self, module: nn.Module) -> Result:
        module.eval().to(DEVICE)
        validation, test = self.problem.splits["validation"], self.problem.splits["test"]
        return {
            "validation_accuracy": accuracy(predict(module, validation, device=DEVICE), validation.labels),
            "test_correct": hits(predict(module, test, device=DEVICE), test),
        }

    def _search(self, supernet: Supernet) -> Result:
        problem = self.problem
        study = search(
            supernet,
            supernet.space,
            problem.searched,
            ["accuracy", "macs"],
            budget=problem.evaluations,
            seed=self.seed,
            example_inputs=problem.placed_example,
            calibration=problem.calibrating,
        )
        macs = exact_costs(supernet, problem.placed_example)["macs"]
        full = float(macs(supernet.space.encode([supernet.space.largest()]))[0])
        measured = [each for each in study.measurements if each.state == "measured"]
        return {
            "full_macs": full,
            "encoded": supernet.space.encode([each.candidate for each in measured]).tolist(),
            "saved": [1 - each.values["macs"] / full for each in measured],
            "accuracy": [each.values["accuracy"] for each in measured],
            "front": sorted([1 - each.values["macs"] / full, each.values["accuracy"]] for each in study.front()),
        }

    def _picks(self, supernet: Supernet, found: Result) -> Result:
        """Test results of the best sub-network on validation rows for each share, and of the largest one."""
        known: dict[int, Result] = {}
        picks = {f"{share:g}": self._pick(supernet, found, share, known) for share in self.problem.shares}
        test = self.problem.splits["test"]
        largest = hits(self.logits(supernet, supernet.space.largest(), test), test)
        return {"picks": picks, "largest_test_correct": largest}

    def _pick(self, supernet: Supernet, found: Result, share: float, known: dict[int, Result]) -> Result:
        """Of the sub-networks that save at least `share`, choose that with the highest probability of the labels.

        Probabilities tell more than hits do: chosen by the hits on one half of SST-2's validation rows, sub-networks
        were .3 points worse on the other half than chosen by the probabilities.
        """
        encoded, saved, measured = (np.array(found[name]) for name in ("encoded", "saved", "accuracy"))
        allowed = np.flatnonzero(saved >= share)
        finalists = allowed[np.argsort(-measured[allowed], kind="stable")][: self.problem.finalists]
        validation, test = self.problem.splits["validation"], self.problem.splits["test"]
        for index in finalists:
            if index not in known:
                candidate = supernet.space.decode(encoded[[index]])[0]
                logits = self.logits(supernet, candidate, validation)
                known[int(index)] = {
                    "probability": probability(logits, validation.labels),
                    "accuracy": accuracy(logits, validation.labels),
                }
        best = max(map(int, finalists), key=lambda index: float(known[index]["probability"]))
        logits = self.logits(supernet, supernet.space.decode(encoded[[best]])[0], test)
        return {
            "encoded": encoded[best].tolist(),
            "saved": float(saved[best]),
            "validation_accuracy": known[best]["accuracy"],
            "test_correct": hits(logits, test),
        }

    def logits(self, supernet: Supernet, candidate: Candidate, split: Split) -> Any:
        return predict(self._extract(supernet, candidate), split, device=DEVICE)

    def _extract(self, supernet: Supernet, candidate: Candidate) -> nn.Module:
        return supernet.extract(candidate, recalibrate(supernet, candidate, self.problem.calibration)).eval()

    def _keep(self, name: str, model: nn.Module) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), self._path(name))

    def restore(self, name: str, model: nn.Module) -> None:
        model.load_state_dict(load_file(self._path(name)))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}_seed{self.seed}.safetensors"

    def stage(self, name: str, compute: Callable[[], Result], **settings: float | str) -> Result:
        return self.harness.stage(f"{name}_seed{self.seed}", compute, **self.problem.key, **settings)


def _orders(drop_order: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]] | None:
    """Drop orders as they are before they are stored as JSON."""
    return drop_order and {name: tuple(order) for name, order in drop_order.items()}


def _named(pick: Sequence[int]) -> str:
    """A short name of an encoded sub-network, the same for every share that it was chosen for."""
    return hashlib.sha256(str(list(pick)).encode()).hexdigest()[:8]


def probability(logits: Any, labels: Any) -> float:
    """Mean probability of the labels (n,) according to logits (n, classes)."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return float((shares[np.arange(len(shares)), labels] / shares.sum(axis=1)).mean())


def hits(logits: Any, split: Split) -> list[bool]:
    return [bool(value) for value in logits.argmax(1) == split.labels]


def _spent(train: Callable[[], History]) -> float:
    """Seconds of a training: CPU time, which other programs do not affect, or on a GPU the wall time of its steps."""
    began = time.process_time()
    history = train()
    if torch.cuda.is_available():
        return sum(step.seconds for step in history.steps)
    return time.process_time() - began
