"""What a teacher gives for a batch: its logits and, where they are asked for, its hidden states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from nas.learning.teachers.frozen import LogitsOf
from nas.learning.teachers.hidden_distance import HiddenDistance
from nas.learning.training import Batch
from search_spaces.supernets.hidden_states import BlockBoundary


@dataclass(frozen=True)
class TeacherOutputs:
    """The outputs of a teacher for a batch.

    Attributes:
        logits: its logits.
        hidden: its hidden states by block boundary; empty where they are not asked for.
    """

    logits: Tensor
    hidden: Mapping[BlockBoundary, Tensor] = field(default_factory=dict)


OutputsOf = Callable[[Batch], TeacherOutputs]
"""Keyword inputs -> the teacher's outputs, without gradient."""


def with_hidden_states(teacher: nn.Module, logits_of: LogitsOf, distance: HiddenDistance) -> OutputsOf:
    """A function that gives a teacher's logits and the hidden states that a distance needs.

    Args:
        teacher: the network.
        logits_of: its forward, see `frozen_teacher`.
        distance: that of hidden states from the teacher's.
    """

    def outputs_of(batch: Batch) -> TeacherOutputs:
        with distance.recorded(teacher) as states:
            logits = logits_of(batch)
        hidden = {boundary: state for boundary, state in states[-1].items() if boundary in distance.variances}
        return TeacherOutputs(logits, hidden)

    return outputs_of
