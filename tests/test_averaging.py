"""Laws of the mean of weights over the last steps: it is that of the weights that every step left, and nothing else."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas.errors import UserError
from nas.learning.averaging import add_weights, put_mean
from nas.learning.checkpoint import Progress
from nas.learning.instatune import InstaTuneConfig, instatune
from nas.learning.training import Step, TrainingConfig, fine_tune
from tests import toy_images, toy_task

STEPS = 10
Weights = dict[str, Tensor]


class Killed(Exception):
    pass


def seen_by(module: nn.Module, seen: list[Weights]) -> Callable[[Step], None]:
    return lambda step: seen.append(toy_task.weights(module))


def trained(**settings: object) -> tuple[nn.Module, list[Weights]]:
    """A network after some steps, and its weights after each of them."""
    module, seen = toy_images.network(), []
    config = TrainingConfig(steps=STEPS, batch_size=8, learning_rate=1e-2, **settings)
    fine_tune(module, toy_images.split(), config, on_step=seen_by(module, seen))
    return module, seen


def check_is_mean(module: nn.Module, seen: list[Weights]) -> None:
    """That the parameters are the mean of those seen, and the buffers the last of them."""
    parameters, after = dict(module.named_parameters()), toy_task.weights(module)
    for name, tensor in after.items():
        if name in parameters:
            mean = torch.stack([each[name].double() for each in seen]).mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(tensor, seen[-1][name])


@pytest.mark.parametrize(("share", "count"), [(1.0, 10), (0.5, 5), (0.26, 3), (0.1, 1), (1e-9, 1)])
def test_the_result_is_the_mean_of_the_weights_after_the_last_steps(share: float, count: int) -> None:
    module, seen = trained(average_last=share)
    check_is_mean(module, seen[-count:])
    if count == 1:
        assert toy_task.same(toy_task.weights(module), seen[-1])
    else:
        assert not torch.allclose(module.head.weight, seen[-1]["head.weight"], rtol=1e-4)


def test_the_steps_are_those_of_a_training_without_it() -> None:
    last, without = trained()
    _, averaged = trained(average_last=0.6)
    assert all(map(toy_task.same, without, averaged))
    assert toy_task.same(toy_task.weights(last), without[-1])


def test_the_last_evaluation_is_of_the_mean() -> None:
    module, seen = toy_images.network(), []

    def validate(step: int) -> float:
        seen.append(toy_task.weights(module))
        return 0.5

    config = TrainingConfig(steps=4, batch_size=8, average_last=1.0, evaluate_every=2)
    steps: list[Weights] = []
    fine_tune(module, toy_images.split(), config, on_step=seen_by(module, steps), validate=validate)
    assert toy_task.same(seen[0], steps[1])
    assert toy_task.same(seen[1], toy_task.weights(module))


def test_a_super_network_is_averaged_and_frozen_weights_stay() -> None:
    supernet, seen = toy_task.supernet(), []
    before = toy_task.weights(supernet.model)
    config = InstaTuneConfig(steps=6, batch_size=8, learning_rate=1e-3, average_last=0.5, freeze_embeddings=True)
    instatune(supernet, toy_task.split(), config, on_step=seen_by(supernet.model, seen))
    check_is_mean(supernet.model, seen[-3:])
    frozen = [name for name in before if "_embeddings.weight" in name]
    assert len(frozen) == 3
    assert all(torch.equal(supernet.model.state_dict()[name], before[name]) for name in frozen)


class Tied(nn.Module):
    """Two layers with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)
        self.outer.weight = self.inner.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_shared_weights_count_once_and_the_mean_is_at_least_in_float32(dtype: torch.dtype) -> None:
    module, progress, seen = Tied().to(dtype), Progress(), []
    for count in range(-1, 40):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter))
        add_weights(progress, module, count)
        if count >= 1:
            seen.append(toy_task.weights(module))
    assert sorted(progress.mean) == ["parameter.inner.bias", "parameter.inner.weight", "parameter.outer.bias"]
    expected = torch.stack([each["inner.weight"].double() for each in seen]).mean(0)
    found = progress.mean["parameter.inner.weight"]
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    put_mean(progress, module)
    assert module.outer.weight is module.inner.weight
    assert torch.equal(module.inner.weight, found.to(dtype))
    assert not progress.mean


def cut_off(folder: Path, kill: int) -> Weights:
    """The weights of a training in a folder, which is killed at a step; 0: never."""

    def on_step(step: Step) -> None:
        if step.step == kill:
            raise Killed

    module = toy_images.network()
    config = TrainingConfig(steps=STEPS, batch_size=8, average_last=0.7, checkpoint_every_s=0)
    fine_tune(module, toy_images.split(), config, checkpoint=folder, on_step=on_step)
    return toy_task.weights(module)


def test_a_finished_training_is_not_averaged_again(tmp_path: Path) -> None:
    assert toy_task.same(cut_off(tmp_path / "c", 0), cut_off(tmp_path / "c", 0))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda key, tensor: None, "damaged .it lacks the mean of the weights"),
        (lambda key, tensor: None if key == "mean.parameter.head.bias" else tensor, "does not fit the model"),
        (lambda key, tensor: tensor.flatten(), "does not fit the model"),
    ],
)
def test_refuses_a_checkpoint_without_its_mean(
    tmp_path: Path, damage: Callable[[str, Tensor], Tensor | None], sentence: str
) -> None:
    folder = tmp_path / "c"
    with pytest.raises(Killed):
        cut_off(folder, 7)
    state = load_file(folder / "state.safetensors")
    damaged = {key: damage(key, tensor) if key.startswith("mean.") else tensor for key, tensor in state.items()}
    save_file({key: tensor for key, tensor in damaged.items() if tensor is not None}, folder / "state.safetensors")
    record = json.loads((folder / "state.json").read_text())
    record["sha256"] = hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()
    (folder / "state.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=sentence):
        cut_off(folder, 0)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_refuses_a_share_that_is_none(wrong: float) -> None:
    with pytest.raises(UserError, match="average_last must be at"):
        TrainingConfig(average_last=wrong)


def test_refuses_patience_with_it() -> None:
    with pytest.raises(UserError, match="average_last must be 0 where patience is set"):
        TrainingConfig(average_last=0.5, patience=2)
