"""The space of any model: with the ranges of the first family that recognises it, else with those of BERT."""

from torch import nn

from search_spaces import bert, vit
from search_spaces.coupling import Inputs
from search_spaces.space import Space
from search_spaces.transformer import DropOrder, Sizes, last_first

FAMILIES = (vit.FAMILY, bert.FAMILY)


def space(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    *,
    drop_order: DropOrder = last_first,
    depth: Sizes | None = None,
    heads: Sizes | None = None,
    ffn: Sizes | None = None,
) -> Space:
    """The space of a model, found by structure: `depth`, `heads.<block>`, `ffn.<block>`, blocks counted from 0.

    Args:
        model: the model, of full size.
        example_inputs: tuple (positional) or mapping (keyword) of tensors, batch above 1; derived from the
            configuration of a transformers model, required for any other module.
        drop_order: which blocks drop first, all indices or a function of their number.
        depth: numbers of blocks (int) or shares of all (float); likewise `heads` a block and `ffn` features a block.

    Raises:
        NotElastic: nothing in the model can be narrowed; the message says what was looked for and found.
        ValueError: missing example inputs, or options that do not fit.
    """
    family = next((family for family in FAMILIES if family.recognises(model)), bert.FAMILY)
    return family.space(model, example_inputs, drop_order=drop_order, depth=depth, heads=heads, ffn=ffn)
