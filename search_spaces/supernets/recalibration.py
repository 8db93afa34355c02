"""Batch-norm statistics of one candidate, measured anew.

The running statistics of the full network do not describe the activations of a sub-network (slimmable networks, Yu and
Huang, arXiv 1903.05134, section 3.2; OFA, arXiv 1908.09791), so each candidate gets its own before it is measured.
"""

from collections.abc import Iterable

import torch

from search_spaces.inputs import Inputs, split_inputs
from search_spaces.space import Candidate
from search_spaces.supernets.batch_norm import batch_norms
from search_spaces.supernets.supernet import Supernet


@torch.no_grad()
def recalibrate(supernet: Supernet, candidate: Candidate, batches: Iterable[Inputs]) -> dict[str, torch.Tensor]:
    """Measure a candidate's batch-norm statistics; the super-network stays as it is.

    Args:
        supernet: its modes do not matter: everything but the batch norms runs in evaluation mode.
        candidate: the sub-network.
        batches: inputs without labels, on the device of the super-network; the mean over the batches counts.

    Returns:
        Buffers for `Supernet.extract`, by their names in the full model; empty where there are no batch norms.

    Raises:
        ValueError: there are batch norms and no batches.
    """
    module = supernet.extract(candidate).eval()
    norms = dict(batch_norms(module))
    if not norms:
        return {}
    for norm in norms.values():
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean over all batches, each counting the same
    count = 0
    for count, batch in enumerate(batches, 1):  # noqa: B007
        args, kwargs = split_inputs(batch)
        module(*args, **kwargs)
    if not count:
        raise ValueError("re-calibration of batch norms needs at least one batch of inputs, got none")
    names = supernet.names(candidate)
    return {
        names[name]: buffer
        for path, norm in norms.items()
        for name, buffer in norm.named_buffers(prefix=path)
        if name in names
    }
