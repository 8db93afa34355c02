"""Optimizers with parameter groups: weight decay on matrices, and learning rates that decrease from head to input.

The layer-wise decay is that of BEiT (arXiv 2106.08254) and BEiT-3 (arXiv 2208.10442). With L blocks, the parameters of
block i (1 .. L) have the learning rate times decay ** (L + 1 - i), those before the blocks have it times
decay ** (L + 1), and the head has the learning rate itself.

Differs: blocks are found from the structure of any network instead of from the parameter names of one architecture.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nas.errors import UserError


@dataclass(frozen=True)
class AdamW:
    """AdamW with the usual averages (0.9, 0.999); weight decay is apart from the gradient, on matrices only."""

    def make(
        self, module: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float
    ) -> torch.optim.Optimizer:
        """Make it for a module; arguments and groups as of `parameter_groups`."""
        groups = parameter_groups(module, weight_decay, layer_decay)
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum; weight decay is added to the gradient.

    Args:
        momentum: share (0 <= momentum < 1) of the last move that goes on; 0: none.
        nesterov: whether the gradient counts as that of the weights after that move; needs momentum.
        decay_all: whether biases and norms have weight decay too, as in most papers on convolutional networks.

    Raises:
        UserError: the momentum is out of its range, or there is none for Nesterov.
    """

    momentum: float = 0.9
    nesterov: bool = False
    decay_all: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must be at least 0 and below 1, got {self.momentum}")
        if self.nesterov and not self.momentum:
            raise UserError("momentum must be above 0 for Nesterov's, got 0")

    def make(
        self, module: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float
    ) -> torch.optim.Optimizer:
        """Make it for a module; arguments and groups as of `parameter_groups`."""
        groups = parameter_groups(module, weight_decay, layer_decay, decay_all=self.decay_all)
        return torch.optim.SGD(groups, lr=learning_rate, momentum=self.momentum, nesterov=self.nesterov)


Optimizer = AdamW | Sgd


def parameter_groups(
    module: nn.Module, weight_decay: float, layer_decay: float, *, decay_all: bool = False
) -> list[dict[str, Any]]:
    """Divide the trainable parameters of a module by their weight decay and their learning rate.

    Args:
        module: the module; frozen parameters are left out.
        weight_decay: weight decay of parameters with at least two axes; biases and norms have none.
        layer_decay: factor between the learning rates of neighbouring blocks; 1: the same for all.
        decay_all: whether biases and norms have the weight decay, too.

    Returns:
        Groups for an optimizer of torch. Each has an additional entry `scale` in (0, 1]; the training loop multiplies
        the scheduled learning rate by it.
    """
    trainable = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    depths = layer_depths(module) if layer_decay < 1 else dict.fromkeys((name for name, _ in trainable), 0)
    top = max(depths.values(), default=0)
    groups = [
        {
            "params": [p for name, p in trainable if depths[name] == depth and (p.ndim > 1) == matrices],
            "weight_decay": weight_decay if matrices or decay_all else 0.0,
            "scale": layer_decay ** (top - depth),
        }
        for depth in sorted(set(depths.values()))
        for matrices in (True, False)
    ]
    return [group for group in groups if group["params"]]


def layer_depths(module: nn.Module) -> dict[str, int]:
    """Depth of each parameter by name: 0 for embeddings, 1 .. L for the blocks in their order, L + 1 for the head.

    Blocks are the members of module lists whose type occurs with equal parameter shapes at least twice, which excludes
    the stages of a convolutional network. If there are none, blocks are members of a type that occurs twice, else
    members of any type, and in a module without lists each layer is a block. Parameters between two blocks have the
    depth of the block before; an `nn.Embedding` outside the blocks always has depth 0.
    """
    blocks = _blocks(module)
    own = {id(p): number for number, block in enumerate(blocks, 1) for p in block.parameters()}
    tables = {id(p) for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    depths: dict[str, int] = {}
    # Parameters come in the order of definition, which in practice is the order of the forward. `reached` is the last
    # block so far, so parameters before the first block get 0 and those after the last block count as the head.
    reached = 0
    for name, parameter in module.named_parameters():
        reached = max(reached, own.get(id(parameter), 0))
        behind = len(blocks) + 1 if blocks and reached == len(blocks) else reached
        outside = 0 if id(parameter) in tables else behind
        depths[name] = own.get(id(parameter), outside)
    return depths


def _blocks(module: nn.Module) -> Sequence[nn.Module]:
    """The blocks in the order in which they are defined; no block is inside another."""
    shapes: dict[type[nn.Module], list[tuple[torch.Size, ...]]] = {}
    for part in module.modules():
        for member in _members(part):
            shapes.setdefault(type(member), []).append(tuple(parameter.shape for parameter in member.parameters()))
    # From the strictest rule to the loosest: the first one that finds anything is used.
    equal = {kind for kind, found in shapes.items() if len(set(found)) < len(found)}
    repeated = {kind for kind, found in shapes.items() if len(found) > 1}
    for kinds in (equal, repeated, set(shapes)):
        if kinds:
            return list(_outermost(module, kinds))
    layers = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    return [layer for layer in layers[1:-1] if not isinstance(layer, nn.Embedding)]


def _members(module: nn.Module) -> list[nn.Module]:
    """The members of a module list that have sub-modules; single layers are not counted as blocks."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return []
    return [child for child in module.children() if next(child.children(), None) is not None]


def _outermost(module: nn.Module, kinds: Set[type[nn.Module]]) -> Iterator[nn.Module]:
    """Members of module lists of one of these types, without looking inside those that are found."""
    members = _members(module)
    for child in module.children():
        if child in members and type(child) in kinds:
            yield child
        else:
            yield from _outermost(child, kinds)
