"""Which blocks drop first: the order that hurts the loss least, found greedily on training rows.

The drop order is part of the space, so it is found before the super-network is made that is trained:
`space(model, drop_order=block_order(supernet, train))`.

Greedy and not by one score a block: blocks that refine the same thing each look needless while the other one is there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from nas.data.split import Split
from nas.learning.importance import ImportanceConfig, calibration, mean_loss, warmed_up
from nas.learning.training import plain_loss
from search_spaces import BlockCut, Choice, Space, Supernet

DropOrder = tuple[int, ...]


def block_order(supernet: Supernet, train: Split, config: ImportanceConfig | None = None) -> dict[str, DropOrder]:
    """Name of every depth choice -> its blocks that may drop, by their number in the stage, the first to drop first.

    A throw-away copy is fine-tuned for a few steps (see `importance.py`); then, stage by stage and with all other
    stages whole, the block goes without which the loss is lowest, and again with it gone, down to the smallest option.
    Blocks that no option drops follow, in the order of the last round. Batch norms use the statistics of each batch,
    since those of the full network are wrong where blocks are missing.

    Args:
        supernet: before fine-tuning; it stays as it is.
        train: rows to judge by; never validation or test rows.
        config: None: the defaults.

    Raises:
        UserError: no rows.
        TrainingFailed: the warm-up's loss is not finite.
    """
    config = config or ImportanceConfig()
    judged = warmed_up(supernet, train, config)
    for module in judged.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    batches, loss_of = calibration(judged, train, config), plain_loss(train)

    def loss(forward: Callable[..., Any]) -> float:
        with torch.no_grad():
            return float(mean_loss(forward, batches, loss_of))

    depths = [(choice, cut) for choice in supernet.space.choices for cut in choice.cuts if isinstance(cut, BlockCut)]
    return {choice.name: _order(judged.model, choice, cut, loss) for choice, cut in depths}


def _order(model: nn.Module, choice: Choice, cut: BlockCut, loss: Callable[[Callable[..., Any]], float]) -> DropOrder:
    def loss_without(dropped: Sequence[int]) -> float:
        left = tuple(block for block in cut.drop_order if block not in dropped)
        depth = cut.count - len(dropped)
        only = Choice(choice.name, (depth, cut.count), cuts=(BlockCut(cut.blocks, cut.count, (*dropped, *left)),))
        without = Supernet(model, Space((only,)))
        return loss(lambda **batch: without(without.space.smallest(), **batch))

    order = greedy(loss_without, cut.drop_order, cut.count - int(choice.options[0]))
    # The blocks of a stage follow each other in their list, and only the first of them may be one that cannot drop.
    first = max(0, max(order) + 1 - cut.count)
    return tuple(block - first for block in order)


def greedy(loss_without: Callable[[Sequence[int]], float], blocks: Sequence[int], drops: int) -> DropOrder:
    """Order of `blocks`: `drops` times the one without which, and without those before it, the loss is lowest.

    A loss that is not a number counts as the worst; of equal losses the later block goes first, since later blocks
    refine more than they build. The blocks that are left follow by the losses of the last round.
    """
    dropped: list[int] = []
    left = sorted(blocks, reverse=True)
    for _ in range(drops):
        losses = {block: loss_without((*dropped, block)) for block in left}
        left.sort(key=lambda block: (math.isnan(losses[block]), losses[block], -block))
        dropped.append(left.pop(0))
    return (*dropped, *left)
