"""Random generators seeded by (seed, purpose, index), so that draws for one purpose do not affect another."""

import zlib

import numpy as np


def _sequence(seed: int, purpose: str, index: int) -> np.random.SeedSequence:
    # Not hash(), which Python randomises in every process.
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), index])


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A NumPy generator, independent for every (seed, purpose, index); seed and index must not be negative."""
    return np.random.default_rng(_sequence(seed, purpose, index))


def torch_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for `torch.manual_seed`, independent for every (seed, purpose, index)."""
    return int(_sequence(seed, purpose, index).generate_state(1, np.uint64)[0] >> 1)
