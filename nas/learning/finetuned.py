"""How a fine-tuning ended, as the record that is kept beside the weights."""

from typing import Literal

import pydantic

from nas.records import Record, Whole


class ProbeRecord(Record):
    """Scores of some sub-networks on validation rows after `step`; null where one gave no number."""

    step: Whole
    largest: float | None
    smallest: float | None
    random: list[float | None] = pydantic.Field(max_length=100)


class ProbedNetwork(Record):
    """A network that the probes scored, by the weights that the fine-tuning ended with; null where that is no number.

    `macs` are those of one row of the usual length.
    """

    score: float | None
    parameters: Whole
    macs: Whole


class Finetuned(Record):
    """`finetuned.json` beside the weights of a super-network, a teacher or one sub-network: how the fine-tuning ended.

    `validation_score` is the full network's in the metric of the task, null where it gave no number; the probes are
    those during the fine-tuning of a super-network, on `probed_rows` of the validation rows. `probed` are the networks
    that they score: the full one, the smallest and the random ones.
    """

    version: Literal[1] = 1
    steps: Whole
    loss: float
    metric: str
    validation_score: float | None
    seconds: float
    probes: list[ProbeRecord] = pydantic.Field(default_factory=list)
    probed: list[ProbedNetwork] = pydantic.Field(default_factory=list, max_length=100)
    probed_rows: Whole = 0
