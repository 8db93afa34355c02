"""Whether a network is trained for the classes that it is to be pruned for: nothing else would guide a pruning."""

import math
from collections import Counter

import numpy as np
from torch import nn

from nas.data.accuracy import predict
from nas.data.split import Data, Split
from nas.errors import UserError
from nas.seeds import generator

_LUCK = 0.001
"""How often a network that guesses may be taken for a trained one."""
_OVER_CHANCE = 1.2
_ENOUGH_ROWS = 1000
_SAME = 1e-3


def check_trained(module: nn.Module, again: nn.Module, data: Data, model: str) -> None:
    """Refuse a network that would not guide a pruning.

    Args:
        module: the network, in evaluation mode.
        again: the same, loaded once more with another seed: a head made new gives other outputs then.
        data: rows of its classes; where validation rows are few, training rows are scored too.
        model: its name, for messages.

    Raises:
        UserError: weights are drawn at random, or it has no more rows right than luck may give.
    """
    few = data.validation.take(16, generator(0, "rows that tell new weights"))
    ours, theirs = predict(module, few), predict(again, few)
    if not np.allclose(ours, theirs, rtol=0, atol=_SAME * float(np.nan_to_num(np.abs(ours)).max()), equal_nan=True):
        raise UserError(
            f"a pruning needs a network that is trained for these classes: the head of {model}, or more of it, is new "
            "and drawn at random; train it first, or name its trained --weights"
        )
    rows = [data.validation, *_further(data)]
    right = sum(int((predict(module, part).argmax(1) == part.labels).sum()) for part in rows)
    counts = Counter(int(label) for part in rows for label in part.labels)
    count, common = counts.total(), counts.most_common(1)[0][1]
    least = least_right(count, common / count)
    if right < least:
        raise UserError(
            f"a pruning needs a network that is trained for these classes: {model} has {right:,} of {count:,} rows "
            f"right, where its most frequent class is {common:,} of them and a network that guesses may have up to "
            f"{least - 1:,}; train it first, or name its trained --weights"
        )


def _further(data: Data) -> list[Split]:
    missing = _ENOUGH_ROWS - len(data.validation)
    return [data.train.take(missing, generator(0, "rows that tell a trained network"))] if missing > 0 else []


def least_right(rows: int, chance: float) -> int:
    """How many of `rows` a network must have right so that it is trained; more than `rows` where these are too few.

    That is more than guessing reaches, but once in a thousand times (the exact binomial tail), and clearly more than
    the share `chance` (0..1) that the most frequent class has.
    """
    if chance >= 1:
        return rows + 1
    number = np.arange(1, rows + 1)
    steps = np.log((rows - number + 1) / number) + math.log(chance / (1 - chance))
    chances = np.exp(np.concatenate([[0.0], np.cumsum(steps)]) + rows * math.log1p(-chance))
    at_least = np.cumsum(chances[::-1])[::-1]
    clearly = math.floor(rows * min(_OVER_CHANCE * chance, (1 + chance) / 2)) + 1
    return max(int(np.searchsorted(-at_least, -_LUCK)), clearly)
