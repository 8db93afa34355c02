"""A run that is killed and started again ends with the same bits; a checkpoint of another run is refused."""

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import forked
import pytest
import torch
from forked import Forked
from safetensors.torch import load_file
from torch import nn

from nas.errors import UserError
from nas.learning.instatune import InstaTuneConfig, instatune
from nas.learning.optimizer import Sgd
from nas.learning.schedule import Cosine
from nas.learning.training import History, Step, TrainingConfig, TrainingFailed, fine_tune, fit
from nas.settings import TrainingSettings
from tests import toy_images, toy_task

CONFIG = InstaTuneConfig(steps=14, batch_size=8, learning_rate=1e-3, checkpoint_every_s=0)


class Killed(Exception):
    pass


def kill_at(step: int):
    def on_step(done: Step) -> None:
        if done.step == step:
            raise Killed

    return on_step


def run(folder: Path | None, config: InstaTuneConfig = CONFIG, kill: int = 0, seed: int = 0):
    supernet = toy_task.supernet(seed)
    try:
        return instatune(supernet, toy_task.split(50), config, checkpoint=folder, on_step=kill_at(kill)), supernet
    except Killed:
        return None, supernet


@pytest.mark.parametrize("freeze", [False, True])
def test_a_resumed_run_is_bit_identical(tmp_path: Path, freeze: bool) -> None:
    config = replace(CONFIG, freeze_embeddings=freeze)
    history, whole = run(None, config)
    for kill in (4, 9):
        assert run(tmp_path / "c", config, kill)[0] is None
    resumed, supernet = run(tmp_path / "c", config)
    assert toy_task.same(toy_task.weights(whole), toy_task.weights(supernet))
    assert [step.loss for step in resumed.steps] == [step.loss for step in history.steps]
    again, supernet = run(tmp_path / "c", config, kill=1)
    assert again == resumed
    assert toy_task.same(toy_task.weights(whole), toy_task.weights(supernet))


class Count:
    """A loss that depends on how often it was called, and an evaluation that does."""

    def __init__(self) -> None:
        self.calls = 0

    def state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def restore(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]

    def loss_of(self, forward, batch, targets, step: int) -> torch.Tensor:
        self.calls += 1
        return IMAGES.task.loss(forward(**batch), targets) / self.calls


IMAGES = toy_images.split(30)
MODES = {
    "plain": {},
    "accumulate": {"accumulate": 3},
    "layer decay": {"layer_decay": 0.7},
    "bf16": {"mixed_precision": "bf16"},
    "augment": {"augment": True},
    "evaluations": {"evaluate_every": 3},
    "early stop": {"patience": 2, "evaluate_every": 2},
}
MODES["all"] = {name: value for mode in MODES.values() for name, value in mode.items()}
MODES |= {
    "sgd": {"optimizer": Sgd(0.9, nesterov=True), "schedule": Cosine(), "clip_norm": math.inf},
    "sgd without momentum": {"optimizer": Sgd(0.0)},
}
VALUES = {2: 0.1, 3: 0.1, 4: 0.5, 6: 0.4, 8: 0.3}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_resumes_bit_by_bit(tmp_path: Path, mode: str) -> None:
    config = TrainingConfig(steps=11, batch_size=8, learning_rate=1e-2, checkpoint_every_s=0, **MODES[mode])
    evaluates = "evaluate_every" in MODES[mode]

    def train(folder: Path | None, kill: int) -> tuple[History | None, dict[str, torch.Tensor]]:
        module, memory = toy_images.network(), Count()
        validate = (lambda step: VALUES.get(step, 0.2) + memory.calls / 1e4) if evaluates else None
        how = {"checkpoint": folder, "on_step": kill_at(kill), "validate": validate, "memory": memory}
        try:
            return fit(module, IMAGES, memory.loss_of, config, **how), toy_task.weights(module)
        except Killed:
            return None, toy_task.weights(module)

    history, whole = train(None, 0)
    for kill in (3, 6):
        assert train(tmp_path / "c", kill)[0] is None
    for _ in range(2):  # the second time there is nothing left to do
        resumed, weights = train(tmp_path / "c", 0)
        assert toy_task.same(whole, weights)
        assert resumed.evaluations == history.evaluations
        assert [step.loss for step in resumed.steps] == [step.loss for step in history.steps]
    assert bool(history.evaluations) == evaluates
    assert (len(history.steps) < 11) == ("patience" in MODES[mode])


def test_an_evaluation_without_a_number_is_kept(tmp_path: Path) -> None:
    config = TrainingConfig(steps=3, batch_size=8, evaluate_every=1, patience=3)
    for _ in range(2):
        history = fine_tune(
            toy_images.network(), IMAGES, config, checkpoint=tmp_path / "c", validate=lambda step: float("nan")
        )
    assert [step for step, value in history.evaluations if value != value] == [1, 2, 3]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_divergent_run_keeps_the_state_before_the_bad_step(tmp_path: Path, precision: str) -> None:
    config = TrainingConfig(
        steps=9, batch_size=8, learning_rate=1e-2, accumulate=2, mixed_precision=precision, checkpoint_every_s=1e9
    )

    def train(folder: Path | None, bad: int) -> dict[str, torch.Tensor]:
        module, memory = toy_images.network(), Count()

        def loss_of(forward, batch, targets, step: int) -> torch.Tensor:
            return memory.loss_of(forward, batch, targets, step) * (float("inf") if step == bad else 1)

        fit(module, IMAGES, loss_of, config, checkpoint=folder, memory=memory)
        return toy_task.weights(module)

    with pytest.raises(TrainingFailed, match="step 5 of 9"):
        train(tmp_path / "c", 5)
    assert len(json.loads((tmp_path / "c" / "state.json").read_text())["history"]) == 4
    assert toy_task.same(train(tmp_path / "c", 0), train(None, 0))


def test_only_weights_and_json_are_written(tmp_path: Path) -> None:
    run(tmp_path / "c", kill=2)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["c", "state.json", "state.safetensors"]


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("configuration", {"config": replace(CONFIG, learning_rate=2e-3)}),
        ("configuration", {"config": replace(CONFIG, optimizer=Sgd())}),
        ("configuration", {"config": replace(CONFIG, schedule=Cosine())}),
        ("model", {"seed": 1}),
    ],
)
def test_refuses_the_checkpoint_of_another_run(tmp_path: Path, what: str, arguments: dict) -> None:
    run(tmp_path / "c", kill=3)
    with pytest.raises(UserError, match=f"another {what}"):
        run(tmp_path / "c", **arguments)


def test_refuses_the_checkpoint_of_other_data(tmp_path: Path) -> None:
    run(tmp_path / "c", kill=3)
    with pytest.raises(UserError, match="another data;"):
        instatune(toy_task.supernet(), toy_task.split(51), CONFIG, checkpoint=tmp_path / "c")


def test_checkpoints_of_runs_before_optimizers_were_settings_hold() -> None:
    settings = {field.name for field in fields(TrainingSettings)} | {"clip_norm", "seed"}
    recorded = settings - {"checkpoint_every_s", "trackers"}
    assert set(json.loads(TrainingConfig().identity())) == recorded
    told = json.loads(TrainingConfig(optimizer=Sgd(0.5)).identity())
    assert set(told) == recorded | {"optimizer"}
    assert told["optimizer"] == "Sgd(momentum=0.5, nesterov=False, decay_all=False)"


def test_settings_without_influence_may_change(tmp_path: Path) -> None:
    run(tmp_path / "c", kill=3)
    resumed, supernet = run(tmp_path / "c", replace(CONFIG, checkpoint_every_s=60, device="cpu"))
    assert len(resumed.steps) == 14
    assert toy_task.same(toy_task.weights(run(None)[1]), toy_task.weights(supernet))


def damage_json(folder: Path) -> None:
    (folder / "state.json").write_text("{")


def damage_weights(folder: Path) -> None:
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose_weights(folder: Path) -> None:
    (folder / "state.safetensors").unlink()


def other_version(folder: Path) -> None:
    meta = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(meta | {"version": 99}))


def wrong_history(folder: Path) -> None:
    meta = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(meta | {"history": [1]}))


@pytest.mark.parametrize("damage", [damage_json, damage_weights, lose_weights, other_version, wrong_history])
def test_refuses_a_damaged_checkpoint_and_leaves_the_model(tmp_path: Path, damage) -> None:
    run(tmp_path / "c", kill=3)
    damage(tmp_path / "c")
    supernet = toy_task.supernet()
    before = toy_task.weights(supernet)
    with pytest.raises(UserError, match="damaged"):
        instatune(supernet, toy_task.split(50), CONFIG, checkpoint=tmp_path / "c")
    assert toy_task.same(before, toy_task.weights(supernet))
    assert set(vars(supernet)) == set(vars(toy_task.supernet()))


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    run(tmp_path / "c", kill=5)
    (tmp_path / "c").rename(tmp_path / ".c.old")
    supernet = run(tmp_path / "c")[1]
    assert toy_task.same(toy_task.weights(run(None)[1]), toy_task.weights(supernet))


PROGRAM = """
import sys, time
from pathlib import Path
from safetensors.torch import save_model
from tests import test_checkpoint
folder, mode, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
module = test_checkpoint.killable(mode)(folder / "c", lambda step: (print(step.step, flush=True), time.sleep(pause)))
save_model(module, folder / "done.safetensors")
"""


def killable(mode: str) -> Callable[[Path | None, Callable[[Step], None] | None], nn.Module]:
    """A run to be killed: plain InstaTune, or a loss with a memory and all modes at once."""

    def tuned(folder: Path | None, on_step: Callable[[Step], None] | None) -> nn.Module:
        supernet = toy_task.supernet()
        instatune(supernet, toy_task.split(50), CONFIG, checkpoint=folder, on_step=on_step)
        return supernet

    def fitted(folder: Path | None, on_step: Callable[[Step], None] | None) -> nn.Module:
        module, memory, settings = toy_images.network(), Count(), MODES["all"] | {"patience": 9}
        config = TrainingConfig(steps=14, batch_size=8, learning_rate=1e-2, checkpoint_every_s=0, **settings)
        how = {"checkpoint": folder, "on_step": on_step, "validate": lambda step: VALUES.get(step, 0.2)}
        fit(module, IMAGES, memory.loss_of, config, memory=memory, **how)
        return module

    return {"instatune": tuned, "all": fitted}[mode]


def _last_line(written: str) -> int:
    """The number on the last whole line; 0 before the first."""
    lines = written.rpartition("\n")[0].split()
    return int(lines[-1]) if lines else 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", [pytest.param("instatune", marks=pytest.mark.exhaustive), "all"])
def test_kill_minus_nine(tmp_path: Path, mode: str) -> None:
    command = ["-c", PROGRAM, str(tmp_path), mode]
    root = Path(__file__).parent.parent
    for step in (3, 8):
        running = Forked([*command, "0.2"], cwd=root)
        while running.poll() is None and _last_line(running.out()) < step:
            time.sleep(0.005)
        time.sleep(0.01 * step)
        running.send_signal(signal.SIGKILL)
        assert running.finish(60).status == -signal.SIGKILL
    assert not (tmp_path / "done.safetensors").exists()
    assert forked.run([*command, "0"], cwd=root).status == 0
    found, whole = load_file(tmp_path / "done.safetensors"), killable(mode)(None, None)
    assert found
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in found.items())
