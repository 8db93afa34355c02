"""The card of an export: its lines read rows as this project does, and its sections run from any folder."""

import io
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_export import Convolutions, shake, text, uneven_bert
from torch import nn

from hardware.deployment import Deployment
from hardware.inputs import split as positions_and_names
from nas.data.pixels import ImagePreprocessor, PlainImages
from nas.data.tasks import CLASSIFICATION, Regression, Task, TokenClassification
from nas.data.tokens import TextPreprocessor
from nas.exporting.card import Card
from nas.exporting.folder import export
from nas.exporting.loaders import FOLDER, deployment_loader
from nas.exporting.network_files import NetworkClass
from nas.exporting.outputs import outputs
from nas.exporting.rows_to_inputs import made_up, reading
from nas.networks.pretrained import example_inputs, load_pretrained
from search_spaces.inputs import default_inputs
from tests import zoo
from tests.tiny import write_model

LONG = " ".join(["good film"] * 60)
MODEST = PlainImages("image", (8, 12), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def picture(seed: int, side: tuple[int, int] = (40, 25), orientation: int = 1) -> bytes:
    """A PNG of noise of another size than any network reads."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*side, 3), dtype=np.uint8)
    image, file = Image.fromarray(pixels), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


def made_by(lines: str, folder: Path, name: str, rows: str, **known: Any) -> Mapping[str, Any]:
    """The inputs that a card's lines make where its example of rows is replaced by other rows."""
    replaced, count = re.subn(rf"^{name} = \[.*\].*$", f"{name} = {rows}", lines, count=1, flags=re.MULTILINE)
    assert count == 1, lines
    values: dict[str, Any] = {"folder": str(folder), **known}
    exec(replaced, values)
    inputs: Mapping[str, Any] = values["inputs"]
    return inputs


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, TextPreprocessor, Path]:
    """A text network of at most 64 tokens, its preprocessor, and a folder with the files of this."""
    folder = tmp_path_factory.mktemp("texts")
    module, preprocessor = load_pretrained(write_model(folder / "model"), ("bad", "good"), "text")
    assert isinstance(preprocessor, TextPreprocessor)
    (folder / "saved").mkdir()
    preprocessor.save(folder / "saved")
    return module, preprocessor, folder / "saved"


def vit(channels: int = 3) -> tuple[nn.Module, ImagePreprocessor]:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = ViTConfig(**sizes, image_size=16, patch_size=8, num_channels=channels)
    processor = ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    )
    return shake(ViTForImageClassification(config)), ImagePreprocessor.of(processor, channels)


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "most"), [(None, 64), (16, 16), (500, 64)])
def test_texts_are_read_as_here(texts: tuple[nn.Module, TextPreprocessor, Path], asked: int | None, most: int) -> None:
    _, preprocessor, folder = texts
    found = reading(preprocessor, asked, CLASSIFICATION)
    assert found is not None and f"max_length={most}," in found.lines and f"after {most} tokens" in found.said
    rows = ["good", "a very bad plot", LONG]
    ours, theirs = (
        preprocessor.prepare(rows, asked or 128).batch([0, 1, 2]),
        made_by(found.lines, folder, "texts", repr(rows)),
    )
    assert ours.keys() == theirs.keys() and ours["input_ids"].shape == (3, most)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_words_are_read_as_here(texts: tuple[nn.Module, TextPreprocessor, Path]) -> None:
    _, preprocessor, folder = texts
    found = reading(preprocessor, 12, TokenClassification())
    assert found is not None and found.said.startswith("Words")
    rows = [("good", "film"), ("the", "plot", "was", "123")]
    ours = preprocessor.prepare(rows, 12).batch([0, 1])
    theirs = made_by(found.lines, folder, "texts", repr([list(row) for row in rows]))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_tokenizer_without_a_limit_cuts_nothing() -> None:
    endless = SimpleNamespace(model_max_length=int(1e30), init_kwargs={})
    found = reading(TextPreprocessor(endless))
    assert found is not None and "truncation" not in found.lines and "cut off" not in found.said


@pytest.mark.parametrize(
    "preprocessor",
    [
        vit(3)[1],
        vit(1)[1],
        MODEST,
        PlainImages("pixels", (9, 9), (0.3,), (0.7,)),
    ],
    ids=["processor", "grey processor", "plain", "plain grey"],
)
def test_images_are_read_as_here(preprocessor: ImagePreprocessor | PlainImages, tmp_path: Path) -> None:
    found, rows = reading(preprocessor), [picture(0), picture(1, (31, 70), orientation=6)]
    assert found is not None
    preprocessor.save(tmp_path)
    images = [Image.open(io.BytesIO(row)) for row in rows]
    ours, theirs = (
        preprocessor.prepare(rows, 0).batch([0, 1]),
        made_by(found.lines, tmp_path, "images", "given", given=images),
    )
    assert ours.keys() == theirs.keys()
    for name, pixels in ours.items():
        assert theirs[name].dtype == np.float32 and theirs[name].flags.c_contiguous
        np.testing.assert_allclose(theirs[name], pixels, rtol=1e-5, atol=1e-6)


def test_a_hostile_name_of_the_pixels_stays_a_name() -> None:
    name = 'x": 1}\nraise SystemExit\n{"'
    found, values = reading(replace(MODEST, name=name)), dict[str, Any]()
    assert found is not None
    exec(found.lines, values)
    assert list(values["inputs"]) == [name]


def test_the_numbers_of_images_are_said() -> None:
    said = [found.said for each in (vit(3)[1], MODEST) if (found := reading(each))]
    for part in (
        "colour (RGB)",
        "height 16, width 16",
        "divided by 255",
        "mean 0.4, 0.5, 0.6",
        "deviation 0.2, 0.3, 0.4",
    ):
        assert part in said[0]
    for part in ("height 8, width 12", "mean 0.4, 0.5, 0.6", "deviation 0.2, 0.25, 0.3"):
        assert part in said[1]
    cut = vit(3)[1]
    cut.processor.do_center_crop, cut.processor.crop_size = True, {"height": 14, "width": 14}
    cut.processor.do_normalize = False
    found = reading(cut)
    assert found is not None and "cut at the centre to height 14, width 14" in found.said
    assert "normalised" not in found.said


class Two(nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first + second


class Many(nn.Module):
    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return torch.cat(parts, 1)


@pytest.mark.parametrize(
    ("network", "inputs", "names"),
    [
        (Two(), (torch.zeros(2, 3), torch.zeros(2, 3)), ["first", "second"]),
        (Two(), {"second": torch.zeros(2, 3), "first": torch.zeros(2, 3)}, ["second", "first"]),
        (Many(), (torch.zeros(2, 3), torch.zeros(2, 1)), ["parts_0", "parts_1"]),
    ],
)
def test_unknown_rows_are_arrays_by_the_names_of_the_file(network: nn.Module, inputs: Any, names: list[str]) -> None:
    values: dict[str, Any] = {}
    exec(made_up(network, inputs).lines, values)
    args, kwargs = positions_and_names(inputs)
    shapes = [tuple(each.shape) for each in (*args, *kwargs.values())]
    assert [(name, value.shape) for name, value in values["inputs"].items()] == list(zip(names, shapes, strict=True))
    assert reading(object()) is None


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_made_up_texts_end_where_the_network_decides(name: str) -> None:
    network, values = zoo.CASES[name].build(), dict[str, Any]()
    exec(made_up(network, default_inputs(network)).lines, values)
    assert values["inputs"]["input_ids"].shape == values["inputs"]["attention_mask"].shape
    assert ((values["inputs"]["input_ids"] == network.config.eos_token_id).sum(1) == 1).all()
    network(**{name: torch.from_numpy(value) for name, value in values["inputs"].items()})


def test_the_packages_of_lines_are_those_that_they_import(texts: tuple[nn.Module, TextPreprocessor, Path]) -> None:
    found = [reading(each) for each in (texts[1], vit()[1], MODEST)] + [made_up(Two(), (torch.zeros(2, 3),) * 2)]
    for each in found:
        assert each is not None
        imported = re.findall(r"^(?:from|import) (\w+)", each.lines, re.MULTILINE)
        assert {name.replace("PIL", "Pillow") for name in imported} == set(each.needs)


@pytest.mark.parametrize(
    ("task", "part"),
    [
        (CLASSIFICATION, "largest logit"),
        (TokenClassification(), "first token"),
        (Regression(2.5, 0.125), "times 0.125 plus 2.5"),
        (None, ""),
    ],
)
def test_what_an_output_says_follows_from_the_task(task: Task | None, part: str) -> None:
    assert part in outputs(task) and bool(outputs(task)) == bool(part)


def test_the_device_of_the_figures_is_that_of_the_lines() -> None:
    deployment = Deployment(precision="bfloat16", device="cuda")
    lines = deployment_loader(deployment, "", NetworkClass("Network", True, False))
    assert '.to("cuda", torch.bfloat16)' in lines and '.to("cuda")' in lines
    assert '"cuda"' not in deployment_loader(
        replace(deployment, device="cpu"), "", NetworkClass("Network", True, False)
    )


# Running -------------------------------------------------------------------------------------------------------------


def sections(folder: Path) -> dict[str, str]:
    """The Python of every section of a card, by its heading."""
    parts = (folder / "README.md").read_text(encoding="utf-8").split("\n## ")[1:]
    blocks = {
        part.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL) for part in parts
    }
    return {heading: "\n".join(code) for heading, code in blocks.items() if code}


def runs_as_it_stands(folder: Path, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every section runs in the folder without a change, and names the folder once, at its top."""
    threads = torch.get_num_threads()
    with monkeypatch.context() as inside:
        inside.chdir(folder)
        for heading, code in sections(folder).items():
            assert code.count(FOLDER.strip()) == 1 and code.startswith(FOLDER.strip()), heading
            values: dict[str, Any] = {}
            exec(code, values)
            assert tuple(values["logits"].shape) == shape, heading
    torch.set_num_threads(threads)


def runs_elsewhere(folder: Path, shape: tuple[int, int]) -> None:
    """Every section runs in a fresh process of another folder, with another path in its first line."""
    check = f"\nimport sys\nassert tuple(logits.shape) == {shape}, logits.shape\nassert 'nas' not in sys.modules\n"
    for heading, code in sections(folder).items():
        lines = code.replace('folder = "."', f"folder = {str(folder)!r}", 1) + check
        done = subprocess.run([sys.executable, "-I", "-c", lines], cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, (heading, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "deployment",
    [
        Deployment("openvino", tokens=8),
        Deployment("openvino", "int8", tokens=8),
        Deployment("onnxruntime", tokens=8),
        Deployment(precision="bfloat16", tokens=8),
    ],
    ids=lambda each: f"{each.runtime} {each.precision}",
)
def test_the_examples_of_a_text_network_run(
    texts: tuple[nn.Module, TextPreprocessor, Path],
    deployment: Deployment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, preprocessor, _ = texts
    inputs = example_inputs(module, "text", preprocessor, tokens=8)
    calibration = [{name: value[:1] for name, value in inputs.items()}] * 4
    card = Card(classes=("bad", "good"), task=CLASSIFICATION, max_tokens=16)
    folder = export(
        module,
        tmp_path / "out",
        inputs,
        card=card,
        preprocessor=preprocessor,
        deployment=deployment,
        calibration=calibration,
    )
    said = (folder / "README.md").read_text(encoding="utf-8")
    assert "in their order: 0 `bad`, 1 `good`" in said and "cut off after 16 tokens" in said
    assert len(sections(folder)) == (2 if deployment.runtime == "pytorch" else 3)
    runs_as_it_stands(folder, (2, 2), monkeypatch)
    if deployment == Deployment("openvino", tokens=8):
        runs_elsewhere(folder, (2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "pytorch"])
def test_the_examples_of_an_image_network_run(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, preprocessor = vit()
    inputs = example_inputs(module, "image", preprocessor)
    folder = export(module, tmp_path / "out", inputs, preprocessor=preprocessor, deployment=Deployment(runtime))
    assert "0 `LABEL_0`, 1 `LABEL_1`" in (folder / "README.md").read_text(encoding="utf-8")
    runs_as_it_stands(folder, (1, 2), monkeypatch)
    if runtime == "openvino":
        runs_elsewhere(folder, (1, 2))


@pytest.mark.slow
def test_the_examples_of_ones_own_network_run_where_files_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = shake(Convolutions(width=5, blocks=1)), {"image": torch.randn(2, 3, 8, 12)}
    folder = export(network, tmp_path / "out", inputs, preprocessor=MODEST, deployment=Deployment("openvino"))
    assert list(sections(folder)) == ["Load it as it was measured: OpenVINO, float32", "Load it with ONNX Runtime"]
    runs_as_it_stands(folder, (1, 4), monkeypatch)


@pytest.mark.slow
def test_the_examples_run_without_a_preprocessor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(uneven_bert(), tmp_path / "out", text(), deployment=Deployment("openvino", tokens=8))
    runs_as_it_stands(folder, (2, 3), monkeypatch)
    plain = export(shake(Convolutions()), tmp_path / "plain", (torch.randn(2, 3, 8, 8),))
    runs_as_it_stands(plain, (2, 4), monkeypatch)
