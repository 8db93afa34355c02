"""What every runtime must do: compute what the module computes, at any batch and length, on fixed threads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from hardware import Backend, ConversionError, OnnxRuntimeBackend, PyTorchBackend
from hardware.backend import first_output, relative_difference
from hardware.onnx import other_size

BACKENDS: list[Callable[[], Backend]] = [PyTorchBackend, OnnxRuntimeBackend]


class Convolutional(nn.Module):
    """Positional input, plain tensor output, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(image)
        return out


def _text(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[-1, tokens // 2 :] = 0
    return {"input_ids": torch.randint(0, 30, (rows, tokens)), "attention_mask": mask}


def _bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=3,
        initializer_range=0.5,
        max_position_embeddings=32,
    )
    model: nn.Module = BertForSequenceClassification(config)
    return model


@pytest.mark.parametrize("make", BACKENDS)
def test_text_at_other_batches_and_lengths(
    make: Callable[[], Backend], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module, backend = _bert().train(), make()
    path = backend.convert(module, _text(1, 8), tmp_path)
    assert module.training or make is PyTorchBackend
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert capfd.readouterr().out == ""
    run = backend.load(path, threads=1)
    module.eval()
    for inputs in (_text(1, 8), _text(3, 20), _text(2, 32)):
        expected = module(**inputs).logits.detach()
        assert relative_difference(expected, run(**inputs)) < 1e-4


@pytest.mark.parametrize("make", BACKENDS)
def test_positional_images(make: Callable[[], Backend], tmp_path: Path) -> None:
    module, backend = Convolutional().eval(), make()
    run = backend.load(backend.convert(module, (torch.randn(2, 3, 8, 8),), tmp_path))
    image = torch.randn(5, 3, 8, 8)
    assert relative_difference(module(image).detach(), run(image)) < 1e-4


@pytest.mark.parametrize("make", BACKENDS)
def test_threads_of_torch_are_put_back_and_missing_files_refused(make: Callable[[], Backend], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    backend = make()
    backend.load(backend.convert(Convolutional().eval(), (torch.randn(2, 3, 8, 8),), tmp_path), threads=before + 1)(
        torch.randn(2, 3, 8, 8)
    )
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="convert"):
        backend.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="precision"):
        backend.load(next(tmp_path.iterdir()), precision=torch.float16)


class Data(nn.Module):
    """A branch on values, which no graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot export"):
        OnnxRuntimeBackend().convert(Data(), (torch.randn(2, 3),), tmp_path)
    assert list(tmp_path.iterdir()) == []


class Centred(nn.Module):
    """Something that the exporter fixes: the number of tokens at export."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.float().sum(1, keepdim=True) / float(int(ids.shape[1]) if not torch.compiler.is_exporting() else 8)


def test_outputs_that_differ_at_another_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="differ"):
        OnnxRuntimeBackend().convert(Centred(), (torch.ones(2, 8, dtype=torch.long),), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_size_changes_batch_and_length_only() -> None:
    text = other_size(_text(2, 8))
    assert isinstance(text, dict)
    assert {name: tuple(value.shape) for name, value in text.items()} == {
        "input_ids": (3, 5),
        "attention_mask": (3, 5),
    }
    images = other_size((torch.zeros(2, 3, 8, 8),))
    assert isinstance(images, tuple)
    assert images[0].shape == (3, 3, 8, 8)


def test_first_output() -> None:
    one = torch.ones(1)
    assert first_output(one) is one
    assert first_output({"hidden": torch.zeros(1), "logits": one}) is one
    assert first_output((one, None)) is one
    with pytest.raises(ValueError, match="must be or hold a tensor"):
        first_output({"loss": None})
