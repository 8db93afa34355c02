"""The space of any model: with the ranges of the first family that recognises it, else with those of BERT."""

from torch import nn

from search_spaces.families import beit3, bert, resnet, vit
from search_spaces.families.drop_order import DropOrder, last_first
from search_spaces.families.family import Family
from search_spaces.families.structure import Sizes
from search_spaces.inputs import Inputs
from search_spaces.space import Space

FAMILIES = {"beit3": beit3.FAMILY, "resnet": resnet.FAMILY, "vit": vit.FAMILY, "bert": bert.FAMILY}


def family_of(model: nn.Module) -> Family:
    """The first family that recognises a model, else that of BERT."""
    return FAMILIES.get(family_name(model), bert.FAMILY)


def family_name(model: nn.Module) -> str:
    """The name of the first family that recognises a model, else "other"."""
    return next((name for name, family in FAMILIES.items() if family.recognises(model)), "other")


def space(
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
    """The space of a model, found by structure; names, arguments and errors as `Family.space`."""
    return family_of(model).space(
        model,
        example_inputs,
        drop_order=drop_order,
        depth=depth,
        heads=heads,
        ffn=ffn,
        width=width,
        channels=channels,
    )
