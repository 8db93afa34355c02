"""Lists in a configuration of transformers that hold one entry a block, such as `layer_types`: cut with the blocks.

A forward reads them by the position of a block, so a network with fewer blocks would read the entries of others.
"""

import copy
from collections.abc import Sequence
from typing import Any

_PARTS_OF_NAMES = ("layer", "block", "pattern")


def layer_lists(config: Any, count: int) -> list[str]:
    """Names of the lists with one entry for each of `count` blocks; none where the configuration has another depth."""
    if getattr(config, "num_hidden_layers", None) != count:
        return []
    return [
        name
        for name, value in vars(config).items()
        if isinstance(value, list | tuple) and len(value) == count and any(part in name for part in _PARTS_OF_NAMES)
    ]


def with_kept_blocks(config: Any, count: int, kept: Sequence[int]) -> Any:
    """A copy of a configuration for the blocks of these positions; the configuration itself where it has no lists.

    Args:
        config: a configuration, or None.
        count: number of blocks of the full network.
        kept: positions of the blocks that stay, ascending.
    """
    names = layer_lists(config, count)
    if not names:
        return config
    cut = copy.deepcopy(config)
    # Past the checks of a configuration, which hold for the lists and the depth together.
    for name in names:
        entries = [vars(config)[name][index] for index in kept]
        vars(cut)[name] = tuple(entries) if isinstance(vars(config)[name], tuple) else entries
    vars(cut)["num_hidden_layers"] = len(kept)
    return cut
