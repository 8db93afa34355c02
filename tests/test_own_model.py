"""Networks of the user's own: made and loaded, the head alone made new, and one sentence for what does not fit."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nas.data.pixels import PlainImages
from nas.data.tasks import CLASSIFICATION
from nas.errors import UserError
from nas.networks.loading import load_network
from nas.networks.own_model import check_outputs, own_model, own_preprocessor
from nas.networks.pretrained import example_inputs, load_preprocessor, save_preprocessor
from nas.settings import ModelSettings
from tests import toy_task

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    image_size = 8

    def __init__(self, classes=5):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, classes)

    def forward(self, pixels):
        return self.head(self.body(pixels))


class Words(nn.Module):
    def forward(self, input_ids, attention_mask):
        return input_ids


class Blind(nn.Module):
    def forward(self, *inputs):
        return inputs


class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.last.weight = self.first.weight


def five():
    return Net()


def by_name(*, classes=5):
    return Net(classes)


def broken(classes):
    raise RuntimeError("no such thing\\nsecond line")


def number(classes):
    return classes
"""
NAMES = iter(range(1000))


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, a new one for every test."""
    name = f"own_networks_{next(NAMES)}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


def saved(spec: str, path: Path, outputs: int = 5, change: Callable[[dict], None] = lambda state: None) -> Path:
    state = toy_task.weights(own_model(spec, None, outputs, seed=7))
    change(state)
    save_file(state, path)
    return path


def test_a_factory_is_imported_from_the_current_folder_and_told_the_outputs(networks: str) -> None:
    before, state = list(sys.path), torch.get_rng_state()
    first, again, other = (own_model(f"{networks}:Net", None, 3, seed=seed) for seed in (0, 0, 1))
    assert sys.path == before
    assert torch.equal(torch.get_rng_state(), state)
    assert first.head.out_features == 3
    assert not first.training
    assert toy_task.same(toy_task.weights(first), toy_task.weights(again))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_weights_are_loaded_bit_for_bit(networks: str, tmp_path: Path) -> None:
    path = saved(f"{networks}:Net", tmp_path / "a.safetensors")
    said: list[str] = []
    module = own_model(f"{networks}:Net", path, 5, say=said.append)
    assert toy_task.same(toy_task.weights(module), load_file(path))
    assert said == []
    uncounted = {name: tensor for name, tensor in load_file(path).items() if "num_batches" not in name}
    save_file(uncounted, tmp_path / "uncounted.safetensors")
    found = own_model(f"{networks}:Net", tmp_path / "uncounted.safetensors", 5)
    assert toy_task.same(toy_task.weights(found), load_file(path))
    tied = {"first.weight": torch.eye(3), "first.bias": torch.zeros(3), "last.bias": torch.ones(3)}
    save_file(tied, tmp_path / "tied.safetensors")
    assert torch.equal(own_model(f"{networks}:Tied", tmp_path / "tied.safetensors", 3).last.weight, torch.eye(3))


@pytest.mark.parametrize("factory", ["Net", "five", "by_name"])
def test_a_head_of_another_number_of_outputs_alone_is_made_new_and_that_is_said(
    networks: str, tmp_path: Path, factory: str
) -> None:
    path = saved(f"{networks}:Net", tmp_path / "a.safetensors")
    said: list[str] = []
    module = own_model(f"{networks}:{factory}", path, 2, say=said.append)
    assert said == [f"head of {networks}:{factory} has 5 outputs: it is made new for 2"]
    assert module.head.weight.shape == (2, 6)
    kept, file = toy_task.weights(module), load_file(path)
    assert all(torch.equal(kept[name], file[name]) for name in file if not name.startswith("head"))


def wider(state: dict) -> None:
    state["head.weight"] = torch.zeros(4, 7)


def other_body(state: dict) -> None:
    state["body.1.bias"], state["body.2.bias"] = torch.zeros(7), torch.zeros(7)


def without(state: dict) -> None:
    del state["body.1.bias"]


def with_more(state: dict) -> None:
    state["body.9.bias"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wider, r"head\.weight must have the shape \(5, 6\), the file has \(4, 7\)"),
        (other_body, r"body\.1\.bias must have the shape \(6,\), the file has \(7,\)"),
        (without, r"the file has no body\.1\.bias"),
        (with_more, r"the network has no body\.9\.bias"),
    ],
)
def test_weights_that_do_not_fit_name_the_first(networks: str, tmp_path: Path, change, message: str) -> None:
    path = saved(f"{networks}:Net", tmp_path / "a.safetensors", change=change)
    with pytest.raises(UserError, match=message):
        own_model(f"{networks}:Net", path, 5)


def test_files_that_are_no_weights(networks: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no")
    for name, message in (
        ("a.safetensors", "cannot be read"),
        ("none.safetensors", "cannot be read"),
        ("a.pt", "run code"),
    ):
        with pytest.raises(UserError, match=message):
            own_model(f"{networks}:Net", tmp_path / name, 5)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("broken", "broken cannot make a network: RuntimeError: no such thing$"),
        ("number", "must make a torch.nn.Module, it made int"),
        ("nothing", "cannot make a network: AttributeError"),
        ("", "named as module:factory"),
    ],
)
def test_a_factory_that_fails_gets_one_sentence(networks: str, factory: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        own_model(f"{networks}:{factory}", None, 5)


def test_a_module_that_is_not_there(networks: str) -> None:
    with pytest.raises(UserError, match="cannot make a network: ModuleNotFoundError"):
        own_model(f"{networks}_not:Net", None, 5)


# Preprocessing -------------------------------------------------------------------------------------------------------


def test_images_go_to_the_first_argument_in_the_size_of_the_network(networks: str, tmp_path: Path) -> None:
    module = own_model(f"{networks}:Net", None, 3)
    assert own_preprocessor(module, "image") == PlainImages("pixels", (8, 8))
    given = own_preprocessor(module, "image", image_size=(4, 6), mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    found = given.prepare([buffer.getvalue()], 0).batch([0])["pixels"][0].permute(1, 2, 0).numpy()
    assert found == pytest.approx((pixels / 255 - [0.1, 0.2, 0.3]) / [1, 0.5, 0.25], abs=1e-5)
    save_preprocessor(given, tmp_path)
    assert load_preprocessor(tmp_path, "image") == given


def test_texts_need_a_tokenizer(networks: str, tmp_path: Path) -> None:
    module = own_model(f"{networks}:Words", None, 3)
    save_preprocessor(toy_task.preprocessor(), tmp_path)
    assert own_preprocessor(module, "text", tokenizer=tmp_path).kind == "text"
    with pytest.raises(UserError, match="need --tokenizer"):
        own_preprocessor(module, "text")
    with pytest.raises(UserError, match="it has no input_ids"):
        own_preprocessor(own_model(f"{networks}:Net", None, 3), "text", tokenizer=tmp_path)


def test_images_without_a_size_or_a_name(networks: str) -> None:
    words, blind = (own_model(f"{networks}:{name}", None, 3) for name in ("Words", "Blind"))
    with pytest.raises(UserError, match="need --image-size"):
        own_preprocessor(words, "image")
    with pytest.raises(UserError, match="must name its first argument"):
        own_preprocessor(blind, "image")
    with pytest.raises(UserError, match="an image size is"):
        own_preprocessor(words, "image", image_size="big")
    with pytest.raises(UserError, match="at least 1"):
        own_preprocessor(words, "image", image_size=0)


def test_outputs_are_checked_once(networks: str) -> None:
    module = own_model(f"{networks}:Net", None, 3)
    inputs = example_inputs(module, "image", own_preprocessor(module, "image"))
    check_outputs(module, inputs, 3)
    with pytest.raises(UserError, match=r"must give 2 outputs .* gives the shape \(2, 3\)"):
        check_outputs(module, inputs, 2)
    with pytest.raises(UserError, match=r"must take pixels \(2, 3, 16, 16\), but it raised RuntimeError"):
        check_outputs(module, {"pixels": torch.zeros(2, 3, 16, 16)}, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ModelSettings(mean="7.5,0.5,0.5"), "--mean must be three numbers from 0 to 1, or one for grey"),
        (ModelSettings(mean="-0.5"), "--mean must be three numbers from 0 to 1, or one for grey"),
        (ModelSettings(mean="0.5,0.5"), "--mean must be three numbers from 0 to 1, or one for grey"),
        (ModelSettings(std="0.5,0,0.5"), "--std must be three numbers above 0, or one for grey"),
        (ModelSettings(std="1" * 400), "--std must be three numbers above 0, or one for grey"),
    ],
)
def test_means_and_deviations_out_of_range(networks: str, settings: ModelSettings, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_network(f"{networks}:Net", settings, ("a", "b"), "image", CLASSIFICATION, 0)
