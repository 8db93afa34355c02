"""From a module's outputs to accuracy, and to what a difference of two accuracies on the same rows can tell."""

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


def logits_of(output: Any) -> Tensor:
    """The logits (rows, classes) in what a module returns: a tensor, a tuple, a mapping, or an output of transformers.

    Raises:
        TypeError: none of these.
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
    """Logits (n, classes) of all rows, in their order, without gradients; of tokens (n, longest, tags), 0 behind a row.

    Args:
        forward: called with keyword inputs; put the module in eval mode and on `device` before.
        split: the rows.
        batch_size: rows at once; rows of like length go together, which halves the time.
        device: where the inputs go.
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
    stacked = torch.cat(parts).numpy()
    logits = np.empty_like(stacked)
    logits[np.concatenate(batches)] = stacked
    return logits


@dataclass(frozen=True)
class PairedDifference:
    """A difference of accuracies in points (hundredths), and its 95 % interval."""

    points: float
    low: float
    high: float


def paired_difference(correct: npt.ArrayLike, reference: npt.ArrayLike) -> PairedDifference:
    """How much better the first is than the reference on the same rows, in points (negative: a loss).

    The interval adds half a row to each of the four cells of the paired table (Agresti and Min, 2005,
    doi:10.1002/sim.1781), so that it has a width even when the two never differ.

    Args:
        correct: which rows the first gets right, bool (n,).
        reference: the same of the other one (n,).

    Raises:
        ValueError: no rows, or not equally many.
    """
    ours, theirs = np.asarray(correct, dtype=bool), np.asarray(reference, dtype=bool)
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(f"both must be judged on the same rows, at least one, got {ours.shape} and {theirs.shape}")
    gained, lost, rows = int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours)
    mean = (gained - lost) / (rows + 2)
    variance = (gained + lost + 1) / (rows + 2) - mean**2
    half = _Z * math.sqrt(variance / (rows + 2))
    return PairedDifference(100 * (gained - lost) / rows, 100 * max(-1.0, mean - half), 100 * min(1.0, mean + half))
