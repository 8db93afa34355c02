"""A toy domain of graphs: expression trees of x and 1, as nested tuples."""

import json
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any, Self

import numpy as np

from nas.searching.domain import Genes, ObjectDomain, objects
from search_spaces.space import Option

Tree = tuple[Any, ...]
"""("x",), ("1",), ("neg", tree), ("add", tree, tree) or ("mul", tree, tree)."""

ARITY = {"x": 0, "1": 0, "neg": 1, "add": 2, "mul": 2}
POINTS = np.linspace(-2.0, 2.0, 9)


def canonical(tree: Tree) -> Tree:
    """Sums and products have their parts in order."""
    return tree[0], *sorted(canonical(part) for part in tree[1:])


def depth(tree: Tree) -> int:
    return max((1 + depth(part) for part in tree[1:]), default=0)


def size(tree: Tree) -> int:
    return 1 + sum(size(part) for part in tree[1:])


def value(tree: Tree, x: np.ndarray) -> np.ndarray:
    parts = [value(part, x) for part in tree[1:]]
    operations = {"x": lambda: x, "1": lambda: np.ones_like(x), "neg": lambda: -parts[0]}
    operations |= {"add": lambda: parts[0] + parts[1], "mul": lambda: parts[0] * parts[1]}
    return operations[tree[0]]()


class Trees(ObjectDomain[Tree]):
    """All trees up to a depth; counted where that is asked for."""

    def __init__(self, deepest: int, counted: bool = False) -> None:
        self.deepest, self.counted = deepest, counted

    def draw(self, rng: np.random.Generator) -> Tree:
        return self._drawn(self.deepest, rng)

    def _drawn(self, deepest: int, rng: np.random.Generator) -> Tree:
        names = [name for name, arity in ARITY.items() if deepest > 0 or arity == 0]
        name = names[rng.integers(len(names))]
        return name, *(self._drawn(deepest - 1, rng) for _ in range(ARITY[name]))

    def mutant(self, candidate: Tree, rng: np.random.Generator) -> Tree:
        """With one part drawn anew."""
        return self._changed(candidate, self.deepest, int(rng.integers(size(candidate))), rng)

    def _changed(self, tree: Tree, deepest: int, place: int, rng: np.random.Generator) -> Tree:
        if place == 0:
            return self._drawn(deepest, rng)
        parts, start = [], 1
        for part in tree[1:]:
            inside = start <= place < start + size(part)
            parts.append(self._changed(part, deepest - 1, place - start, rng) if inside else part)
            start += size(part)
        return tree[0], *parts

    def canonical_form(self, candidate: Tree) -> Tree:
        return canonical(candidate)

    def key(self, candidate: Tree) -> Hashable:
        return json.dumps(candidate)

    def identity(self) -> Any:
        return {"trees": {"deepest": self.deepest, "counted": self.counted}}

    @classmethod
    def from_identity(cls, identity: Any) -> Self:
        if not isinstance(identity, dict) or "trees" not in identity:
            raise ValueError("its candidates are no trees")
        return cls(**identity["trees"])

    def to_json(self, candidate: Tree) -> Any:
        return candidate

    def from_json(self, data: Any) -> Tree:
        if not isinstance(data, (list, tuple)) or not data or data[0] not in ARITY or len(data) - 1 != ARITY[data[0]]:
            raise ValueError(f"not a tree: {str(data)[:50]}")
        return canonical((data[0], *(self.from_json(part) for part in data[1:])))

    def parameters(self, candidate: Tree) -> Mapping[str, Option | None]:
        return {
            "root": candidate[0],
            "depth": depth(candidate),
            "left": candidate[1][0] if len(candidate) > 1 else None,
        }

    def options(self, name: str) -> Sequence[Option]:
        return range(self.deepest + 1) if name == "depth" else tuple(ARITY)

    def size(self) -> int | None:
        return len(self._all(self.deepest)) if self.counted else None

    def every(self) -> Genes:
        return objects(self._all(self.deepest))

    def _all(self, deepest: int) -> list[Tree]:
        parts = self._all(deepest - 1) if deepest else []
        names = [name for name, arity in ARITY.items() if deepest > 0 or arity == 0]
        trees = [(name, *each) for name in names for each in product(parts, repeat=ARITY[name])]
        return list(dict.fromkeys(map(canonical, trees)))


def fitted(trees: Sequence[Tree]) -> np.ndarray:
    """How far trees are from x^3 - x + 1, and their sizes, (n, 2)."""
    wanted = POINTS**3 - POINTS + 1
    return np.array([[np.abs(value(tree, POINTS) - wanted).mean(), size(tree)] for tree in trees])
