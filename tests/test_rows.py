"""The training loop trains on anything that gives inputs and targets by index."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from nas.errors import UserError
from nas.learning.training import TrainingConfig, fit
from search_spaces.arrays import IntArray
from tests import toy_rows

CONFIG = TrainingConfig(epochs=3, batch_size=16, learning_rate=1e-2)


def test_learns_targets_that_are_features() -> None:
    module, rows = toy_rows.network(), toy_rows.pairs()
    history = fit(module, rows, toy_rows.squared_error, TrainingConfig(epochs=20, batch_size=16, learning_rate=1e-2))
    assert len(history.steps) == 20 * 4
    assert history.steps[-1].loss < history.steps[0].loss / 2


def test_parts_of_a_step_count_by_their_rows() -> None:
    def trained(accumulate: int) -> list[float]:
        config = TrainingConfig(steps=3, batch_size=16, accumulate=accumulate)
        module = toy_rows.network()
        module.norm = nn.Identity()  # norms see the parts
        return [step.loss for step in fit(module, toy_rows.pairs(), toy_rows.squared_error, config).steps]

    assert trained(3) == pytest.approx(trained(1), rel=1e-5)


def test_the_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    fit(toy_rows.network(), toy_rows.pairs(), toy_rows.squared_error, CONFIG, checkpoint=tmp_path / "c")
    with pytest.raises(UserError, match="another data;"):
        other = toy_rows.pairs(seed=1)
        fit(toy_rows.network(), other, toy_rows.squared_error, CONFIG, checkpoint=tmp_path / "c")


def test_rows_say_how_they_are_augmented() -> None:
    config = TrainingConfig(steps=2, batch_size=16, augment=True)
    with pytest.raises(UserError, match="pairs cannot be augmented"):
        fit(toy_rows.network(), toy_rows.pairs(), toy_rows.squared_error, config)


@dataclass(frozen=True)
class Dropping(toy_rows.Pairs):
    """Leaves out the rows after the last full batch."""

    def batches(self, batch_size: int, rng: np.random.Generator) -> list[IntArray]:
        return list(rng.permutation(len(self))[: len(self) // batch_size * batch_size].reshape(-1, batch_size))


def test_an_epoch_has_all_rows() -> None:
    rows = toy_rows.pairs()
    with pytest.raises(ValueError, match="4 batches, got 3"):
        fit(toy_rows.network(), Dropping(rows.inputs, rows.outputs), toy_rows.squared_error, CONFIG)
