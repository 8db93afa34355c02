"""BEiT-3 (arXiv 2208.10442): its Multiway Transformer in plain layers, with the parameter names of the official code.

Tokens of images and text go through one stack of blocks and attend to each other with the same heads, but each modality
has its own expert for every projection, layer norm and feed-forward network: A for vision, B for language. Each block
has sub-layer norms before its output projection and inside its feed-forward network (Magneto, arXiv 2210.06423).
Differs: there is no drop path and no mask token, which are needed only for training from scratch, and the classifier
has vision experts only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.families.family import Family
from search_spaces.families.structure import Ranges

# The position tables of the checkpoints begin with two unused rows (fairseq's padding convention).
_OFFSET = 2
_POSITIONS = "beit3.encoder.embed_positions.A.weight"
# Parameters of a checkpoint that no model here has: they are used in pre-training only, or by tasks with a final norm.
_UNUSED = ("beit3.vision_embed.mask_token", "beit3.encoder.layer_norm.")


@dataclass(frozen=True)
class Beit3Config:
    """The sizes of a BEiT-3; the defaults are those of the Base model at 224 pixels.

    Attributes:
        image_size: height and width of an image in pixels, a multiple of `patch_size`.
        patch_size: height and width of a patch in pixels.
        channels: number of channels of an image.
        vocabulary: number of different text tokens.
        width: number of features of a token.
        layers: number of blocks.
        heads: number of attention heads of a block; must divide `width`.
        ffn: number of hidden features of a feed-forward network.
        text_rows: rows of the table of text positions: two more than the longest text has tokens.

    Raises:
        ValueError: `image_size` is not a multiple of `patch_size`, or `width` not one of `heads`.
    """

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    vocabulary: int = 64010
    width: int = 768
    layers: int = 12
    heads: int = 12
    ffn: int = 3072
    text_rows: int = 1024

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size {self.patch_size}, got {self.image_size}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of the {self.heads} heads, got {self.width}")

    @property
    def image_tokens(self) -> int:
        """The number of tokens of an image: its patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


class Multiway(nn.Module):
    """A layer with one expert for each modality: `A` for the image tokens, which come first, `B` for the text tokens.

    Args:
        make: creates one expert.
        text: whether there is a language expert.
    """

    def __init__(self, make: Callable[[], nn.Module], text: bool) -> None:
        super().__init__()
        self.A = make()
        self.B = make() if text else None

    def forward(self, x: Tensor, images: int) -> Tensor:
        """Apply the experts to tokens (batch, length, features), the first `images` of which belong to the image."""
        if self.B is None:
            result: Tensor = self.A(x)
            return result
        return torch.cat([self.A(x[:, :images]), self.B(x[:, images:])], 1)


class FeedForward(nn.Module):
    """A feed-forward network with a sub-layer norm before its second linear layer."""

    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.ffn_layernorm = nn.LayerNorm(ffn)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, length, width) to the same shape."""
        result: Tensor = self.fc2(self.ffn_layernorm(F.gelu(self.fc1(x))))
        return result


class Attention(nn.Module):
    """Self-attention over all tokens, with a sub-layer norm before the output projection."""

    def __init__(self, config: Beit3Config, text: bool) -> None:
        super().__init__()
        width = config.width
        self.head_size = width // config.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Multiway(lambda: nn.Linear(width, width), text) for _ in range(4)
        )
        self.inner_attn_ln = Multiway(lambda: nn.LayerNorm(width), text)

    def forward(self, x: Tensor, images: int, mask: Tensor | None) -> Tensor:
        """Map tokens (batch, length, width) to the same shape.

        Args:
            x: the tokens.
            images: number of image tokens at the beginning.
            mask: (batch, 1, 1, length), true for tokens that may be attended to; None: all of them.
        """
        query, key, value = (
            project(x, images).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        result: Tensor = self.out_proj(self.inner_attn_ln(attended, images), images)
        return result


class Block(nn.Module):
    """A pre-norm transformer block: attention and a feed-forward network, each with a residual connection."""

    def __init__(self, config: Beit3Config, text: bool) -> None:
        super().__init__()
        self.self_attn = Attention(config, text)
        self.self_attn_layer_norm = Multiway(lambda: nn.LayerNorm(config.width), text)
        self.ffn = Multiway(lambda: FeedForward(config.width, config.ffn), text)
        self.final_layer_norm = Multiway(lambda: nn.LayerNorm(config.width), text)

    def forward(self, x: Tensor, images: int, mask: Tensor | None) -> Tensor:
        """Map tokens (batch, length, width) to the same shape; `images` and `mask` as in `Attention`."""
        x = x + self.self_attn(self.self_attn_layer_norm(x, images), images, mask)
        result: Tensor = x + self.ffn(self.final_layer_norm(x, images), images)
        return result


class VisionEmbedding(nn.Module):
    """Turns an image into tokens: a class token, then one token for each patch."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.proj = nn.Conv2d(config.channels, config.width, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map images (batch, channels, size, size) to tokens (batch, 1 + patches, width).

        Raises:
            ValueError: the images have another size than `image_size`.
        """
        if tuple(pixel_values.shape[2:]) != (self.image_size, self.image_size):
            size = " x ".join(str(length) for length in pixel_values.shape[2:])
            raise ValueError(f"images must have {self.image_size} x {self.image_size} pixels, got {size}")
        patches = self.proj(pixel_values).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1)


class Positions(nn.Module):
    """Tables of learned position embeddings; image tokens and text tokens are each counted from 0."""

    def __init__(self, config: Beit3Config, text: bool) -> None:
        super().__init__()
        self.A = nn.Embedding(config.image_tokens + _OFFSET, config.width)
        self.B = nn.Embedding(config.text_rows, config.width) if text else None


class Encoder(nn.Module):
    """Holds the position tables and the blocks; `Beit3.forward` runs them."""

    def __init__(self, config: Beit3Config, text: bool) -> None:
        super().__init__()
        self.embed_positions = Positions(config, text)
        self.layers = nn.ModuleList(Block(config, text) for _ in range(config.layers))


class Beit3(nn.Module):
    """The embeddings and the encoder, for images alone or, with language experts, for images and text together.

    Args:
        config: the sizes.
        text: whether there are language experts.
    """

    def __init__(self, config: Beit3Config, text: bool) -> None:
        super().__init__()
        self.vision_embed = VisionEmbedding(config)
        self.text_embed = nn.Embedding(config.vocabulary, config.width) if text else None
        self.encoder = Encoder(config, text)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Encode images, or images with texts.

        Args:
            pixel_values: (batch, channels, size, size).
            input_ids: (batch, text length); ignored without language experts.
            attention_mask: (batch, text length), 0 for padding; None: there is no padding.

        Returns:
            Tokens (batch, 1 + patches + text length, width), without a final norm.

        Raises:
            ValueError: the images have another size than `image_size`.
        """
        positions = self.encoder.embed_positions
        x: Tensor = self.vision_embed(pixel_values)
        batch, images = x.shape[:2]
        x = x + positions.A(torch.arange(_OFFSET, images + _OFFSET, device=x.device))
        mask = None
        if self.text_embed is not None and positions.B is not None and input_ids is not None:
            rows = torch.arange(_OFFSET, input_ids.shape[1] + _OFFSET, device=x.device)
            text = self.text_embed(input_ids) + positions.B(rows)
            if attention_mask is not None:
                # As in the official code: padding has embeddings of zero, and is not attended to either.
                text = text * attention_mask[..., None].to(text.dtype)
                seen = torch.ones(batch, images, dtype=torch.bool, device=x.device)
                mask = torch.cat([seen, attention_mask.bool()], 1)[:, None, None, :]
            x = torch.cat([x, text], 1)
        for block in self.encoder.layers:
            x = block(x, images, mask)
        return x


class Beit3ForImageClassification(nn.Module):
    """Image classifier: vision experts, the mean over the patch tokens, a norm and a linear layer."""

    main_input_name = "pixel_values"

    def __init__(self, config: Beit3Config, num_classes: int) -> None:
        super().__init__()
        self.beit3 = Beit3(config, text=False)
        self.fc_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, num_classes)
        self.apply(_initialise)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map images (batch, channels, size, size) to logits (batch, classes); ValueError for another image size."""
        logits: Tensor = self.head(self.fc_norm(self.beit3(pixel_values)[:, 1:].mean(1)))
        return logits

    def example_inputs(self) -> dict[str, Tensor]:
        """Two random images, always the same."""
        return {"pixel_values": _example_images(self.beit3.vision_embed)}


class Pooler(nn.Module):
    """Maps the class token through a norm, a linear layer and tanh."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.dense = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, length, width) to (batch, width)."""
        return torch.tanh(self.dense(self.norm(x[:, 0])))


class Beit3ForVisualQuestionAnswering(nn.Module):
    """Visual question answering as classification: an image and a question are encoded together by both experts."""

    main_input_name = "pixel_values"

    def __init__(self, config: Beit3Config, num_answers: int) -> None:
        super().__init__()
        width = config.width
        self.beit3 = Beit3(config, text=True)
        self.pooler = Pooler(width)
        self.head = nn.Sequential(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, num_answers)
        )
        self.apply(_initialise)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map images and questions, given as to `Beit3.forward`, to logits (batch, answers)."""
        logits: Tensor = self.head(self.pooler(self.beit3(pixel_values, input_ids, attention_mask)))
        return logits

    def example_inputs(self) -> dict[str, Tensor]:
        """Two random images, always the same, with questions of 6 tokens, of which the second is padded."""
        table = self.beit3.text_embed
        assert table is not None
        mask = torch.ones(2, 6, dtype=torch.long)
        mask[1, 4:] = 0
        ids = torch.arange(12).reshape(2, 6) % table.num_embeddings
        images = _example_images(self.beit3.vision_embed)
        return {"pixel_values": images, "input_ids": ids, "attention_mask": mask}


Beit3Model = Beit3ForImageClassification | Beit3ForVisualQuestionAnswering


def base_classifier(num_classes: int = 1000, image_size: int = 224) -> Beit3ForImageClassification:
    """BEiT-3 Base for image classification: 86.7 M parameters for 1000 classes, 17.6 G multiply-accumulates."""
    return Beit3ForImageClassification(Beit3Config(image_size=image_size), num_classes)


def base_vqa(num_answers: int = 3129, image_size: int = 480) -> Beit3ForVisualQuestionAnswering:
    """BEiT-3 Base for visual question answering, with both experts; VQAv2 has 3129 answers."""
    return Beit3ForVisualQuestionAnswering(Beit3Config(image_size=image_size), num_answers)


@torch.no_grad()
def load_official(model: Beit3Model, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load the weights of an official checkpoint, pre-trained or fine-tuned, into a model of the same sizes.

    The official files are pickles with the weights under the key `model`: save these as safetensors first and read
    them with `safetensors.torch.load_file`. Language experts and token embeddings are skipped if the model has none;
    the heads of other tasks and the mask token always are. Positions for another image size are interpolated
    (bicubic, as in the official fine-tuning).

    Args:
        model: its weights are replaced in place.
        weights: the tensors by their names in the checkpoint.

    Returns:
        Names of the parameters that the checkpoint lacks or has for another number of classes. They keep their values
        and must be trained.

    Raises:
        ValueError: a parameter of the encoder is missing, unknown or of another shape; the message names the first.
    """
    own = model.state_dict()
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_UNUSED)}
    text = model.beit3.text_embed is not None
    for name in weights:
        language = ".B." in name or name.startswith("beit3.text_embed.")
        if name.startswith("beit3.") and name not in own and (text or not language):
            raise ValueError(f"the checkpoint must be of a BEiT-3 of the model's sizes, which has no parameter {name}")
    if _POSITIONS in weights:
        weights[_POSITIONS] = _interpolated(weights[_POSITIONS], own[_POSITIONS])
    # A pre-trained checkpoint has no head. A fine-tuned one may have a head for other classes, of another shape.
    new = {name for name in own if not name.startswith("beit3.") and name not in weights}
    for name, tensor in own.items():
        layer = name.rpartition(".")[0]
        other = name in weights and weights[name].shape != tensor.shape
        if other and name.startswith("head."):
            # Both tensors of the layer: a bias may have the right shape by chance, but belongs to the other classes.
            new |= {f"{layer}.weight", f"{layer}.bias"}
        elif other:
            shapes = f"{tuple(tensor.shape)}, got {tuple(weights[name].shape)}"
            raise ValueError(f"{name} must have the shape {shapes}: the checkpoint is of another BEiT-3")
        elif name not in weights and name not in new:
            raise ValueError(f"the checkpoint of a BEiT-3 must hold {name}, this one does not")
    model.load_state_dict({name: tensor if name in new else weights[name] for name, tensor in own.items()})
    return tuple(name for name in own if name in new)


def _interpolated(table: Tensor, own: Tensor) -> Tensor:
    """Interpolate a table of image positions to the number of patches of the model's own table.

    Rows of the class token and the unused rows stay. A table that is not of a square image is returned as it is.
    """
    extra = _OFFSET + 1
    old, new = (round((len(rows) - extra) ** 0.5) for rows in (table, own))
    if old == new or old**2 != len(table) - extra:
        return table
    grid = table[extra:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    patches = grid.permute(0, 2, 3, 1).flatten(0, 2)
    return torch.cat([table[:extra], patches.to(table.dtype)])


def _initialise(part: nn.Module) -> None:
    """Normal weights of deviation 0.02 and biases of zero, as in the official code."""
    if isinstance(part, nn.Linear | nn.Embedding):
        nn.init.normal_(part.weight, std=0.02)
    if isinstance(part, nn.Linear):
        nn.init.zeros_(part.bias)


def _example_images(embedding: VisionEmbedding) -> Tensor:
    shape = (2, embedding.proj.in_channels, embedding.image_size, embedding.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# InstaTune (arXiv 2308.15609, section 4.1), BEiT-3 Base: layers 11, 12, heads 6, 8, 10, 12, ffn 2048, 2560, 3072.
FAMILY = Family(
    recognises=lambda model: isinstance(model, Beit3Model),
    ranges=Ranges(depth=(11 / 12, 1.0), heads=(6 / 12, 8 / 12, 10 / 12, 1.0), ffn=(8 / 12, 10 / 12, 1.0)),
)
space = FAMILY.space
