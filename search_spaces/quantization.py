"""The precision of every layer as a space, to be joined with that of the architecture.

    space = supernet.space + quantization.space(supernet)

SimQ-NAS (arXiv 2312.13301) searches sub-networks and their post-training quantization together: one binary gene a layer
says whether it computes in 8 or 32 bits, and for convolutions another one whether its weights have a zero point.
Differs: precisions are words, ordered by the memory that they take, and may be more than two; embeddings and the
floating-point precision of all the rest can be chosen too; and a layer of a dropped block has no precision. The code of
the paper kept the bits of dropped blocks as features, and shifted all features by one against the layers.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args, overload

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from search_spaces.space import Candidate, Choice, Space
from search_spaces.supernets.blocks import Blocks
from search_spaces.supernets.supernet import Supernet

LayerPrecision = Literal["int4-weights", "int8", "int8-weights", "float32"]
"""`int8`: weights and inputs; `int8-weights`, `int4-weights`: weights alone, kept small and widened when they are used.

In this order a later one never takes less memory than an earlier one.
"""
PRECISIONS: tuple[LayerPrecision, ...] = get_args(LayerPrecision)
EMBEDDING_PRECISIONS: tuple[LayerPrecision, ...] = ("int8-weights", "float32")
FloatPrecision = Literal["bfloat16", "float32"]
FLOATING_PRECISIONS: tuple[FloatPrecision, ...] = get_args(FloatPrecision)
FULL = "float32"
EMBEDDINGS = "precision.embeddings"
"""The one choice for all large tables of embeddings."""
FLOATING = "floating"
"""The choice of what everything else computes in."""
SYMMETRIES = ("symmetric", "asymmetric")
# Smaller tables are a matter of a few KiB, about what the description of a quantized one takes.
_LARGE = 2**16
_PRECISION = "precision."
WEIGHTS = "weights."
"""What the name of a choice of symmetry begins with; the path of the convolution follows."""


def space(
    supernet: Supernet,
    precisions: Sequence[str] = ("int8", FULL),
    *,
    floating: Sequence[str] = (FULL,),
    embeddings: Sequence[str] = (FULL,),
    keep_float: Collection[str] = (),
    asymmetric: bool = False,
) -> Space:
    """The space of the precisions of a super-network's layers.

    It has one choice `precision.<path in the full model>` for each linear layer and convolution with a weight of its
    own, in the order of `named_modules`. Where a choice of the super-network drops the block around a layer, its
    precision is active only while the block stays, so the space can be used only when joined with the super-network's.

    Float32 is always the last option of every choice, so the full candidate leaves the network as it is.

    Args:
        supernet: gives the layers and the choices that drop blocks.
        precisions: options for each layer, some of `PRECISIONS`, in any order.
        floating: what all else computes in, some of `FLOATING_PRECISIONS`; more than float32 gives one choice
            `floating` for the whole network.
        embeddings: options for the tables of embeddings, some of `EMBEDDING_PRECISIONS`; more than float32 gives one
            choice `precision.embeddings` for all tables of at least 65,536 weights together.
        keep_float: patterns as in file names (`*`, `?`, `[abc]`) of the paths of layers that stay in float32 and get no
            choice; `*` matches dots too.
        asymmetric: whether each convolution also has a choice `weights.<path>` between "symmetric" and "asymmetric",
            which is active while the layer is in int8.

    Raises:
        ValueError: a precision is unknown, the network has no layer that could be quantized, a pattern matches no
            layer, nothing is left to choose, or weights shall be asymmetric where no layer can be in int8.
    """
    of_layers = _options("precisions", precisions, PRECISIONS)
    of_floating = _options("floating", floating, FLOATING_PRECISIONS)
    of_embeddings = _options("embeddings", embeddings, EMBEDDING_PRECISIONS)
    if asymmetric and "int8" not in of_layers:
        raise ValueError(f"only weights in int8 can be asymmetric, the precisions are {', '.join(of_layers)}")
    layers = dict(quantizable_layers(supernet.model))
    if not layers:
        raise ValueError(
            f"the network must have linear layers or convolutions with weights of their own, "
            f"{type(supernet.model).__name__} has none whose precision could be chosen"
        )
    kept = _matching(keep_float, list(layers))
    blocks = Blocks(supernet.model, supernet.space)
    choices: list[Choice] = []
    for path, layer in layers.items():
        if path not in kept and len(of_layers) > 1:
            around = blocks.around(path)
            condition = (around[0].choice, around[0].kept) if around else None
            choices.append(Choice(_PRECISION + path, of_layers, condition))
            if asymmetric and not isinstance(layer, nn.Linear):
                while_int8 = (_PRECISION + path, ("int8",))
                choices.append(Choice(WEIGHTS + path, SYMMETRIES, while_int8, ordered=False))
    if len(of_embeddings) > 1 and any(large_tables(supernet.model)):
        choices.append(Choice(EMBEDDINGS, of_embeddings))
    if len(of_floating) > 1:
        choices.append(Choice(FLOATING, of_floating))
    if not choices:
        raise ValueError("the precisions must leave something to choose, but all would stay in float32")
    return Space(tuple(choices))


def quantizable_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of every linear layer and convolution whose weight no other module has, as in `named_modules`."""
    for path, part in _with_own_weights(model):
        # The output layer of nn.MultiheadAttention is never called: the attention reads its weight.
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd) and not isinstance(
            part, NonDynamicallyQuantizableLinear
        ):
            yield path, part


def large_tables(model: nn.Module) -> Iterator[tuple[str, nn.Embedding]]:
    """Path and module of the tables of embeddings that `precision.embeddings` stands for."""
    for path, part in _with_own_weights(model):
        if isinstance(part, nn.Embedding) and part.weight.numel() >= _LARGE:
            yield path, part


def choices_of(model: nn.Module) -> dict[str, str]:
    """The name of the choice of precision that a space may have for each layer and large table, by its path."""
    layers = {path: _PRECISION + path for path, _ in quantizable_layers(model)}
    # A layer may have the very path that the choice for tables is called by; then there is none for tables.
    tables = [] if EMBEDDINGS in layers.values() else [path for path, _ in large_tables(model)]
    return layers | dict.fromkeys(tables, EMBEDDINGS)


def _with_own_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of every module with a parameter `weight` that it shares with no other."""
    uses = Counter(id(value) for part in model.modules() for value in part._parameters.values() if value is not None)
    for path, part in model.named_modules():
        weight = part._parameters.get("weight")
        if weight is not None and uses[id(weight)] == 1:
            yield path, part


def layer_precisions(supernet: Supernet, candidate: Candidate) -> dict[str, str]:
    """The precision of each layer of a candidate by its path in the extracted module, where dropped blocks leave gaps.

    Args:
        supernet: of the candidate.
        candidate: of the joined space.

    Returns:
        Layers and tables of embeddings whose precision the candidate chooses, in the order of the extracted module.
    """
    names = choices_of(supernet.model)
    found = {}
    for new, old in _paths(supernet, candidate):
        option = candidate.get(names[old]) if old in names else None
        if option is not None:
            found[new] = str(option)
    return found


def asymmetric_of(supernet: Supernet, candidate: Candidate) -> frozenset[str]:
    """The paths in the extracted module of the layers in int8 whose weights have a zero point in a candidate."""
    return frozenset(new for new, old in _paths(supernet, candidate) if candidate.get(WEIGHTS + old) == SYMMETRIES[1])


def floating_of(candidate: Candidate) -> str:
    """What all of a candidate but its quantized layers computes in; float32 where its space has no such choice."""
    return str(candidate.get(FLOATING) or FULL)


def is_precision(name: str) -> bool:
    """Whether a choice of this name is one of precisions, which cuts nothing."""
    return name == FLOATING or name.startswith((_PRECISION, WEIGHTS))


@overload
def architecture(joined: Space) -> Space: ...
@overload
def architecture(joined: Candidate) -> Candidate: ...
def architecture(joined: Space | Candidate) -> Space | Candidate:
    """A joined space or its candidate without the choices of precisions."""
    if isinstance(joined, Candidate):
        return Candidate({name: option for name, option in joined.items() if not is_precision(name)})
    return Space(tuple(choice for choice in joined.choices if not is_precision(choice.name)))


def _paths(supernet: Supernet, candidate: Candidate) -> Iterator[tuple[str, str]]:
    """(Path in the extracted module, path in the full model) of every module with a weight that a candidate keeps."""
    for new, old in supernet.names(candidate).items():
        if new.rpartition(".")[2] == "weight":
            yield new.rpartition(".")[0], old.rpartition(".")[0]


def _options(argument: str, given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The given options and float32, in their fixed order; raises ValueError for others."""
    if isinstance(given, str):
        raise ValueError(f"{argument} must be several of {', '.join(known)}, got one word {given!r}")
    unknown = [option for option in given if option not in known]
    if unknown:
        raise ValueError(f"{argument} must be some of {', '.join(known)}, got {unknown[0]!r}")
    return tuple(option for option in known if option in given or option == FULL)


def _matching(patterns: Collection[str], paths: Sequence[str]) -> frozenset[str]:
    """The paths that match any pattern; raises ValueError for a pattern that matches none."""
    kept: set[str] = set()
    for pattern in patterns:
        found = [path for path in paths if fnmatchcase(path, pattern)]
        if not found:
            some = ", ".join(paths[:3]) + (" ..." if len(paths) > 3 else "")
            raise ValueError(f"keep_float must match paths of layers such as {some}, got {pattern!r}")
        kept.update(found)
    return frozenset(kept)
