"""Load the tabulated problems of a folder as spaces; evaluations and hypervolume are as defined in their README."""

import csv
import importlib.util
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.searching.measurement import Objective
from search_spaces import Candidate, Choice, Space
from search_spaces.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Variant:
    """A harder variant of a problem.

    Args:
        shuffled: the options are shuffled and declared unordered.
        noise: standard deviation of noise on the first objective.
        rugged: part of a random landscape that is added to the first objective, in standard deviations of random
            candidates: the effect of each choice depends on three others. The stored front is not that of such a
            problem, so its hypervolume compares searches only and may exceed 1.
    """

    shuffled: bool = False
    noise: float = 0.0
    rugged: float = 0.0


class Problem:
    """A problem in one variant; `seed` decides the order of options and the noise, which is fixed per candidate."""

    def __init__(self, folder: Path, name: str, variant: Variant, seed: int) -> None:
        self._table = _module(folder).load(name, folder)
        rng = np.random.default_rng([seed, 1])
        counts = [len(options) for options in self._table.choices]
        self._orders = [rng.permutation(n) if variant.shuffled else np.arange(n) for n in counts]
        conditions = _conditions(self._table)
        self.space = Space(
            tuple(
                Choice(
                    f"gene.{gene}",
                    tuple(options[index] for index in self._orders[gene]),
                    active_if=conditions.get(gene),
                    ordered=not variant.shuffled,
                )
                for gene, options in enumerate(self._table.choices)
            )
        )
        self.objectives = [Objective(each) for each in self._table.objectives]
        self._noise, self._seed = variant.noise, seed
        self._rugged: _Landscape | None = None
        if variant.rugged:
            rows = self.space.random(1000, rng)
            deviation = variant.rugged * float(self.values(rows)[:, 0].std())
            self._rugged = _Landscape.drawn(self._genes(rows), max(counts), deviation, rng)

    def evaluate(self, candidates: Sequence[Candidate]) -> FloatArray:
        """Values (n, m) of candidates, including noise."""
        rows = self.space.encode(candidates)
        values: FloatArray = self.values(rows)
        if self._noise:
            draws = [np.random.default_rng([self._seed, 2, *row]).standard_normal() for row in rows.tolist()]
            values[:, 0] += self._noise * np.array(draws)
        return values

    def values(self, rows: IntArray) -> FloatArray:
        """True values (n, m) of encoded candidates (n, k)."""
        genes = self._genes(rows)
        values = np.asarray(self._table.evaluate(genes), dtype=np.float64)
        if self._rugged is not None:
            values[:, 0] += self._rugged.height(genes)
        return values

    def _genes(self, rows: IntArray) -> IntArray:
        return np.stack([order[rows[:, gene]] for gene, order in enumerate(self._orders)], axis=1)

    def curve(self, candidates: Sequence[Candidate], step: int) -> list[float]:
        """True hypervolume after every `step` candidates, normalised so that the stored front has 1."""
        values = self.values(self.space.encode(candidates))
        front = values[:0]
        found = []
        for start in range(0, len(values) - step + 1, step):
            front = np.concatenate([front, values[start : start + step]])
            front = front[~_dominated(front)]
            found.append(float(self._table.hypervolume(front)))
        return found


@dataclass(frozen=True)
class _Landscape:
    """A random landscape (an NK model): a sum over genes of random numbers, each for the gene and three others.

    Args:
        others: the three genes (genes, 3) on which the effect of each gene depends.
        heights: random number by gene and by the values of it and of those three (genes, options, ...).
    """

    others: IntArray
    heights: FloatArray

    @classmethod
    def drawn(cls, genes: IntArray, options: int, deviation: float, rng: np.random.Generator) -> "_Landscape":
        """A landscape of that deviation over `genes` (n, k), which have at most so many options."""
        count = genes.shape[1]
        others = np.stack([np.resize(rng.permutation(np.delete(np.arange(count), gene)), 3) for gene in range(count)])
        plain = cls(others, rng.standard_normal((count, *[options] * 4)))
        return cls(others, plain.heights * deviation / plain.height(genes).std())

    def height(self, genes: IntArray) -> FloatArray:
        """Height (n,) at genes (n, k)."""
        each = np.arange(genes.shape[1])
        first, second, third = (genes[:, self.others[:, other]] for other in range(3))
        return np.asarray(self.heights[each, genes, first, second, third].sum(axis=1))


def _dominated(values: FloatArray) -> npt.NDArray[np.bool_]:
    no_worse = (values[:, None] <= values).all(axis=2)
    return np.asarray((no_worse & (values[:, None] < values).any(axis=2)).any(axis=0))


def names(folder: Path) -> list[str]:
    """Names of the problems in a folder."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def _module(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("search_problems_reader", folder / "problems.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks its module up by name
    spec.loader.exec_module(module)
    return module


def _conditions(table: Any) -> dict[int, tuple[str, tuple[Any, ...]]]:
    """Find the options of each gene that make another gene active, from the canonical form of candidates."""
    last = np.array([len(options) - 1 for options in table.choices])
    found = {}
    for parent, options in enumerate(table.choices):
        rows = np.repeat(last[None], len(options), axis=0)
        rows[:, parent] = np.arange(len(options))
        active = table.canonical(rows) > 0
        for gene in np.flatnonzero(~active.all(axis=0) & (np.arange(len(last)) != parent)):
            found[int(gene)] = (f"gene.{parent}", tuple(np.array(options, dtype=object)[active[:, gene]]))
    return found


@dataclass(frozen=True)
class Peers:
    """Recorded hypervolumes: (problem, algorithm, evaluations) -> one number per seed."""

    recorded: dict[tuple[str, str, int], list[float]]

    @classmethod
    def read(cls, path: Path) -> "Peers":
        """Read a CSV file with the columns problem, algorithm, evaluations and hypervolume."""
        rows = defaultdict(list)
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                key = (row["problem"], row["algorithm"], int(row["evaluations"]))
                rows[key].append(float(row["hypervolume"]))
        return cls(dict(rows))

    @cached_property
    def medians(self) -> dict[tuple[str, str, int], float]:
        """Median over the seeds for each key of `recorded`."""
        return {key: statistics.median(values) for key, values in self.recorded.items()}

    def best_nsga2(self, problem: str, evaluations: int) -> float:
        """Recorded median of the better of the two NSGA-II runs of pymoo."""
        kinds = ("pymoo-nsga2-integer", "pymoo-nsga2-categorical")
        return max(self.medians[problem, kind, evaluations] for kind in kinds)

    def linas(self, problem: str, evaluations: int) -> float:
        """Recorded median of LINAS as published."""
        return self.medians[problem, "linas-dynast", evaluations]
