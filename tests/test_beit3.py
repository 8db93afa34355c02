"""BEiT-3: its published sizes, its forward against the formulas written out, and the checkpoints it takes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardware import cost
from search_spaces import space
from search_spaces.families.beit3 import (
    FAMILY,
    Beit3Config,
    Beit3ForImageClassification,
    Beit3ForVisualQuestionAnswering,
    base_classifier,
    base_vqa,
    load_official,
)
from tests.networks import randomised

TINY = Beit3Config(image_size=8, patch_size=4, vocabulary=40, width=32, layers=3, heads=4, ffn=48, text_rows=20)
Weights = dict[str, Tensor]


def classifier(config: Beit3Config = TINY, classes: int = 5) -> Beit3ForImageClassification:
    return randomised(Beit3ForImageClassification(config, classes))


def answerer() -> Beit3ForVisualQuestionAnswering:
    return randomised(Beit3ForVisualQuestionAnswering(TINY, 7))


def checkpoint(**changes: Tensor | None) -> Weights:
    """A pre-trained checkpoint: both experts, mask token, last norm, the head of another task."""
    weights = {name: value.clone() for name, value in answerer().state_dict().items() if name.startswith("beit3.")}
    weights |= {
        "beit3.vision_embed.mask_token": torch.zeros(1, 1, 32),
        "beit3.encoder.layer_norm.A.weight": torch.ones(32),
        "mlm_head.weight": torch.ones(40, 32),
    }
    weights |= {name: value for name, value in changes.items() if value is not None}
    return {name: value for name, value in weights.items() if name not in changes or changes[name] is not None}


def test_base_has_the_published_sizes() -> None:
    # 86.7 M (86.66) and, as the paper counts, 17.6 G; the official table has 87 M, and 228 M for VQA at 480 pixels.
    with torch.device("meta"):
        vision, both = base_classifier(), base_vqa()
    counted = cost(vision, {"pixel_values": torch.empty(1, 3, 224, 224)})
    assert counted.parameters == 86_661_352
    assert 17.56e9 <= counted.macs <= 17.62e9
    assert sum(parameter.numel() for parameter in both.parameters()) == pytest.approx(228e6, abs=0.5e6)


def layer(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    spread = x.var(-1, unbiased=False, keepdim=True) + 1e-5
    return (x - x.mean(-1, keepdim=True)) / spread.sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def written_out(weights: Weights, pixels: Tensor, ids: Tensor | None, length: int) -> Tensor:
    """Last states of one row by the formulas of the paper, token by token and head by head."""
    patches = pixels.unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).reshape(4, -1)
    projection = weights["beit3.vision_embed.proj.weight"].reshape(32, -1)
    image = torch.cat(
        [weights["beit3.vision_embed.cls_token"][0], patches @ projection.T + weights["beit3.vision_embed.proj.bias"]]
    )
    x, kinds = image + weights["beit3.encoder.embed_positions.A.weight"][2:], "AAAAA"
    if ids is not None:
        text = (
            weights["beit3.text_embed.weight"][ids] + weights["beit3.encoder.embed_positions.B.weight"][2:][: len(ids)]
        )
        x, kinds = torch.cat([x, text])[: 5 + length], "AAAAA" + "B" * length
    for number in range(3):
        path = f"beit3.encoder.layers.{number}"
        states = [norm(weights, f"{path}.self_attn_layer_norm.{kind}", row) for kind, row in zip(kinds, x, strict=True)]
        query, key, value = (
            torch.stack(
                [
                    layer(weights, f"{path}.self_attn.{name}.{kind}", row)
                    for kind, row in zip(kinds, states, strict=True)
                ]
            )
            for name in ("q_proj", "k_proj", "v_proj")
        )
        heads = [slice(8 * head, 8 * head + 8) for head in range(4)]
        seen = torch.cat([(query[:, h] @ key[:, h].T / 8**0.5).softmax(-1) @ value[:, h] for h in heads], -1)
        rows = []
        for kind, row, attended in zip(kinds, x, seen, strict=True):
            inner = norm(weights, f"{path}.self_attn.inner_attn_ln.{kind}", attended)
            row = row + layer(weights, f"{path}.self_attn.out_proj.{kind}", inner)
            wide = F.gelu(
                layer(weights, f"{path}.ffn.{kind}.fc1", norm(weights, f"{path}.final_layer_norm.{kind}", row))
            )
            wide = norm(weights, f"{path}.ffn.{kind}.ffn_layernorm", wide)
            rows.append(row + layer(weights, f"{path}.ffn.{kind}.fc2", wide))
        x = torch.stack(rows)
    return x


def test_classification_equals_the_formulas() -> None:
    model = classifier()
    weights, pixels = model.state_dict(), model.example_inputs()["pixel_values"]
    with torch.no_grad():
        for row, logits in zip(pixels, model(pixels), strict=True):
            pooled = norm(weights, "fc_norm", written_out(weights, row, None, 0)[1:].mean(0))
            assert torch.allclose(logits, layer(weights, "head", pooled), atol=1e-4)


def test_question_answering_equals_the_formulas_and_sees_no_padding() -> None:
    model = answerer()
    weights, inputs = model.state_dict(), model.example_inputs()
    with torch.no_grad():
        found = model(**inputs)
        for row, length in ((0, 6), (1, 4)):
            states = written_out(weights, inputs["pixel_values"][row], inputs["input_ids"][row], length)
            pooled = torch.tanh(layer(weights, "pooler.dense", norm(weights, "pooler.norm", states[0])))
            hidden = F.gelu(norm(weights, "head.1", layer(weights, "head.0", pooled)))
            assert torch.allclose(found[row], layer(weights, "head.3", hidden), atol=1e-4)
        whole = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
        assert torch.allclose(model(**whole)[0], found[0], atol=1e-5)
        assert not torch.allclose(model(**whole)[1], found[1], atol=1e-3)


def test_a_checkpoint_gives_its_vision_experts_to_a_classifier() -> None:
    weights, model = checkpoint(), classifier()
    assert load_official(model, weights) == ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
    for name, value in model.state_dict().items():
        assert not name.startswith("beit3.") or torch.equal(value, weights[name]), name


def test_a_checkpoint_gives_both_experts_and_a_head_of_the_same_answers() -> None:
    source, model = answerer().state_dict(), Beit3ForVisualQuestionAnswering(TINY, 7)
    assert load_official(model, {**checkpoint(), **source}) == ()
    assert all(torch.equal(value, source[name]) for name, value in model.state_dict().items())
    other = Beit3ForVisualQuestionAnswering(TINY, 9)
    assert load_official(other, {**checkpoint(), **source}) == ("head.3.weight", "head.3.bias")


def test_positions_of_another_image_size_are_interpolated() -> None:
    name = "beit3.encoder.embed_positions.A.weight"
    table = torch.randn(3 + 4, 32)
    table[3:] = 2.0
    larger = Beit3Config(**{**vars(TINY), "image_size": 16})
    model = classifier(larger)
    load_official(model, checkpoint(**{name: table}))
    loaded = model.state_dict()[name]
    assert loaded.shape == (3 + 16, 32)
    assert torch.equal(loaded[:3], table[:3])
    assert torch.allclose(loaded[3:], torch.full((16, 32), 2.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"beit3.encoder.layers.1.ffn.A.fc1.weight": None},
            r"must hold beit3\.encoder\.layers\.1\.ffn\.A\.fc1\.weight",
        ),
        (
            {"beit3.encoder.layers.0.self_attn.q_proj.A.weight": torch.ones(16, 32)},
            r"beit3\.encoder\.layers\.0\.self_attn\.q_proj\.A\.weight must have the shape \(32, 32\), got \(16, 32\)",
        ),
        (
            {"beit3.encoder.layers.3.ffn.A.fc1.weight": torch.ones(48, 32)},
            "which has no parameter beit3.encoder.layers.3",
        ),
        ({"beit3.encoder.embed_positions.A.weight": torch.ones(9, 32)}, "embed_positions.A.weight must have the shape"),
        ({"fc_norm.weight": torch.ones(8)}, "fc_norm.weight must have the shape"),
    ],
)
def test_a_checkpoint_of_other_sizes_is_refused(changes: dict[str, Tensor | None], message: str) -> None:
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_official(model, checkpoint(**changes))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size 4, got 10"):
        Beit3Config(image_size=10, patch_size=4)
    with pytest.raises(ValueError, match="width must be a multiple of the 5 heads, got 32"):
        Beit3Config(width=32, heads=5)
    with pytest.raises(ValueError, match="images must have 8 x 8 pixels, got 16 x 16"):
        classifier()(torch.zeros(2, 3, 16, 16))


def test_the_default_ranges_are_those_of_the_paper() -> None:
    config = Beit3Config(**{**vars(TINY), "width": 24, "heads": 12, "layers": 12})
    with torch.device("meta"):
        assert FAMILY.recognises(Beit3ForImageClassification(config, 5))
    assert FAMILY.ranges.depth == (11 / 12, 1.0)
    found = space(classifier(Beit3Config(**{**vars(TINY), "width": 24, "heads": 12, "layers": 6})))
    assert found["heads.0"].options == (6, 8, 10, 12)
    assert found["ffn.0"].options == (32, 40, 48)


def test_both_experts_have_features_of_their_own_and_share_their_heads() -> None:
    found = space(answerer(), heads=(2, 4), ffn=(24, 48))
    names = {choice.name for choice in found.choices}
    for block in range(3):
        assert {f"heads.{block}", f"ffn.{block}"} <= names
    # The answer is read off the class token: nothing comes of the last block's text tokens, so nothing judges a cut.
    assert {name for name in names if name.endswith(".B.fc1")} == {"ffn.0.ffn.B.fc1", "ffn.1.ffn.B.fc1"}
    sliced = {cut.parameter.removeprefix("beit3.encoder.layers.1.") for cut in found["heads.1"].cuts}
    experts = [("q_proj", "k_proj", "v_proj", "out_proj", "inner_attn_ln"), ("A", "B")]
    assert {f"self_attn.{name}.{kind}.weight" for name in experts[0] for kind in experts[1]} <= sliced
    assert "ffn.B.ffn_layernorm.weight" in {
        cut.parameter.removeprefix("beit3.encoder.layers.1.") for cut in found["ffn.1.ffn.B.fc1"].cuts
    }
