"""Find the order in which blocks are dropped, greedily by the loss on training rows.

The drop order is part of the space, so it is determined before the super-network to be trained is made:
`space(model, drop_order=block_order(supernet, train))`.

The search is greedy instead of scoring each block once, because two blocks that do similar work both look redundant as
long as the other one is present.
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
"""Numbers of the blocks within their stage, the first one to drop first."""


def block_order(supernet: Supernet, train: Split, config: ImportanceConfig | None = None) -> dict[str, DropOrder]:
    """Determine the drop order of each stage.

    A temporary copy is fine-tuned for a few steps (see `importance.py`). Then, for one stage at a time with all other
    stages complete, the block whose removal gives the lowest loss is dropped, repeatedly, down to the smallest depth.
    Blocks that no option drops follow in the order of the last round.

    Args:
        supernet: the super-network, before fine-tuning; it is not changed.
        train: training rows for the losses; never pass validation or test rows.
        config: settings of the warm-up and of the batches; None: the defaults.

    Returns:
        Name of each depth choice -> numbers of the blocks within the stage, the first one to drop first.

    Raises:
        UserError: there are no rows.
        TrainingFailed: the loss of the warm-up is not finite.
    """
    config = config or ImportanceConfig()
    judged = warmed_up(supernet, train, config)
    # Batch norms use the statistics of each batch: those of the full network are wrong when blocks are missing, and
    # re-calibrating them for each removal would take too long.
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
    """Drop order of one stage; `loss` maps a forward to its loss on the calibration batches."""

    def loss_without(dropped: Sequence[int]) -> float:
        left = tuple(block for block in cut.drop_order if block not in dropped)
        depth = cut.count - len(dropped)
        only = Choice(choice.name, (depth, cut.count), cuts=(BlockCut(cut.blocks, cut.count, (*dropped, *left)),))
        without = Supernet(model, Space((only,)))
        return loss(lambda **batch: without(without.space.smallest(), **batch))

    order = greedy(loss_without, cut.drop_order, cut.count - int(choice.options[0]))
    # The result counts blocks from the start of the stage, while a cut counts from the start of the module list. The
    # blocks of a stage are consecutive in that list, and at most its first block, which may change the width, is never
    # dropped. So the highest droppable block is the last one of the stage.
    first = max(0, max(order) + 1 - cut.count)
    return tuple(block - first for block in order)


def greedy(loss_without: Callable[[Sequence[int]], float], blocks: Sequence[int], drops: int) -> DropOrder:
    """Order blocks by greedy removal: each round drops the block whose removal gives the lowest loss.

    NaN counts as the worst loss. Of equal losses the later block is dropped first, because later blocks change the
    features less.

    Args:
        loss_without: the blocks that are removed -> the loss.
        blocks: numbers of the blocks that may be dropped.
        drops: number of rounds, at most the number of blocks.

    Returns:
        The dropped blocks in order, then the other blocks by their losses in the last round.
    """
    dropped: list[int] = []
    left = sorted(blocks, reverse=True)
    for _ in range(drops):
        losses = {block: loss_without((*dropped, block)) for block in left}
        left.sort(key=lambda block: (math.isnan(losses[block]), losses[block], -block))
        dropped.append(left.pop(0))
    return (*dropped, *left)
