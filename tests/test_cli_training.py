"""Flags of the fine-tuning: what they do to a run, and how a training ends that fails."""

import json
from pathlib import Path

import pytest
from conftest import Command
from test_bad_input import refused


def finetune(inputs: Path, run: Path, *flags: object) -> list[object]:
    return ["finetune", inputs / "model", "--data", inputs / "reviews.csv", "--out", run, "--json", *flags]


def test_a_diverging_loss_stops_the_run(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    """Without a warm-up, a rate of 1e30 makes the weights infinite in the first step, and the loss of the second."""
    run = tmp_path / "run"
    wild = ["--steps", 6, "--learning-rate", "1e30", "--warmup-share", 0, "--order", "none"]
    answer = nas_command(*finetune(inputs, run, *wild))
    refused(answer, "is not finite at step 2 of 6", 1)
    assert f"the checkpoint before it is kept in {run / 'checkpoint'}" in answer.err
    kept = json.loads((run / "checkpoint" / "state.json").read_text(encoding="utf-8"))
    assert len(kept["history"]) == 1
    assert not (run / "supernet").exists()
    refused(nas_command("search", run), "is not finished")


def test_flags_are_part_of_the_request(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["--steps", 3, "--drop-order", "importance", "--order", "none", "--width", "0.5,1.0", "--depth", "3,4"]
    flags += ["--layer-decay", "0.8", "--label-smoothing", "0.1", "--accumulate", 2, "--heads", "none"]
    answer = nas_command(*finetune(inputs, run, *flags))
    assert answer.status == 0, answer.err
    asked = json.loads((run / "run.json").read_text(encoding="utf-8"))["asked"]
    assert (asked["layer_decay"], asked["accumulate"], asked["drop_order"]) == (0.8, 2, "importance")
    choices = {choice["name"] for choice in json.loads((run / "supernet" / "space.json").read_text())["choices"]}
    assert {"depth", "width", "ffn.0"} <= choices
    assert not any(name.startswith("heads") for name in choices)
    refused(nas_command(*finetune(inputs, run, *flags, "--layer-decay", "0.9")), "was begun with layer-decay 0.8")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--layer-decay", 0], "layer_decay must be above 0"),
        (["--label-smoothing", 1], "label_smoothing must be below 1"),
        (["--accumulate", 33], "accumulate must be at most batch_size"),
        (["--warmup-share", 2], "warmup_share must be at most 1"),
        (["--patience", 0], "patience must be at least 1"),
        (["--channels", "wide"], "--channels must be numbers"),
        (["--mixed-precision", "fp8"], "--mixed-precision"),
    ],
)
def test_wrong_flags(nas_command: Command, inputs: Path, tmp_path: Path, flags: list[object], sentence: str) -> None:
    refused(nas_command(*finetune(inputs, tmp_path / "run", *flags)), sentence)
    assert not (tmp_path / "run").exists()
