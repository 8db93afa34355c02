"""Memory of activations in a traced forward, counted on fake tensors."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records which memory every operator reads and writes, views of one memory being the same.

    Args:
        inputs: the tensors that are there before; others that no operator made (parameters) are not counted.
    """

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps: list[frozenset[int]] = []
        # Kept until the end, so that no address is given to two of them.
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._given = frozenset(self._seen(value) for value in inputs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and record it."""
        before = [_address(value) for value in _tensors((args, kwargs))]
        output = func(*args, **(kwargs or {}))
        read = {address for address in before if address in self._storages}
        # A view of a parameter is a parameter still.
        made = [value for value in _tensors(output) if _address(value) not in set(before) - read]
        self._steps.append(frozenset(read | {self._seen(value) for value in made}))
        return output

    def peak(self, output: Any) -> int:
        """Largest number of bytes alive at one operator, given what the forward returned."""
        kept = frozenset(address for value in _tensors(output) if (address := _address(value)) in self._storages)
        sizes = {address: storage.nbytes() for address, storage in self._storages.items()}
        return peak_of_live(sizes, self._steps, self._given, kept)

    def _seen(self, value: torch.Tensor) -> int:
        address = _address(value)
        self._storages[address] = value.untyped_storage()
        return address


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(tree) if isinstance(value, torch.Tensor)]


def _address(value: torch.Tensor) -> int:
    return int(value.untyped_storage()._cdata)


def peak_of_live(
    sizes: Mapping[int, int], steps: Sequence[frozenset[int]], given: frozenset[int], kept: frozenset[int]
) -> int:
    """Largest sum of sizes alive at one step.

    Args:
        sizes: bytes of everything.
        steps: what each step reads or writes: alive from the first step with it to the last one.
        given: alive from the start to the last step that has it.
        kept: alive from the first step that has it to the end.
    """
    if not steps:
        return sum(sizes[key] for key in given)
    first = dict.fromkeys(given, 0)
    last: dict[int, int] = {}
    for index, touched in enumerate(steps):
        for key in touched:
            first.setdefault(key, index)
            last[key] = index
    last |= dict.fromkeys(kept & set(first), len(steps) - 1)
    change = [0] * (len(steps) + 1)
    for key, end in last.items():
        change[first[key]] += sizes[key]
        change[end + 1] -= sizes[key]
    return max(accumulate(change))
