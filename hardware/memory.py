"""Activation memory of a forward pass, counted on fake tensors."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records which storages every operator reads and writes; views share the storage of their base.

    Args:
        inputs: tensors that exist before the first operator and count. Other tensors that no operator created, which
            are parameters, do not count.
    """

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps: list[frozenset[int]] = []
        # Storages stay referenced until the end: a freed one could pass its address on to another.
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._given = frozenset(self._seen(value) for value in inputs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and record it."""
        before = [_address(value) for value in _tensors((args, kwargs))]
        output = func(*args, **(kwargs or {}))
        read = {address for address in before if address in self._storages}
        # An output that shares storage with a parameter is a view of it, and does not count either.
        made = [value for value in _tensors(output) if _address(value) not in set(before) - read]
        self._steps.append(frozenset(read | {self._seen(value) for value in made}))
        return output

    def peak(self, output: Any) -> int:
        """Largest number of bytes alive at one operator; the `output` of the forward stays alive to the end."""
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
    """Largest total size of the storages alive at one step.

    Args:
        sizes: bytes of each storage.
        steps: storages that each step reads or writes; each is alive from the first step to the last one that uses it.
        given: storages alive from the start.
        kept: storages alive until the end.
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
    # Sum up allocations and releases by step: the running total is the memory alive at each step.
    change = [0] * (len(steps) + 1)
    for key, end in last.items():
        change[first[key]] += sizes[key]
        change[end + 1] -= sizes[key]
    return max(accumulate(change))
