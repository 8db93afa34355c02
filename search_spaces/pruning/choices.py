"""The choices of channels of one part of a network, whose input and output keep their shapes."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from search_spaces.families.dimensions import NamedDimension, ParameterLocations, accepted, distinct, pass_together
from search_spaces.families.oracle import Judge
from search_spaces.space import Choice
from search_spaces.tracing.coupling import Dimension, analyse


@dataclass(frozen=True)
class Wanted:
    """Which channels may be cut, and to which numbers.

    Args:
        model: the whole network.
        keep: patterns of paths of modules whose channels stay.
        multiple_of: numbers of channels are multiples of this one, or all.

    Raises:
        ValueError: a pattern matches no module, or `multiple_of` is below 1.
    """

    model: nn.Module
    keep: Sequence[str] = ()
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {self.multiple_of}")
        paths = [path for path, _ in self.model.named_modules() if path]
        for pattern in self.keep:
            if not any(fnmatchcase(path, pattern) for path in paths):
                raise ValueError(f"keep must have patterns of paths of modules, such as {paths[0]}, got {pattern!r}")

    def options(self, full: int) -> tuple[int, ...] | range:
        """The numbers of units to choose from, the full one among them; empty if there is no other."""
        smaller = range(self.multiple_of, full, self.multiple_of)
        if not smaller:
            return ()
        return (*smaller, full) if full % self.multiple_of else range(self.multiple_of, full + 1, self.multiple_of)

    def keeps(self, dimension: Dimension) -> bool:
        """Whether the units are channels that are to stay: outputs of a module that a pattern of `keep` names."""
        makers = {cut.parameter.rpartition(".")[0] for cut in dimension.cuts if cut.axis == 0}
        return any(fnmatchcase(path, pattern) for path in makers for pattern in self.keep)


def choices(
    part: nn.Module, features: torch.Tensor, wanted: Wanted, *, shared: Set[int], refused: Set[str]
) -> tuple[Choice, ...]:
    """The choices of a part that the oracle accepts, in the order of the network's parameters.

    They are called `channels.<module path>` by the first layer whose outputs the channels are. The units of a grouped
    convolution are its groups.

    Args:
        part: the module of the part; its parameters are those of the network, by the same names.
        features: example features at the beginning of the part, batch above 1.
        wanted: what may be cut.
        shared: ids of the parameters and buffers that other parts use too; what they hold stays.
        refused: names of choices that are wrong in the whole network.
    """
    coupling = analyse(part, (features,))
    tensors = {**dict(wanted.model.named_parameters()), **dict(wanted.model.named_buffers())}
    own = {name for name, tensor in tensors.items() if id(tensor) not in shared}
    free = [
        each
        for each in coupling.dimensions
        # A dimension with one cut couples no two layers.
        if len(each.cuts) > 1 and own.issuperset(cut.parameter for cut in each.cuts) and not wanted.keeps(each)
    ]
    names = ParameterLocations(wanted.model, {})
    named = [NamedDimension(f"channels.{names.producer(each)}", each) for each in sorted(free, key=names.position)]
    offered = [
        (each, options)
        for each in distinct(named, names)
        if each.name not in refused and (options := wanted.options(each.dimension.size))
    ]
    if not offered:
        return ()
    # The judge measures batch norms anew. Features of another size than their outputs would drown these in a residual.
    judge = Judge(part, (features / features.std().clamp_min(1e-6),))
    return pass_together(judge, tuple(accepted(judge, offered)))
