"""Image encoders: ViT and its relatives (DeiT, DINOv2), recognised by what they take."""

from torch import nn

from search_spaces.coupling import Inputs
from search_spaces.space import Space
from search_spaces.transformer import DropOrder, Ranges, Sizes, family_space, last_first

# InstaTune (arXiv 2308.15609, section 4.1) for ViT-B/16: layers 11, 12, heads 6, 8, 10, 12, widths 2048, 2560, 3072.
PAPER = Ranges(depth=(11 / 12, 1.0), heads=(6 / 12, 8 / 12, 10 / 12, 1.0), ffn=(8 / 12, 10 / 12, 1.0))


def recognises(model: nn.Module) -> bool:
    """Whether the model is a transformers model that takes pixels."""
    return getattr(model, "main_input_name", None) == "pixel_values" and hasattr(model, "config")


def space(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    *,
    drop_order: DropOrder = last_first,
    depth: Sizes | None = None,
    heads: Sizes | None = None,
    ffn: Sizes | None = None,
) -> Space:
    """The space of a image encoder: `depth`, `heads.<block>`, `ffn.<block>`.

    Args:
        model: the model, of full size.
        example_inputs: derived from the model's configuration unless given.
        drop_order: which blocks drop first, all indices or a function of their number.
        depth: numbers of blocks (int) or shares of all (float); likewise `heads` a block and `ffn` features a block.

    Raises:
        NotElastic: nothing in the model can be narrowed.
        ValueError: options that do not fit.
    """
    given = {"depth": depth, "heads": heads, "ffn": ffn}
    return family_space(model, example_inputs, drop_order, PAPER, given)
