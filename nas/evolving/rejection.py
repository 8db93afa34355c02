"""All tests of a layer in turn; the first that fails ends it (EvoNorm, arXiv 2004.02967, section 4).

Differs: the tests without training (`usable`, `propagation`) are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nas.data.rows import Rows
from nas.evolving.anchors import Network
from nas.evolving.behind import Standings
from nas.evolving.propagation import propagation
from nas.evolving.quality import LEAST_ACCURACY, TRAINING, quality
from nas.evolving.stability import LARGEST_NORM, STEP, stability
from nas.evolving.usable import usable
from nas.evolving.verdict import Verdict
from nas.learning.training_config import TrainingConfig
from search_spaces.graphs import LayerGraph

__all__ = ["RejectionConfig", "Verdict", "tested"]


@dataclass(frozen=True)
class RejectionConfig:
    """How layers are tested before they are trained and scored.

    Args:
        groups: as of `GraphLayer`.
        training: the few steps after which the accuracy is measured.
        least_accuracy: the share (0..1) of rows that must be right then in every network.
        ascent_steps: the most steps towards exploding gradients; 0: stability is judged by the gradient at first.
        step_size: their length as a share of the norm of the weights.
        largest_norm: the norm of the gradient above which a layer is unstable.
        first_step: whether a layer must let a signal through every network at its initial weights.
    """

    groups: int = 32
    training: TrainingConfig = TRAINING
    least_accuracy: float = LEAST_ACCURACY
    ascent_steps: int = 100
    step_size: float = STEP
    largest_norm: float = LARGEST_NORM
    first_step: bool = True


def tested(
    graph: LayerGraph,
    networks: Mapping[str, Network],
    train: Rows,
    validation: Rows,
    *,
    seed: int = 0,
    config: RejectionConfig | None = None,
    standings: Standings | None = None,
) -> Verdict:
    """Test a layer alone, by a first step and a short training in every network, and for stability in the first one.

    The first step is one forward and backward at the initial weights.

    Args:
        graph: the layer.
        networks: by name, the cheapest first; see `nas.evolving.anchors.networks`.
        train: training rows, images with a class each.
        validation: rows for the accuracy, of the same kind.
        seed: of weights and batches. The verdict follows from it and the key of the layer.
        config: bounds and lengths.
        standings: as of `quality`, where the short training is the one that scores layers.

    Returns:
        The verdict with the numbers and steps of all tests that were run.

    Raises:
        UserError: see `quality` and `stability`.
    """
    config = config or RejectionConfig()
    verdict = usable(graph)
    if verdict.accepted and config.first_step:
        verdict = propagation(
            graph, networks, train, seed=seed, groups=config.groups, batch_size=config.training.batch_size
        ).after(verdict)
    if not verdict.accepted:
        return verdict
    verdict = quality(
        graph,
        networks,
        train,
        validation,
        seed=seed,
        groups=config.groups,
        training=config.training,
        least_accuracy=config.least_accuracy,
        standings=standings,
    ).after(verdict)
    if not verdict.accepted:
        return verdict
    return stability(
        graph,
        next(iter(networks.values())),
        train,
        seed=seed,
        groups=config.groups,
        steps=config.ascent_steps,
        step_size=config.step_size,
        largest_norm=config.largest_norm,
    ).after(verdict)
