"""The primitives of layer graphs, and one node of a graph (EvoNorm, arXiv 2004.02967, Table 1).

Element-wise: `log` is sign(x) ln|x| and `sqrt` is sign(x) sqrt|x|, so that both take any number; the others are as
named.
Moments over an index set I: `mean` is the mean, `rms` the root of the mean square, `std` the root of the mean squared
distance from the mean. The result is repeated to the shape of the input.

Differs: we could not settle whether the second-order moments of the paper's table include the square root. Here they
do, because its published layers are written with roots of moments, each of which counts as one node of the graph.
"""

from dataclasses import dataclass
from typing import Literal

IndexSet = Literal["batch", "layer", "instance", "group"]
Series = Literal["batch", "sample"]

INITIAL = ("x", "zero", "v0", "v1")
"""The first four nodes of every graph: the input, the constant 0, and trainable vectors that begin at 0 and at 1."""

BINARY = ("add", "mul", "div", "max")
UNARY = ("neg", "sigmoid", "tanh", "exp", "log", "abs", "square", "sqrt")
MOMENTS = ("mean", "rms", "std")
PRIMITIVES = BINARY + UNARY + MOMENTS
COMMUTATIVE = frozenset({"add", "mul", "max"})

INDEX_SETS: dict[str, str] = {"batch": "b,w,h", "layer": "w,h,c", "instance": "w,h", "group": "w,h,c/g"}
"""The index sets by name, as the paper writes them."""

SERIES: dict[Series, tuple[str, ...]] = {"batch": tuple(INDEX_SETS), "sample": tuple(INDEX_SETS)[1:]}
"""The index sets of the two searches of the paper: the B series has all, the S series none that crosses rows."""


@dataclass(frozen=True)
class Node:
    """One operation on earlier nodes of a graph.

    Args:
        op: one of `PRIMITIVES`.
        inputs: indices of nodes: two of them if the operation is one of `BINARY`, else one. Indices 0 .. 3 are
            `INITIAL`.
        over: the index set of a moment, one of `INDEX_SETS`; None for all other operations.

    Raises:
        ValueError: the operation or index set is unknown, or the inputs are of the wrong number or kind.
    """

    op: str
    inputs: tuple[int, ...]
    over: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.op, str) or self.op not in PRIMITIVES:
            raise ValueError(f"the operation of a node must be one of {', '.join(PRIMITIVES)}, got {_shown(self.op)}")
        if self.op in MOMENTS:
            if not isinstance(self.over, str) or self.over not in INDEX_SETS:
                sets = ", ".join(INDEX_SETS)
                raise ValueError(f"{self.op} must be over one of the index sets {sets}, got {_shown(self.over)}")
        elif self.over is not None:
            raise ValueError(f"{self.op} must have no index set, got {_shown(self.over)}")
        if not isinstance(self.inputs, (tuple, list)) or any(type(index) is not int for index in self.inputs):
            raise ValueError(f"the inputs of {self.op} must be integers, got {_shown(self.inputs)}")
        arity = 2 if self.op in BINARY else 1
        if len(self.inputs) != arity:
            raise ValueError(f"{self.op} must have {arity} input{'s' * (arity > 1)}, got {len(self.inputs)}")
        object.__setattr__(self, "inputs", tuple(self.inputs))


def _shown(value: object) -> str:
    """A value that came from outside, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
