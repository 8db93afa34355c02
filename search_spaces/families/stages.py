"""Stages: repeated blocks that stand in lists, and which of them may drop."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from search_spaces.tracing.coupling import Coupling


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks of one list that share one residual stream.

    Attributes:
        path: of the `ModuleList` or `Sequential` that holds them.
        names: of the blocks in it, in running order.
        members: their indices in it.
        droppable: those of `members` that may be left out: their output has the axes of their input.
    """

    path: str
    names: tuple[str, ...]
    members: tuple[int, ...]
    droppable: tuple[int, ...]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Paths of the blocks."""
        return tuple(f"{self.path}.{name}" if self.path else name for name in self.names)


def find_stages(model: nn.Module, coupling: Coupling) -> tuple[Stage, ...]:
    """The stages of a network in the order of its modules; empty where no block is repeated.

    A repeated block is a module with parts of its own, of a type of which some instance, in a list, is residual. Of
    nested lists the innermost count. A block that changes the stream's shape begins a new stage.
    """
    lists = dict(_lists(model))
    kinds = _residual_kinds(lists, coupling) or _largest_kind(lists)
    stages: list[Stage] = []
    for path, children in lists.items():
        stages.extend(_stages_of(path, children, kinds, coupling))
    return tuple(stages)


def _lists(model: nn.Module) -> Iterator[tuple[str, Mapping[str, nn.Module]]]:
    """Path and children of every list of modules."""
    for path, part in model.named_modules():
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) > 0:
            yield path, dict(part.named_children())


def _droppable(path: str, block: nn.Module, coupling: Coupling) -> bool:
    part = coupling.submodules.get(path)
    # A list inside a list is never called as a whole: only running the network without it can tell.
    return part.residual if part is not None else isinstance(block, nn.ModuleList)


def _composite(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _residual_kinds(lists: Mapping[str, Mapping[str, nn.Module]], coupling: Coupling) -> frozenset[type[nn.Module]]:
    """Types of the residual blocks, those left out that hold lists of residual blocks themselves."""
    found: dict[str, type[nn.Module]] = {}
    for path, children in lists.items():
        for name, child in children.items():
            block = f"{path}.{name}" if path else name
            if _composite(child) and _droppable(block, child, coupling):
                found[block] = type(child)
    outer = {
        kind for block, kind in found.items() if any(other.startswith(f"{block}.") for other in found if other != block)
    }
    return frozenset(found.values()) - outer


def _largest_kind(lists: Mapping[str, Mapping[str, nn.Module]]) -> frozenset[type[nn.Module]]:
    """The type of the largest equal composite blocks, where none is residual: for the numbering alone."""
    best: tuple[int, frozenset[type[nn.Module]]] = (0, frozenset())
    for children in lists.values():
        kinds = {type(child) for child in children.values()}
        if len(children) > 1 and len(kinds) == 1 and all(_composite(child) for child in children.values()):
            size = sum(parameter.numel() for child in children.values() for parameter in child.parameters())
            best = max(best, (size, frozenset(kinds)), key=lambda item: item[0])
    return best[1]


def _stages_of(
    path: str, children: Mapping[str, nn.Module], kinds: frozenset[type[nn.Module]], coupling: Coupling
) -> list[Stage]:
    runs: list[list[tuple[int, str, bool]]] = []
    previous = False
    for index, (name, child) in enumerate(children.items()):
        block = type(child) in kinds
        if block:
            droppable = _droppable(f"{path}.{name}" if path else name, child, coupling)
            if not previous or not droppable:
                runs.append([])
            runs[-1].append((index, name, droppable))
        previous = block
    return [
        Stage(
            path,
            tuple(name for _, name, _ in run),
            tuple(index for index, _, _ in run),
            tuple(index for index, _, droppable in run if droppable),
        )
        for run in runs
    ]
