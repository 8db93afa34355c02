"""Networks that attend through `nn.MultiheadAttention`, as people write them."""

import torch
from torch import Tensor, nn

IMAGES = (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),)
TOKENS = (torch.arange(12).reshape(2, 6) % 11,)


class Patches(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class PostNormVit(nn.Module):
    """A vision transformer of `nn.TransformerEncoder`: norms after the sums, ReLU, the class token read by the head."""

    inputs = IMAGES

    def __init__(
        self, size: int = 16, patch: int = 4, width: int = 32, heads: int = 4, layers: int = 3, ffn: int = 48
    ) -> None:
        super().__init__()
        self.patch_embed = Patches(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, heads, ffn, dropout=0.1, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.mlp_head(self.transformer(x)[:, 0])


class CausalText(nn.Module):
    """Norms before the layers, a causal mask, and the batch as the second axis."""

    inputs = TOKENS

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 24)
        layer = nn.TransformerEncoderLayer(24, 3, 40, dropout=0.0, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(24), enable_nested_tensor=False)
        self.head = nn.Linear(24, 3)
        self.register_buffer("mask", torch.ones(32, 32, dtype=torch.bool).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        mask = self.mask[: ids.shape[1], : ids.shape[1]]
        x = self.encoder(self.embed(ids).transpose(0, 1), mask=mask, is_causal=True)
        return self.head(x.mean(0))


class CrossAttention(nn.Module):
    """A decoder whose blocks attend to themselves and to an image."""

    inputs = (*TOKENS, *IMAGES)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.patches = nn.Embedding(11, 24), Patches(8, 24)
        layer = nn.TransformerDecoderLayer(24, 3, 40, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.head = nn.Linear(24, 3)

    def forward(self, ids: Tensor, images: Tensor) -> Tensor:
        return self.head(self.decoder(self.embed(ids), self.patches(images)).mean(1))
