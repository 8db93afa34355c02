"""The global generator of PyTorch while networks are trained: seeded for every step, and afterwards as it was before.

There is one for all threads of a process.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Generator:
    """Its state before the first of the trainings that run side by side, restored after the last of them."""

    def __init__(self) -> None:
        self.lock, self.trainings, self.before = threading.Lock(), 0, torch.get_rng_state()

    def begin(self) -> None:
        with self.lock:
            if not self.trainings:
                self.before = torch.get_rng_state()
            self.trainings += 1

    def end(self) -> None:
        with self.lock:
            self.trainings -= 1
            if not self.trainings:
                torch.set_rng_state(self.before)


_GENERATOR = _Generator()


@contextmanager
def keeping_generator() -> Iterator[None]:
    """Keep the state of the generator of the CPU; of several that overlap in threads, the last restores it."""
    _GENERATOR.begin()
    try:
        yield
    finally:
        _GENERATOR.end()


def seed_generator(seed: int, device: torch.device) -> None:
    """Seed the generators that a network on this device draws from."""
    if device.type == "cpu":
        # `torch.manual_seed` would seed all accelerators too; where there are none, it notes the stack for each kind.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
