"""The mean of a network's weights over the last steps of its training.

Source: stochastic weight averaging (arXiv 1803.05407) and latest weight averaging (arXiv 2209.14981), which average the
weights at the ends of epochs. Differs: those after every step of the last part of a training are averaged, while the
learning rate falls as it does without. The statistics of batch norms stay those of the last step, where stochastic
weight averaging measures them anew on training rows: here those of a super-network are measured anew for each
sub-network in any case, and those of another network are of weights a little different from the mean.
"""

import torch
from torch import nn

from nas.errors import UserError
from nas.learning.checkpoint import Progress, put_tensors, trained_parameters


@torch.no_grad()
def add_weights(progress: Progress, module: nn.Module, count: int) -> None:
    """Add the trainable parameters of a module to their mean, which is in float32, or in float64 where they are.

    Args:
        progress: the progress of the run, whose `mean` is changed.
        module: the module after a step.
        count: number of steps that the mean is over with this one; below 1: the step is before them, nothing is done.
    """
    if count < 1:
        return
    for name, parameter in trained_parameters(module).items():
        weights = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
        if count == 1:
            progress.mean[name] = weights.clone()
        else:
            progress.mean[name].lerp_(weights, 1 / count)


def put_mean(progress: Progress, module: nn.Module) -> None:
    """Give a module the mean of its weights, which is then no longer kept; without one, leave it unchanged."""
    put_tensors(module, progress.mean)
    progress.mean = {}


def check_mean(progress: Progress, module: nn.Module, count: int) -> None:
    """Raise UserError unless a checkpoint holds the mean that its training goes on with.

    Args:
        progress: as the checkpoint has it.
        module: the module that is trained.
        count: number of steps that the mean is over; below 1: there is none yet.
    """
    if count >= 1 and progress.mean.keys() != trained_parameters(module).keys():
        raise UserError("the checkpoint is damaged (it lacks the mean of the weights); remove it to start anew")
