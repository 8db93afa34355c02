"""`nas finetune` on decoders and on the image half of CLIP."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from test_cli_tasks import write_images
from test_models import decoder

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
_QUICK = ("--steps", 2, "--batch-size", 8, "--order", "none")


def test_a_decoder_as_it_is_published(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    data = ["--data", inputs / "reviews.csv", "--out", tmp_path / "run"]
    answer = nas_command("finetune", decoder(tmp_path / "llama"), *data, *_QUICK, "--json")
    assert answer.status == 0, answer.err
    config = json.loads((tmp_path / "run" / "supernet" / "config.json").read_text(encoding="utf-8"))
    assert (config["pad_token_id"], config["use_cache"]) == (3, False)


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_the_image_half_of_a_network_for_images_and_texts(nas_command: Command, tmp_path: Path, name: str) -> None:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        vision_config={**_SIZES, "image_size": 16, "patch_size": 8}, text_config={**_SIZES, "vocab_size": 50}
    )
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path / "model")
    _square(16, tmp_path / "model")
    data = ["--data", write_images(tmp_path / "images"), "--out", tmp_path / "run"]
    answer = nas_command("finetune", tmp_path / "model", *data, *_QUICK, "--json")
    assert answer.status == 0, answer.err
    space = json.loads((tmp_path / "run" / "supernet" / "space.json").read_text(encoding="utf-8"))
    assert {"heads.0", "ffn.0"} <= {choice["name"] for choice in space["choices"]}


def _square(side: int, folder: Path) -> None:
    from transformers import ViTImageProcessorPil

    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
