"""Run a module on a split, score its outputs, and compare two modules on the same rows with a paired interval."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from nas.data.split import Split
from nas.data.tasks import accuracy

__all__ = ["PairedDifference", "accuracy", "logits_of", "paired_difference", "predict"]

Logits = npt.NDArray[np.float32]
_Z = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution: a two-sided interval of 95 %."""


def logits_of(output: Any) -> Tensor:
    """Find the logits in the return value of a module.

    Args:
        output: a tensor, a tuple that begins with one, a mapping with the key `logits`, or an output object of
            `transformers`.

    Returns:
        The logits, (rows, classes), or (rows, tokens, tags) for token classification.

    Raises:
        TypeError: the output is none of these.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = output.get("logits")
    if logits is None and isinstance(output, tuple) and output:
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the module must return logits, a tuple of them first, or an object with .logits, got {type(output)}"
        )
    return logits


def predict(
    forward: Callable[..., Any], split: Split, batch_size: int = 64, device: torch.device | str = "cpu"
) -> Logits:
    """Compute the logits of all rows of a split without gradients.

    Args:
        forward: called with keyword inputs. The caller puts the module in evaluation mode and on `device`.
        split: the rows.
        batch_size: rows per forward pass. Rows of similar length are batched together, which halves the time on texts.
        device: the device that the inputs are moved to.

    Returns:
        Logits in the order of the rows, (n, classes). For token classification (n, longest, tags), filled with zeros
        after the last token of a row.
    """
    batches = split.batches(batch_size)
    with torch.no_grad():
        parts = [
            logits_of(forward(**{name: tensor.to(device) for name, tensor in split.batch(rows).items()})).float().cpu()
            for rows in batches
        ]
    if not parts:
        return np.zeros((0, 0), dtype=np.float32)
    if parts[0].ndim == 3:
        longest = max(part.shape[1] for part in parts)
        parts = [pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    # The batches hold the rows sorted by length; writing through their indices restores the order of the split.
    stacked = torch.cat(parts).numpy()
    logits = np.empty_like(stacked)
    logits[np.concatenate(batches)] = stacked
    return logits


@dataclass(frozen=True)
class PairedDifference:
    """A difference of two accuracies in percentage points, with its 95 % interval from `low` to `high`."""

    points: float
    low: float
    high: float


def paired_difference(correct: npt.ArrayLike, reference: npt.ArrayLike) -> PairedDifference:
    """Difference between the accuracy of a network and that of a reference on the same rows.

    The interval is the adjusted Wald interval for paired proportions (Agresti and Min, 2005, doi:10.1002/sim.1781),
    which adds half a row to each of the four cells of the paired table. So the interval has a width even when both
    networks are right on the same rows.

    Args:
        correct: which rows the network classifies correctly, bool (n,).
        reference: the same for the reference network, bool (n,).

    Returns:
        The difference in percentage points; negative when the network is worse than the reference.

    Raises:
        ValueError: there are no rows, or the two arrays have different shapes.
    """
    ours, theirs = np.asarray(correct, dtype=bool), np.asarray(reference, dtype=bool)
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(f"both must be judged on the same rows, at least one, got {ours.shape} and {theirs.shape}")
    gained, lost, rows = int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours)
    mean = (gained - lost) / (rows + 2)
    variance = (gained + lost + 1) / (rows + 2) - mean**2
    half = _Z * math.sqrt(variance / (rows + 2))
    return PairedDifference(100 * (gained - lost) / rows, 100 * max(-1.0, mean - half), 100 * min(1.0, mean + half))
