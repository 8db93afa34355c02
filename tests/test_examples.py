"""The examples for a training loop of one's own run as they stand, and what they say holds."""

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_loop.py"))["main"]()
    said = capsys.readouterr().out
    accuracies = dict(re.findall(r"(\w+): .* accuracy ([\d.]+)", said))
    assert set(accuracies) == {"full", "smallest"}
    assert all(float(value) > 0.9 for value in accuracies.values()), said
    full, smallest = (int(count.replace(",", "")) for count in re.findall(r"([\d,]+) weights", said))
    assert smallest < full / 2


@pytest.fixture(scope="module")
def hf_trainer() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "hf_trainer.py"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hf_trainer(hf_trainer: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf_trainer["main"](str(tmp_path))
    said = capsys.readouterr().out
    (loss,) = re.findall(r"full: loss ([\d.]+)", said)
    assert float(loss) < 0.3, said
    assert "smallest: 6,770 weights" in said


@pytest.mark.filterwarnings("ignore")
def test_accumulated_gradients_are_those_of_the_whole_batch(hf_trainer: dict[str, Any], tmp_path: Path) -> None:
    from transformers import TrainingArguments

    rows = hf_trainer["sentences"](16, np.random.default_rng(0))
    gradients = []
    for size, steps in ((16, 1), (4, 4)):
        supernet = hf_trainer["make_supernet"]()
        for part in supernet.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            learning_rate=1.0,
            max_grad_norm=0.0,
            optim="sgd",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            remove_unused_columns=False,
            label_names=["labels"],
            disable_tqdm=True,
        )
        before = {name: weight.clone() for name, weight in supernet.state_dict().items()}
        hf_trainer["SupernetTrainer"](supernet, arguments, train_dataset=rows).train()
        gradients.append({name: weight - before[name] for name, weight in supernet.state_dict().items()})
    assert max(change.abs().max() for change in gradients[0].values()) > 1e-3
    for name, change in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], change, atol=1e-5, rtol=1e-4)
