"""AdamW with the parameters in groups: weight decay on matrices only, learning rates that fall from head to input.

Layer-wise decay is that of BEiT (arXiv 2106.08254) and BEiT-3 (arXiv 2208.10442): with L blocks, the parameters of
block i (1 .. L) have the learning rate times decay ** (L + 1 - i), those before the blocks times decay ** (L + 1), the
head the learning rate itself.

Differs: blocks are found by the structure of any network, not by the names of one.
"""

from collections.abc import Iterator, Sequence, Set

import torch
from torch import nn


def adamw(module: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; each group has a `scale`, its share (0..1] of the learning rate."""
    trainable = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    depths = layer_depths(module) if layer_decay < 1 else dict.fromkeys((name for name, _ in trainable), 0)
    top = max(depths.values(), default=0)
    groups = [
        {
            "params": [p for name, p in trainable if depths[name] == depth and (p.ndim > 1) == matrices],
            "weight_decay": weight_decay if matrices else 0.0,
            "scale": layer_decay ** (top - depth),
        }
        for depth in sorted(set(depths.values()))
        for matrices in (True, False)
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def layer_depths(module: nn.Module) -> dict[str, int]:
    """Depth of every parameter, by name: 0 for embeddings, 1 .. L for the blocks in their order, L + 1 for the head.

    Blocks are the members of lists, of a type of which two have equal shapes (so that a stage is no block); where there
    is none, of a type that comes twice; else of any type; and without lists, every layer is a block. What stands
    between two blocks has the depth of the one before; an `nn.Embedding` outside of the blocks has depth 0 wherever it
    stands.
    """
    blocks = _blocks(module)
    own = {id(p): number for number, block in enumerate(blocks, 1) for p in block.parameters()}
    tables = {id(p) for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    depths: dict[str, int] = {}
    reached = 0
    for name, parameter in module.named_parameters():
        reached = max(reached, own.get(id(parameter), 0))
        behind = len(blocks) + 1 if blocks and reached == len(blocks) else reached
        outside = 0 if id(parameter) in tables else behind
        depths[name] = own.get(id(parameter), outside)
    return depths


def _blocks(module: nn.Module) -> Sequence[nn.Module]:
    """The blocks in the order of the module, none inside another."""
    shapes: dict[type[nn.Module], list[tuple[torch.Size, ...]]] = {}
    for part in module.modules():
        for member in _members(part):
            shapes.setdefault(type(member), []).append(tuple(parameter.shape for parameter in member.parameters()))
    equal = {kind for kind, found in shapes.items() if len(set(found)) < len(found)}
    repeated = {kind for kind, found in shapes.items() if len(found) > 1}
    for kinds in (equal, repeated, set(shapes)):
        if kinds:
            return list(_outermost(module, kinds))
    layers = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    return [layer for layer in layers[1:-1] if not isinstance(layer, nn.Embedding)]


def _members(module: nn.Module) -> list[nn.Module]:
    """The members of a list that have parts of their own."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return []
    return [child for child in module.children() if next(child.children(), None) is not None]


def _outermost(module: nn.Module, kinds: Set[type[nn.Module]]) -> Iterator[nn.Module]:
    members = _members(module)
    for child in module.children():
        if child in members and type(child) in kinds:
            yield child
        else:
            yield from _outermost(child, kinds)
