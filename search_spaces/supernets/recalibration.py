"""Re-calibration: measures the batch-norm statistics of one candidate.

The running statistics of the full network do not describe the activations of a sub-network (universally slimmable
networks, Yu and Huang, arXiv 1903.05134, section 3.2; OFA, arXiv 1908.09791), so each candidate gets its own before it
is evaluated or extracted.
"""

from collections.abc import Iterable

import torch
from torch import nn

from search_spaces.inputs import Inputs, split_inputs
from search_spaces.space import Candidate
from search_spaces.supernets.batch_norm import batch_norms
from search_spaces.supernets.supernet import Supernet


@torch.no_grad()
def measure_statistics(module: nn.Module, batches: Iterable[Inputs]) -> None:
    """Give the batch norms of a module their mean statistics over all batches; does nothing where it has none.

    Args:
        module: in evaluation mode, and left in it.
        batches: inputs without labels, on the device of the module.

    Raises:
        ValueError: there are batch norms but no batches.
    """
    norms = [norm for _, norm in batch_norms(module)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        # No momentum: PyTorch then averages over all batches with equal weights, instead of favouring the last ones.
        norm.momentum = None
    count = 0
    for count, batch in enumerate(batches, 1):  # noqa: B007
        args, kwargs = split_inputs(batch)
        module(*args, **kwargs)
    if not count:
        raise ValueError("re-calibration of batch norms needs at least one batch of inputs, got none")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def recalibrate(supernet: Supernet, candidate: Candidate, batches: Iterable[Inputs]) -> dict[str, torch.Tensor]:
    """Measure the batch-norm statistics of a candidate; the super-network is left as it is.

    Args:
        supernet: may be in training or evaluation mode; all modules but the batch norms run in evaluation mode.
        candidate: the sub-network.
        batches: inputs without labels, on the device of the super-network.

    Returns:
        The mean statistics over all batches, as buffers for `Supernet.extract`: by their names in the full model and of
        the sub-network's sizes. Empty for a network without batch norms.

    Raises:
        ValueError: there are batch norms but no batches.
    """
    module = supernet.extract(candidate).eval()
    measure_statistics(module, batches)
    # The extracted module numbers its blocks anew, and callers pass the buffers to `extract` by the full model's names.
    names = supernet.names(candidate)
    return {
        names[name]: buffer
        for path, norm in batch_norms(module)
        for name, buffer in norm.named_buffers(prefix=path)
        if name in names
    }
