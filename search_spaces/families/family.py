"""A family: what its models have in common beyond their structure, namely how to know them and their usual ranges."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from search_spaces.families import structure
from search_spaces.families.drop_order import DropOrder, last_first
from search_spaces.families.structure import Ranges, Sizes
from search_spaces.inputs import Inputs
from search_spaces.space import Space


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    Args:
        recognises: whether a model is one of them.
        ranges: options of each kind where the user gives none.
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
    ) -> Space:
        """The space of a model, found by structure, with the family's ranges.

        Names: `depth`, or `depth.<stage>` where there are several stages; `heads.<block>`, `ffn.<block>`, blocks
        counted from 0 over all stages (a second feed-forward layer of a block is `ffn.<block>.<its path in it>`);
        `width` or `width.<stage>`, the residual stream; `channels.<module path>`, channels between two layers.

        Args:
            model: the model, of full size.
            example_inputs: tuple (positional) or mapping (keyword) of tensors, batch above 1; derived from the
                configuration of a transformers model, required for any other module.
            drop_order: which blocks drop first: a function of their number, indices of a single stage's blocks, or
                those by name of the depth choice.
            depth: options: numbers of blocks (int) or shares of all (float); an empty sequence: none is offered.
            heads: likewise of heads a block.
            ffn: likewise of features a block.
            width: likewise of the residual stream; transformers offer none unless asked.
            channels: likewise of channels between two layers.

        Raises:
            NotElastic: nothing in the model can be narrowed; the message says what was looked for and found.
            ValueError: missing example inputs, weights that are no numbers, options that do not fit, or that were
                given for a kind of which the model has nothing to narrow.
        """
        given = {"depth": depth, "heads": heads, "ffn": ffn, "width": width, "channels": channels}
        chosen = {kind: sizes for kind, sizes in given.items() if sizes is not None}
        ranges = replace(self.ranges, **chosen)
        return structure.space(model, example_inputs, drop_order=drop_order, ranges=ranges, asked=tuple(chosen))


def reads(name: str) -> Callable[[nn.Module], bool]:
    """Recognises the transformers models whose main input has this name."""
    return lambda model: getattr(model, "main_input_name", None) == name and hasattr(model, "config")
