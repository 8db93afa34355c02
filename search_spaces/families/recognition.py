"""Makes the space of any model, with the ranges of the first family that recognises it, or else with those of BERT."""

from torch import nn

from search_spaces.families import beit3, bert, resnet, vit
from search_spaces.families.drop_order import DropOrder, last_first
from search_spaces.families.family import Family
from search_spaces.families.structure import Say, Sizes
from search_spaces.inputs import Inputs
from search_spaces.space import Space

# The order matters: a ViT and a ResNet of transformers both read `pixel_values`, so convolutions go first.
FAMILIES = {"beit3": beit3.FAMILY, "resnet": resnet.FAMILY, "vit": vit.FAMILY, "bert": bert.FAMILY}


def family_of(model: nn.Module) -> Family:
    """The first family that recognises a model, or that of BERT if there is none."""
    return FAMILIES.get(family_name(model), bert.FAMILY)


def family_name(model: nn.Module) -> str:
    """The name of the first family that recognises a model, or "other" if there is none."""
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
    say: Say | None = None,
) -> Space:
    """Find the space of a model by its structure; names, arguments and errors are those of `Family.space`."""
    return family_of(model).space(
        model,
        example_inputs,
        drop_order=drop_order,
        depth=depth,
        heads=heads,
        ffn=ffn,
        width=width,
        channels=channels,
        say=say,
    )
