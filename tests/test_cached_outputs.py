"""A strong teacher's outputs on disk: those that it would give again, once for every row, whatever kills the pass."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nas.data.split import Split
from nas.errors import UserError
from nas.learning.checkpoint import model_fingerprint
from nas.learning.instatune import InstaTuneConfig, instatune
from nas.learning.teachers import cached_outputs
from nas.learning.teachers.cached_outputs import CachedOutputs, RowsWithOutputs, cached_bytes, unpacked
from nas.learning.teachers.distillation import planned_bytes
from nas.learning.teachers.hidden_distance import hidden_distance
from nas.learning.teachers.outputs import OutputsOf, TeacherOutputs, with_hidden_states
from nas.learning.training import Batch
from search_spaces import Space, Supernet
from search_spaces.weights import load_tensors, save_tensors
from tests import toy_blocks, toy_images, toy_tags, toy_task

HIGH = InstaTuneConfig(steps=12, batch_size=8, learning_rate=1e-3, distillation="high-cost", hidden_weight=10.0)
NAMED = {"teacher": "one"}


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_outputs, "_ROWS", 8)
    monkeypatch.setattr(cached_outputs, "_AT_ONCE", 3)


def texts() -> tuple[Split, nn.Module, nn.Module]:
    return toy_task.split(30), toy_task.bert(), toy_task.bert(seed=1)


def images() -> tuple[Split, nn.Module, nn.Module]:
    return toy_images.split(30), toy_images.network(), toy_images.network(seed=1)


def outputs_of_teacher(teacher: nn.Module, model: nn.Module, rows: Split) -> OutputsOf:
    def logits_of(batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            output = teacher(**batch)
        return output if isinstance(output, torch.Tensor) else output.logits

    return with_hidden_states(teacher, logits_of, hidden_distance(model, teacher, rows, 0))


def rows_run(teacher: nn.Module) -> list[int]:
    """The numbers of rows of the teacher's batches from now on."""
    seen: list[int] = []
    teacher.register_forward_hook(
        lambda module, args, kwargs, _: seen.append(len(next(iter(kwargs.values())))), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("kind", [texts, images])
def test_rows_come_with_the_outputs_of_the_teacher(kind: Callable, tmp_path: Path) -> None:
    rows, model, teacher = kind()
    outputs_of = outputs_of_teacher(teacher, model, rows)
    outputs = CachedOutputs(tmp_path / "k", rows, NAMED)
    outputs.fill(outputs_of)
    indices = np.array([7, 0, 29, 7, 11])
    inputs, found = unpacked(RowsWithOutputs(rows, outputs).batch(indices))
    expected, batch = outputs_of(rows.batch(indices)), rows.batch(indices)
    assert inputs.keys() == batch.keys()
    assert all(torch.equal(inputs[name], batch[name]) for name in batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert found.hidden.keys() == expected.hidden.keys() != set()
    for boundary, state in expected.hidden.items():
        if "attention_mask" in batch:
            state = state * batch["attention_mask"][..., None]
        torch.testing.assert_close(found.hidden[boundary].float(), state, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", [texts, images])
def test_the_bytes_are_known_before(kind: Callable, tmp_path: Path) -> None:
    rows, model, teacher = kind()
    outputs_of, pair = outputs_of_teacher(teacher, model, rows), rows.batch([0, 29])
    outputs = CachedOutputs(tmp_path / "k", rows, NAMED)
    outputs.fill(outputs_of)
    wide = sum(path.stat().st_size for path in (tmp_path / "k").glob("*.safetensors"))
    expected = cached_bytes(outputs_of(pair), pair, rows)
    # Beside them each file has a header, and the lengths of its rows.
    assert expected < wide < expected + 4 * 1000


def test_what_is_padded_without_a_mask_is_not_cached() -> None:
    rows = toy_tags.split((1, 2, 3))
    batch = rows.batch([0, 2])
    assert cached_bytes(TeacherOutputs(toy_tags.network()(**batch)), batch, rows) is None


def test_a_pass_that_is_killed_goes_on(tmp_path: Path) -> None:
    rows, model, teacher = texts()
    outputs_of = outputs_of_teacher(teacher, model, rows)
    CachedOutputs(tmp_path / "whole", rows, NAMED).fill(outputs_of)
    calls: list[int] = []

    def dies(batch: Batch) -> TeacherOutputs:
        calls.append(len(batch["input_ids"]))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return outputs_of(batch)

    with pytest.raises(KeyboardInterrupt):
        CachedOutputs(tmp_path / "cut", rows, NAMED).fill(dies)
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) == 2
    again = rows_run(teacher)
    CachedOutputs(tmp_path / "cut", rows, NAMED).fill(outputs_of)
    assert sum(again) == 30 - 16
    found = [{path.name: path for path in (tmp_path / name).iterdir()} for name in ("whole", "cut")]
    assert found[0].keys() == found[1].keys() and len(found[0]) == 1 + 4
    for name, path in found[0].items():
        if path.suffix == ".safetensors":
            # Two passes in one process may differ in the last bit.
            torch.testing.assert_close(load_tensors(found[1][name]), load_tensors(path), rtol=1e-2, atol=1e-2)
        else:
            assert found[1][name].read_bytes() == path.read_bytes()


def test_processes_divide_the_files(tmp_path: Path) -> None:
    rows, model, teacher = texts()
    outputs_of, seen = outputs_of_teacher(teacher, model, rows), rows_run(teacher)
    for process in (0, 1):
        CachedOutputs(tmp_path / "k", rows, NAMED).fill(outputs_of, (process, 2))
    assert sum(seen) == 30
    CachedOutputs(tmp_path / "k", rows, NAMED).of(rows.batch(range(30)), np.arange(30))


def test_those_of_another_teacher_are_not_used(tmp_path: Path) -> None:
    rows, model, teacher = texts()
    CachedOutputs(tmp_path / "k", rows, NAMED).fill(outputs_of_teacher(teacher, model, rows))
    seen = rows_run(teacher)
    CachedOutputs(tmp_path / "k", rows, NAMED).fill(outputs_of_teacher(teacher, model, rows))
    before = len(seen)
    CachedOutputs(tmp_path / "k", rows, {"teacher": "other"}).fill(outputs_of_teacher(teacher, model, rows))
    assert sum(seen[before:]) >= 30


def test_names_on_disk_do_not_follow_names_of_classes(tmp_path: Path) -> None:
    """Else a training that was stopped would run its teacher again, or refuse what it finds."""
    rows, model, teacher = texts()
    instatune(Supernet(model, Space(())), rows, HIGH, teacher=teacher, kept=tmp_path / "k")
    assert json.loads((tmp_path / "k" / "outputs.json").read_text()) == {
        "teacher": model_fingerprint(teacher),
        "rows": rows.fingerprint(),
        "hidden states": "(('bert.encoder.layer.0', 'bert.encoder.layer.1'),)",
        "precision": "no",
    }
    tensors = load_tensors(tmp_path / "k" / "000003.safetensors")
    assert sorted(tensors) == ["lengths", "row:logits", "token:0.1", "token:0.2"]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def of_other_rows(path: Path) -> None:
    path.with_name("000000.safetensors").write_bytes(path.with_name("000003.safetensors").read_bytes())


def of_other_tensors(path: Path) -> None:
    tensors = load_tensors(path)
    tensors["token:logits of somebody"] = tensors.pop("row:logits")
    save_tensors({name: tensor.clone() for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize("spoil", [cut_off, of_other_rows, of_other_tensors, Path.unlink])
def test_a_damaged_file_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    rows, model, teacher = texts()
    outputs = CachedOutputs(tmp_path / "k", rows, NAMED)
    outputs.fill(outputs_of_teacher(teacher, model, rows))
    spoil(tmp_path / "k" / "000000.safetensors")
    with pytest.raises(UserError, match=r"000000.safetensors (is|cannot) .*; remove .*/k"):
        outputs.of(rows.batch(range(30)), np.arange(30))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_values_that_would_spoil_a_training_are_refused_before_it(tmp_path: Path, value: float) -> None:
    rows, model, teacher = texts()
    outputs, path = CachedOutputs(tmp_path / "k", rows, NAMED), tmp_path / "k" / "000002.safetensors"
    outputs.fill(outputs_of_teacher(teacher, model, rows))
    tensors = {name: tensor.clone() for name, tensor in load_tensors(path).items()}
    tensors["row:logits"][-1, 0] = value
    save_tensors(tensors, path)
    with pytest.raises(UserError, match=r"000002.safetensors must hold numbers of usual size.*; remove .*/k"):
        CachedOutputs(tmp_path / "k", rows, NAMED).fill(outputs_of_teacher(teacher, model, rows))


@pytest.mark.parametrize("kind", [texts, images])
def test_a_training_runs_every_row_through_the_teacher_once(kind: Callable, tmp_path: Path) -> None:
    supernet_of = toy_task.supernet if kind is texts else toy_images.supernet

    def run(folder: Path | None) -> tuple[int, list[float]]:
        rows, _, teacher = kind()
        seen = rows_run(teacher)
        hidden_distance(supernet_of().model, teacher, rows, 0)
        checked = sum(seen)
        history = instatune(supernet_of(), rows, HIGH, teacher=teacher, kept=folder)
        # Outputs are compared on one row, hidden states measured as before; a pair of rows says how much is kept.
        return sum(seen) - 2 * checked - 1, [step.loss for step in history.steps]

    again, losses = run(None)
    once, kept = run(tmp_path / "k")
    assert (again, once) == (90, 30 + 2)
    assert kept == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [({"teacher_gib": 0.0}, 30), ({"teacher_gib": 1e-6}, 30), ({"steps": 3}, 30), ({"augment": True}, 4)],
)
def test_what_saves_nothing_or_is_too_much_is_not_cached(tmp_path: Path, settings: dict, rows: int) -> None:
    train, model, teacher = toy_task.split(rows), toy_task.bert(), toy_task.bert(seed=1)
    config, distance = replace(HIGH, **settings), hidden_distance(model, teacher, train, HIGH.seed)
    assert planned_bytes(model, teacher, train, config.distillation_plan(rows), distance) == 0
    assert planned_bytes(model, teacher, train, replace(HIGH, steps=99).distillation_plan(rows), distance) > 0
    if not config.augment:
        instatune(toy_task.supernet(), train, config, teacher=teacher, kept=tmp_path / "k")
    assert not (tmp_path / "k").exists()


def test_hybrid_needs_them_in_the_first_steps_alone(tmp_path: Path) -> None:
    train, teacher = toy_task.split(30), toy_task.bert(seed=1)
    config = replace(HIGH, distillation="hybrid", hybrid_share=0.5)
    model = toy_task.bert()
    distance = hidden_distance(model, teacher, train, config.seed)
    assert not planned_bytes(model, teacher, train, replace(config, steps=7).distillation_plan(30), distance)
    histories = [
        instatune(toy_task.supernet(), train, config, teacher=teacher, kept=folder) for folder in (None, tmp_path / "k")
    ]
    assert (tmp_path / "k").exists()
    one, other = ([step.loss for step in history.steps] for history in histories)
    assert one == pytest.approx(other, rel=1e-3)


class Killed(Exception):
    pass


def test_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    """Killed during the pass of the teacher, then while it trains."""

    def run(name: str, kill: int | None = None, at_batch: int | None = None):
        def on_step(step):
            if step.step == kill:
                raise Killed

        supernet, teacher, batches = toy_task.supernet(), toy_task.bert(seed=1), []

        def dies(module, args, kwargs) -> None:
            batches.append(1)
            if len(batches) == at_batch:
                raise Killed

        teacher.register_forward_pre_hook(dies, with_kwargs=True)
        config = replace(HIGH, checkpoint_every_s=0, samples=2)
        place = {"checkpoint": tmp_path / name / "c", "kept": tmp_path / name / "k"}
        (tmp_path / name).mkdir(exist_ok=True)
        try:
            history = instatune(supernet, toy_task.split(30), config, teacher=teacher, on_step=on_step, **place)
        except Killed:
            return None
        return [step.loss for step in history.steps], toy_task.weights(supernet)

    losses, weights = run("whole")
    assert run("cut", at_batch=14) is None
    assert 0 < len(list((tmp_path / "cut" / "k").glob("*.safetensors"))) < 4
    assert run("cut", kill=5) is None
    resumed, again = run("cut")
    assert resumed == losses
    assert toy_task.same(weights, again)


def test_rows_of_two_stages_of_blocks(tmp_path: Path) -> None:
    supernet = toy_blocks.two_stacks(norm=True)
    teacher = toy_blocks.two_stacks(norm=True).model
    rows = toy_blocks.its_own_rows(teacher)
    histories = [
        instatune(toy_blocks.two_stacks(norm=True), rows, HIGH, teacher=teacher, kept=folder)
        for folder in (None, tmp_path / "k")
    ]
    assert supernet.space.size() > 1
    one, other = ([step.loss for step in history.steps] for history in histories)
    assert one == pytest.approx(other, rel=1e-3)
