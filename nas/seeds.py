"""Random generators seeded by (seed, purpose, index), so that no draw depends on what was drawn before."""

import zlib

import numpy as np


def _sequence(seed: int, purpose: str, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), index])


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator of its own for every (seed, purpose, index); seed and index are at least 0."""
    return np.random.default_rng(_sequence(seed, purpose, index))


def torch_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A number for `torch.manual_seed`, of its own for every (seed, purpose, index)."""
    return int(_sequence(seed, purpose, index).generate_state(1, np.uint64)[0] >> 1)
