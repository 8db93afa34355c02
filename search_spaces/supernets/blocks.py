"""Finds, for any module of a network, the choices that drop the block around it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from search_spaces.cuts import BlockCut
from search_spaces.space import Choice, Option, Space
from search_spaces.supernets.slicing import cuts_of


@dataclass(frozen=True)
class Droppable:
    """A block that a choice drops with some of its options.

    Attributes:
        choice: name of the choice.
        kept: its options with which the block stays, in their order; fewer than all of them.
    """

    choice: str
    kept: tuple[Option, ...]


class Blocks:
    """The blocks of a network that the choices of a space drop.

    Args:
        model: the full network.
        space: its block cuts name the lists.
    """

    def __init__(self, model: nn.Module, space: Space) -> None:
        self._cuts: dict[str, list[tuple[Choice, BlockCut]]] = {}
        for choice, cut in cuts_of(space, BlockCut):
            self._cuts.setdefault(cut.blocks, []).append((choice, cut))
        # Blocks are found by their names in a list, cuts count positions.
        self._positions: Mapping[str, Mapping[str, int]] = {
            path: {name: index for index, name in enumerate(model.get_submodule(path)._modules)} for path in self._cuts
        }
        self._around: dict[str, tuple[Droppable, ...]] = {}

    def around(self, path: str) -> tuple[Droppable, ...]:
        """The blocks around the module at `path` that may be dropped, the innermost first; usually one or none."""
        if path not in self._around:
            self._around[path] = tuple(self._found(path))
        return self._around[path]

    def _found(self, path: str) -> Iterator[Droppable]:
        for blocks in sorted(self._cuts, key=len, reverse=True):
            prefix = f"{blocks}." if blocks else ""
            if path.startswith(prefix):
                index = self._positions[blocks].get(path.removeprefix(prefix).partition(".")[0])
                block = None if index is None else self._block(blocks, index)
                if block is not None:
                    yield block

    def _block(self, blocks: str, index: int) -> Droppable | None:
        """The block at a position of a list; None if it always stays."""
        # Several choices may shorten one list, each for the blocks of its own stage.
        for choice, cut in self._cuts[blocks]:
            kept = tuple(option for option in choice.options if index not in cut.dropped(int(option)))
            if len(kept) < len(choice.options):
                return Droppable(choice.name, kept)
        return None
