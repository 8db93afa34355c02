"""Laws of the augmentation: each image is one of the few that it may be, however the rows are divided."""

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from nas.data.augmentation import augment
from nas.errors import UserError
from nas.learning.augmentation import augmented
from nas.learning.training import TrainingConfig, fine_tune
from nas.seeds import generator
from tests import toy_images, toy_task

HEIGHT, WIDTH = 16, 8


def images(count: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(count, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))}


def test_every_image_is_mirrored_and_shifted_with_zeros_at_the_edges() -> None:
    batch, count = images(300), 300
    moved = augment(batch, count, np.arange(count), generator(0, "augment", 1))["x"]
    seen = set()
    for image, other in zip(batch["x"], moved, strict=True):
        wide = pad(image, (1, 1, 2, 2))
        allowed = {
            (mirrored, y, x): window.flip(-1) if mirrored else window
            for mirrored in (False, True)
            for y in range(5)
            for x in range(3)
            for window in [wide[:, y : y + HEIGHT, x : x + WIDTH]]
        }
        (found,) = [key for key, candidate in allowed.items() if torch.equal(candidate, other)]
        seen.add(found)
    assert len(seen) == 2 * 5 * 3


def test_does_not_depend_on_how_the_rows_are_divided() -> None:
    batch = images(9)
    whole = augment(batch, 9, np.arange(9), generator(3, "augment", 7))["x"]
    for kept in (np.array([0, 2, 4, 6, 8]), np.array([1, 3, 5, 7])):
        part = augment({"x": batch["x"][kept]}, 9, kept, generator(3, "augment", 7))["x"]
        assert torch.equal(part, whole[kept])
    assert not torch.equal(whole, augment(batch, 9, np.arange(9), generator(3, "augment", 8))["x"])


def test_touches_images_only() -> None:
    other = {"mask": torch.ones(4, 1, 8, 8, dtype=torch.int64), "size": torch.ones(4, 2)}
    found = augment(images(4) | other, 4, np.arange(4), generator(0, "augment", 0))
    assert all(found[name] is tensor for name, tensor in other.items())


def test_refuses_rows_without_images() -> None:
    with pytest.raises(UserError, match="augment is for images"):
        fine_tune(toy_task.bert(), toy_task.split(), TrainingConfig(steps=1, augment=True))


def test_fit_augments_when_asked() -> None:
    def first_loss(augment: bool) -> float:
        config = TrainingConfig(steps=1, batch_size=8, augment=augment)
        return fine_tune(toy_images.network(), toy_images.split(8), config).steps[0].loss

    assert first_loss(True) != first_loss(False)


def test_an_augmented_split_shows_the_same_rows_moved_always_alike() -> None:
    split = toy_images.split(8)
    moved, rows = augmented(split), [1, 4, 6]
    (plain,), (first,), (again,) = (list(each.batch(rows).values()) for each in (split, moved, moved))
    assert first.shape == plain.shape and not torch.equal(first, plain)
    assert torch.equal(first, again)
    assert moved.fingerprint() == split.fingerprint()
