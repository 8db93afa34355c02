"""A family of models: how they are recognised, and the ranges of sizes that its papers search.

Spaces are made by structure (`structure.py`), in the same way for all families.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from search_spaces.families import structure
from search_spaces.families.drop_order import DropOrder, last_first
from search_spaces.families.structure import Ranges, Say, Sizes
from search_spaces.inputs import Inputs
from search_spaces.space import Space


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        recognises: whether a model belongs to the family.
        ranges: the options that are used where the user gives none.
    """

    recognises: Callable[[nn.Module], bool]
    ranges: Ranges

    def space(
        self,
        model: nn.Module,
        example_inputs: Inputs | None = None,
        *,
        drop_order: DropOrder = last_first,
        depth: Sizes | None = None,
        heads: Sizes | None = None,
        ffn: Sizes | None = None,
        width: Sizes | None = None,
        channels: Sizes | None = None,
        say: Say | None = None,
    ) -> Space:
        """Find the space of a model by its structure, with the family's ranges.

        Its choices are named `depth` (`depth.<stage>` if there are several stages); `heads.<block>` and `ffn.<block>`,
        with blocks counted from 0 over all stages (a second feed-forward layer of a block is
        `ffn.<block>.<path in the block>`); `width` (`width.<stage>`), the channels of the residual stream; and
        `channels.<module path>`, the channels between two layers.

        Args:
            model: the full model.
            example_inputs: a tuple of positional or a mapping of keyword tensors, batch above 1. They are derived from
                the configuration of a transformers model, and required for any other module.
            drop_order: the order in which blocks are dropped: a function of the number of blocks, a sequence of the
                indices of a single stage's blocks, or a mapping from names of depth choices to such sequences.
            depth: options for the number of blocks: numbers (int) or shares of the full number (float). None: those of
                the family; empty: no choice of this kind.
            heads: likewise for the attention heads of a block.
            ffn: likewise for the feed-forward features of a block.
            width: likewise for the residual stream; the families of transformers have no options for it.
            channels: likewise for the channels between two layers.
            say: called with a sentence on what has options and cannot be narrowed; None: where options were given for
                such a kind, this is an error.

        Raises:
            NotElastic: nothing in the model can be narrowed; the message says what was looked for and found.
            ValueError: example inputs are missing, weights are not finite, options or the drop order do not fit, or
                options were given and the model has nothing that can be narrowed of all their kinds, or of one of them
                and there is no `say`.
        """
        given = {"depth": depth, "heads": heads, "ffn": ffn, "width": width, "channels": channels}
        chosen = {kind: sizes for kind, sizes in given.items() if sizes is not None}
        ranges = replace(self.ranges, **chosen)
        return structure.space(
            model, example_inputs, drop_order=drop_order, ranges=ranges, requested=tuple(chosen), say=say
        )


def reads(name: str) -> Callable[[nn.Module], bool]:
    """A function that recognises the transformers models whose main input has this name."""
    return lambda model: getattr(model, "main_input_name", None) == name and hasattr(model, "config")
