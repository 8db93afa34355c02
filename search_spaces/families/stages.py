"""Finds the stages of a network: runs of repeated blocks in its module lists, and which of them may be dropped."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from search_spaces.inputs import Inputs
from search_spaces.supernets.hidden_states import Stages
from search_spaces.tracing.coupling import Coupling, analyse


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks of one list that share one residual stream.

    Attributes:
        path: of the `ModuleList` or `Sequential` that contains the blocks.
        names: of the blocks in that list, in execution order.
        members: indices of the blocks in that list.
        droppable: those of `members` that may be dropped, since a residual path leads through them.
    """

    path: str
    names: tuple[str, ...]
    members: tuple[int, ...]
    droppable: tuple[int, ...]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Paths of the blocks in the model."""
        return tuple(f"{self.path}.{name}" if self.path else name for name in self.names)


def stages_of(model: nn.Module, example_inputs: Inputs) -> Stages:
    """The paths of the blocks of every stage of a network, in the order of its modules.

    Args:
        model: the full network; it is left as it is.
        example_inputs: a tuple of positional or a mapping of keyword tensors, batch above 1.

    Raises:
        ValueError: the network cannot be traced with these inputs.
    """
    return tuple(stage.blocks for stage in find_stages(model, analyse(model, example_inputs)))


def find_stages(model: nn.Module, coupling: Coupling) -> tuple[Stage, ...]:
    """The stages of a network, in the order of its modules; empty if it has no repeated blocks.

    Blocks are the members of lists that have children and whose type has at least one residual instance. If lists are
    nested, the innermost ones with such blocks count. A block without a residual path, such as the first block of a
    ResNet's stage, which changes the shape of the stream, begins a new stage and cannot be dropped.

    Args:
        model: the full network.
        coupling: its analysis, which knows the residual modules.
    """
    lists = dict(_lists(model))
    kinds = _residual_kinds(lists, coupling) or _largest_kind(lists)
    stages: list[Stage] = []
    for path, children in lists.items():
        stages.extend(_stages_of(path, children, kinds, coupling))
    return tuple(stages)


def _lists(model: nn.Module) -> Iterator[tuple[str, Mapping[str, nn.Module]]]:
    """Path and children of every `ModuleList` and `Sequential` that is not empty."""
    for path, part in model.named_modules():
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) > 0:
            yield path, dict(part.named_children())


def _droppable(path: str, block: nn.Module, coupling: Coupling) -> bool:
    """Whether a block may be dropped, as far as the graph shows; `Judge.runs_without` checks it later."""
    part = coupling.submodules.get(path)
    # A list within a list is not called as a whole, so the graph shows nothing of it. It counts as droppable for now.
    return part.residual if part is not None else isinstance(block, nn.ModuleList)


def _composite(module: nn.Module) -> bool:
    """Whether a module has children; single layers such as the activations of a list are no blocks."""
    return next(module.children(), None) is not None


def _residual_kinds(lists: Mapping[str, Mapping[str, nn.Module]], coupling: Coupling) -> frozenset[type[nn.Module]]:
    """The types of the residual blocks, without those that contain residual blocks in lists of their own."""
    found: dict[str, type[nn.Module]] = {}
    for path, children in lists.items():
        residual = {
            block: type(child)
            for name, child in children.items()
            if _composite(child) and _droppable(block := f"{path}.{name}" if path else name, child, coupling)
        }
        # Layers of as many types, in a block, are its parts: T5 lists the attention and the feed-forward layer of each.
        parts = len(residual) > 1 and len(set(residual.values())) == len(residual)
        if not (parts and any(path.startswith(f"{block}.") for block in found)):
            found |= residual
    # A stage of a hierarchical network is residual as a whole if all of its blocks are; the blocks are what may drop.
    outer = {
        kind for block, kind in found.items() if any(other.startswith(f"{block}.") for other in found if other != block)
    }
    return frozenset(found.values()) - outer


def _largest_kind(lists: Mapping[str, Mapping[str, nn.Module]]) -> frozenset[type[nn.Module]]:
    """The type of the largest repeated blocks, for networks in which none is residual.

    Such blocks cannot be dropped. They only give the numbers in names such as `heads.<block>`.
    """
    # By parameters, since the encoder's blocks hold most of them; lists of small heads or adapters are repeated too.
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
    """The stages of one list: its blocks of the given types, split where another module or a new stage begins."""
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
