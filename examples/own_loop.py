"""A super-network in a training loop of your own: a plain PyTorch network on random images.

python examples/own_loop.py
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from search_spaces import Supernet, recalibrate, space


def images(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright half, the left one (class 0) or the right one (class 1)."""
    labels = torch.randint(2, (rows,))
    pixels = torch.randn(rows, 3, 8, 8)
    pixels[:, :, :, :4] += (1 - labels)[:, None, None, None]
    pixels[:, :, :, 4:] += labels[:, None, None, None]
    return pixels, labels


def main() -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    model = nn.Sequential(*convolutions, nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 2))

    supernet = Supernet(model, space(model, (images(4)[0],), channels=(0.25, 0.5, 1.0)))
    optimizer, rng = torch.optim.AdamW(supernet.parameters(), lr=1e-3), np.random.default_rng(0)
    for _ in range(100):
        pixels, labels = images(32)
        # One call for both, the full network first: it learns from the labels, the random one from it.
        full, small = supernet([supernet.space.largest(), supernet.space.sample(rng)], pixels)
        taught = kl_div(log_softmax(small, -1), softmax(full.detach(), -1), reduction="batchmean")
        optimizer.zero_grad()
        (cross_entropy(full, labels) + taught).backward()
        optimizer.step()

    # Batch norms of a sub-network have statistics of their own.
    smallest = supernet.space.smallest()
    buffers = recalibrate(supernet, smallest, [(images(64)[0],) for _ in range(4)])
    pixels, labels = images(256)
    for name, network in (("full", model), ("smallest", supernet.extract(smallest, buffers))):
        weights = sum(parameter.numel() for parameter in network.parameters())
        right = (network.eval()(pixels).argmax(-1) == labels).float().mean()
        print(f"{name}: {weights:,} weights, accuracy {right:.3f}")


if __name__ == "__main__":
    main()
