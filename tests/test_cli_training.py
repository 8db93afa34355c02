"""Flags of the fine-tuning: what they do to a run, and how a training ends that fails."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Command
from test_bad_input import refused
from torch import nn

from nas.data.split import Split
from nas.errors import UserError
from nas.learning.instatune import InstaTuneConfig
from nas.learning.teachers.hidden_distance import hidden_distance
from search_spaces import Supernet, recorded


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


@pytest.mark.parametrize(
    "flags",
    [
        ["--distillation", "hybrid", "--sampling", "sandwich", "--order", "magnitude"],
        pytest.param(["--distillation", "high-cost", "--sampling", "pareto"], marks=pytest.mark.slow),
    ],
)
def test_a_teacher_is_fine_tuned_first(nas_command: Command, inputs: Path, tmp_path: Path, flags: list[object]) -> None:
    run = tmp_path / "run"
    answer = nas_command(*finetune(inputs, run, "--steps", 4, *flags))
    assert answer.status == 0, answer.err
    assert "Fine-tuning the teacher: 4/4" in answer.err
    ended = json.loads((run / "supernet" / "finetuned.json").read_text(encoding="utf-8"))
    assert [probe["step"] for probe in ended["probes"]] == [4]
    assert all(0 <= value <= 1 for value in (ended["probes"][0]["largest"], ended["probes"][0]["smallest"]))
    assert (run / "teacher" / "weights" / "model.safetensors").is_file()
    assert not (run / "teacher" / "checkpoint").exists()


def test_the_estimate_counts_the_teacher(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    answer = nas_command(*finetune(inputs, tmp_path / "run", "--steps", 6, "--distillation", "hybrid", "--dry-run"))
    assert answer.status == 0, answer.err
    estimate = json.loads(answer.out)
    assert estimate["steps"] == estimate["teacher"]["steps"] == 6
    assert estimate["teacher"]["seconds"] > 0
    assert not (tmp_path / "run").exists()


def test_the_estimate_says_what_is_kept_of_the_teacher(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    def mib(*flags: object) -> float:
        answer = nas_command(*finetune(inputs, tmp_path / "run", "--distillation", "high-cost", "--dry-run", *flags))
        assert answer.status == 0, answer.err
        return float(json.loads(answer.out)["teacher_outputs_mib"])

    outputs, states = mib("--epochs", 3), mib("--epochs", 3, "--hidden-weight", 10)
    assert 0 < outputs < 0.01 < states
    assert mib("--epochs", 3, "--teacher-gib", 0) == mib("--epochs", 1) == 0


def test_hidden_states_teach(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    run, flags = tmp_path / "run", ["--epochs", 3, "--distillation", "high-cost", "--hidden-weight", 10]
    answer = nas_command(*finetune(inputs, run, *flags))
    assert answer.status == 0, answer.err
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["asked"]["hidden_weight"] == 10
    assert not (run / "teacher-outputs").exists()
    refused(nas_command(*finetune(inputs, run, *flags[:-2])), "was begun with hidden-weight 10")


def test_the_teacher_has_the_order_of_the_features_between_blocks(
    nas_command: Command, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances = []

    def look(supernet: Supernet, train: Split, config: InstaTuneConfig, *, teacher: nn.Module, **rest: object) -> None:
        of, batch = hidden_distance(supernet.model, teacher, train, 0), train.batch(range(8))
        with recorded(supernet.model, of.stages) as own, recorded(teacher, of.stages) as other, torch.no_grad():
            supernet.model(**batch), teacher(**batch)
        distances.append(float(of(own[0], other[0], batch)))
        raise UserError("seen")

    monkeypatch.setattr("nas.runs.finetune.instatune", look)
    flags = ["--distillation", "high-cost", "--hidden-weight", 10, "--width", "0.5,1.0", "--steps", 4]
    refused(nas_command(*finetune(inputs, tmp_path / "run", *flags, "--learning-rate", "1e-6")), "seen")
    assert distances[0] < 0.01


def test_a_run_of_the_version_before_goes_on(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    """Its record and its checkpoint know nothing of hidden states."""
    run, flags = tmp_path / "run", ["--steps", 3, "--distillation", "high-cost", "--order", "none"]
    assert nas_command(*finetune(inputs, run, *flags)).status == 0
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for name in ("hidden_weight", "teacher_gib"):
        assert record["asked"].pop(name) is None
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    again = nas_command(*finetune(inputs, run, *flags))
    assert again.status == 0, again.err
    refused(nas_command(*finetune(inputs, run, *flags, "--hidden-weight", 10)), "was begun with hidden-weight None")


def test_a_teacher_of_ones_own(nas_command: Command, inputs: Path, finished: Path, tmp_path: Path) -> None:
    """The full network of an earlier run teaches another one; it is not trained again."""
    teacher = ["--steps", 2, "--distillation", "high-cost", "--teacher", finished / "supernet"]
    answer = nas_command(*finetune(inputs, tmp_path / "run", *teacher))
    assert answer.status == 0, answer.err
    assert "Fine-tuning the teacher" not in answer.err
    assert not (tmp_path / "run" / "teacher").exists()


def other_labels(teacher: Path) -> None:
    config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "spam", "1": "ham"}
    config["label2id"] = {"spam": 0, "ham": 1}
    (teacher / "config.json").write_text(json.dumps(config), encoding="utf-8")


def more_labels(teacher: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(teacher, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(teacher)


def no_head(teacher: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig.from_pretrained(teacher)).save_pretrained(teacher)


def other_words(teacher: Path) -> None:
    from transformers import BertTokenizerFast

    words = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "bad", "good"])
    (teacher / "vocab.txt").write_text(words, encoding="utf-8")
    (teacher / "tokenizer.json").unlink()
    BertTokenizerFast(str(teacher / "vocab.txt")).save_pretrained(teacher)


def no_config(teacher: Path) -> None:
    (teacher / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (other_labels, "output 0 is spam, the data's label is negative"),
        (more_labels, "must tell apart the 2 labels of the data, it has 3"),
        (no_head, "must be a network that was fine-tuned for this task"),
        (other_words, "must read rows as the model does"),
        (no_config, "with the config.json of a network"),
    ],
)
def test_teachers_that_do_not_fit(
    nas_command: Command, inputs: Path, finished: Path, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    teacher = Path(shutil.copytree(finished / "supernet", tmp_path / "teacher"))
    spoil(teacher)
    rows = (inputs / "reviews.csv").read_text(encoding="utf-8").splitlines()
    named = [rows[0], *(row[:-1] + ("positive" if row.endswith("1") else "negative") for row in rows[1:])]
    (tmp_path / "named.csv").write_text("\n".join(named) + "\n", encoding="utf-8")
    data = tmp_path / "named.csv" if spoil is other_labels else inputs / "reviews.csv"
    args = ["finetune", inputs / "model", "--data", data, "--out", tmp_path / "run", "--distillation", "hybrid"]
    refused(nas_command(*args, "--teacher", teacher), sentence)
    assert not (tmp_path / "run").exists()


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
        (["--teacher", "somewhere"], "--teacher needs --distillation high-cost or hybrid"),
        (["--hidden-weight", 10], "hidden_weight needs a strong teacher"),
        (["--hidden-weight", 0, "--distillation", "hybrid"], "hidden_weight must be above 0"),
        (["--teacher-gib", -1], "teacher_gib must be at least 0"),
        (["--augment"], "the data holds texts"),
        (["--samples", -1], "samples must be at least 0"),
        (["--patience", 0], "patience must be at least 1"),
        (["--channels", "wide"], "--channels must be numbers"),
        (["--mixed-precision", "fp8"], "--mixed-precision"),
    ],
)
def test_wrong_flags(nas_command: Command, inputs: Path, tmp_path: Path, flags: list[object], sentence: str) -> None:
    refused(nas_command(*finetune(inputs, tmp_path / "run", *flags)), sentence)
    assert not (tmp_path / "run").exists()
