"""The hidden states of a network at its block boundaries: what flows from one of its repeated blocks to the next.

The block boundaries of a stage of n blocks are before each of its blocks but the first (numbered 1 .. n - 1 by the
block behind them) and at its end (n). A sub-network has those before the blocks that it keeps, but the first of these,
and the end, so hidden states of sub-networks of any depth can be compared with those of the full network, by number.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

Stages = tuple[tuple[str, ...], ...]
"""The paths of the blocks of every stage, in execution order."""
BlockBoundary = tuple[int, int]
"""(index of the stage, number of the block boundary in it)."""
HiddenStates = dict[BlockBoundary, Tensor]
"""Hidden state by block boundary, (rows, ...)."""


@contextmanager
def recorded(
    model: nn.Module, stages: Sequence[Sequence[str]], turned: Collection[BlockBoundary] = ()
) -> Iterator[list[HiddenStates]]:
    """Context in which every forward of a network appends its hidden states to the list that is given.

    The forwards of a super-network's sub-networks are forwards of its model: their shells share its hooks. Blocks that
    are lists of modules are not called themselves, so there is no hidden state before them.

    Args:
        model: the network; only hooks are added, and removed at the end.
        stages: its blocks, see `stages_of`.
        turned: block boundaries at which the rows are the second axis; their hidden states are transposed.
    """
    found: list[HiddenStates] = []
    handles = [model.register_forward_pre_hook(lambda module, args: found.append({}))]
    for stage, paths in enumerate(stages):
        for number, path in enumerate(paths):
            block = model.get_submodule(path)
            boundary, end = (stage, number), (stage, len(paths))
            before = partial(_before, found, boundary, end, boundary in turned)
            handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(block.register_forward_hook(partial(_after, found, end, end in turned)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _before(
    found: list[HiddenStates],
    boundary: BlockBoundary,
    end: BlockBoundary,
    turned: bool,
    block: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Record the input of a block, unless it is the first of its stage that runs (or the only one, run again)."""
    # A block may be called outside the network's forward.
    states = found[-1] if found else {}
    if end in states and boundary[1] > 0:
        states[boundary] = _placed(args[0] if args else next(iter(kwargs.values())), turned)


def _after(
    found: list[HiddenStates], end: BlockBoundary, turned: bool, block: nn.Module, args: tuple[Any, ...], output: Any
) -> None:
    """Record the output of a block as the end of its stage; the last block that runs overwrites the others."""
    if not found:
        return
    if isinstance(output, Mapping):
        output = next(iter(output.values()))
    found[-1][end] = _placed(output[0] if isinstance(output, tuple) else output, turned)


def _placed(state: Tensor, turned: bool) -> Tensor:
    return state.transpose(0, 1) if turned else state
