"""Replaces `nn.MultiheadAttention` by an equal module of plain linear layers, whose heads can be sliced.

PyTorch's own module requires a query-key-value weight of three times its full width, so no head can be removed from it.
In evaluation mode, `nn.TransformerEncoderLayer` computes everything in one fused operator, inside which tracing sees
nothing.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PARTS = ("q", "k", "v")


class PlainAttention(nn.Module):
    """Multi-head attention of four linear layers, with the interface and the masks of `nn.MultiheadAttention`.

    It can stand in for the attention of the layers of `nn.Transformer`. Differs: it returns no attention weights, and
    its inputs must have a batch.

    Args:
        source: the attention whose weights are copied, with all their settings.
    """

    # `nn.TransformerEncoderLayer` uses its fused operator for inference only if the attention has such a bias.
    in_proj_bias = None

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        width, bias = source.embed_dim, source.in_proj_bias is not None
        weight = source.out_proj.weight
        self.head_size, self.dropout, self.batch_first = source.head_dim, source.dropout, source.batch_first
        self.q, self.k, self.v, self.out = (
            nn.Linear(width, width, bias, device=weight.device, dtype=weight.dtype) for _ in range(4)
        )
        self.load_state_dict(plain_weights(source.state_dict()))
        for name, parameter in self.named_parameters():
            part, _, kind = name.partition(".")
            own = source.get_parameter(f"out_proj.{kind}" if part == "out" else f"in_proj_{kind}")
            parameter.requires_grad_(own.requires_grad)
        self.train(source.training)

    @property
    def is_whole(self) -> bool:
        """Whether it has all heads of its width, as `nn.MultiheadAttention` must have."""
        width = self.out.out_features
        sizes = [size for part in (self.q, self.k, self.v, self.out) for size in part.weight.shape]
        return set(sizes) == {width} and width % self.head_size == 0

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Compute the attention of queries over keys and values.

        Args:
            query: (batch, length, width), or (length, batch, width) if the module is not `batch_first`.
            key: (batch, source length, width), or likewise with the batch second.
            value: of the shape of `key`.
            key_padding_mask: (batch, source length), true for padding; or numbers that are added to the scores.
            need_weights: ignored; no weights are returned.
            attn_mask: (length, source length), true where attention is forbidden; or numbers that are added to the
                scores.
            average_attn_weights: ignored.
            is_causal: ignored; it is a hint that `attn_mask` is causal.

        Returns:
            The attended values, of the shape of `query`, and None in place of attention weights.

        Raises:
            ValueError: an input has no batch, or `attn_mask` has one mask for each head.
        """
        if query.dim() != 3 or (attn_mask is not None and attn_mask.dim() != 2):
            raise ValueError("attention in plain layers takes batches and masks of (length, source length) only")
        if not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        # The number of heads is inferred from the width, so it follows when heads are sliced away.
        heads_q, heads_k, heads_v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for project, x in ((self.q, query), (self.k, key), (self.v, value))
        )
        dropout = self.dropout if self.training else 0.0
        mask = _scores(key_padding_mask, attn_mask, query.dtype)
        attended = F.scaled_dot_product_attention(heads_q, heads_k, heads_v, attn_mask=mask, dropout_p=dropout)
        attended = attended.transpose(1, 2).flatten(2)
        result = self.out(attended)
        return (result if self.batch_first else result.transpose(0, 1)), None


def plain_attention(model: nn.Module) -> nn.Module:
    """Copy a model and replace every `nn.MultiheadAttention` in it by an equal `PlainAttention`.

    This includes the attention inside `nn.TransformerEncoder`, `nn.TransformerDecoder` and their layers. The copy
    differs from the model in three ways. It returns no attention weights. In evaluation mode `nn.TransformerEncoder`
    may skip padded positions and return zeros for them; the copy computes them. In evaluation mode PyTorch's encoder
    layer reads a mask of numbers as booleans; the copy adds the numbers to the scores, as both do in training.

    Args:
        model: any module; it is left as it is.

    Returns:
        The copy, or `model` itself if it has no such attention.

    Raises:
        ValueError: an attention is a subclass, has keys or values of other widths, or adds rows to them.
    """
    found = {path: part for path, part in model.named_modules() if isinstance(part, nn.MultiheadAttention)}
    if not found:
        return model
    for path, part in found.items():
        _check(path, part)
    if isinstance(model, nn.MultiheadAttention):
        return PlainAttention(model)
    twin = copy.deepcopy(model)
    plain: dict[int, PlainAttention] = {}
    for parent in list(twin.modules()):
        if isinstance(parent, nn.TransformerEncoder):
            # Nested tensors, which skip padding, need the fused operator of the original layers.
            parent.use_nested_tensor = False
        for name, child in parent._modules.items():
            if isinstance(child, nn.MultiheadAttention):
                # An attention that is shared under two names stays shared.
                parent._modules[name] = plain.setdefault(id(child), PlainAttention(child))
    return twin


def fused_attention(model: nn.Module) -> nn.Module:
    """The opposite of `plain_attention`: a copy of a model in which attention of full size is `nn.MultiheadAttention`.

    Attention that lost heads or features has no such form and stays as it is.

    Args:
        model: any module; it is left as it is.

    Returns:
        The copy, or `model` itself if it has no such attention.
    """
    found = [part for part in model.modules() if isinstance(part, PlainAttention) and part.is_whole]
    if not found or isinstance(model, PlainAttention):
        return model
    twin = copy.deepcopy(model)
    fused: dict[int, nn.MultiheadAttention] = {}
    for parent in list(twin.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, PlainAttention) and child.is_whole:
                parent._modules[name] = fused.setdefault(id(child), _fused(child))
    return twin


def _fused(source: PlainAttention) -> nn.MultiheadAttention:
    width, bias = source.out.out_features, source.q.bias is not None
    made = nn.MultiheadAttention(
        width,
        width // source.head_size,
        dropout=source.dropout,
        bias=bias,
        batch_first=source.batch_first,
        device=source.out.weight.device,
        dtype=source.out.weight.dtype,
    )
    weights = source.state_dict()
    kinds = ("weight", "bias") if bias else ("weight",)
    named = {f"in_proj_{kind}": torch.cat([weights[f"{part}.{kind}"] for part in _PARTS]) for kind in kinds}
    made.load_state_dict({**named, **{f"out_proj.{kind}": weights[f"out.{kind}"] for kind in kinds}})
    made.train(source.training)
    return made


def plain_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of a model with `nn.MultiheadAttention` to that of its copy by `plain_attention`.

    Args:
        weights: the `state_dict()` of the original model.

    Returns:
        The state with fused query-key-value tensors split in three; tensors of other modules keep their names.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for kind in ("weight", "bias"):
            if name == f"in_proj_{kind}" or name.endswith(f".in_proj_{kind}"):
                path = name.removesuffix(f"in_proj_{kind}")
                plain |= {f"{path}{part}.{kind}": piece for part, piece in zip(_PARTS, tensor.chunk(3), strict=True)}
                break
        else:
            above, _, last = name.rpartition("out_proj.")
            fused = above != name and f"{above}in_proj_weight" in weights
            plain[f"{above}out.{last}" if fused else name] = tensor
    return plain


def _check(path: str, part: nn.MultiheadAttention) -> None:
    """Raise ValueError if an attention has features that `PlainAttention` lacks."""
    if type(part) is not nn.MultiheadAttention:
        reason = f"it is a subclass, {type(part).__name__}"
    elif not part._qkv_same_embed_dim:
        reason = f"its keys or values have other widths, {part.kdim} and {part.vdim}, than {part.embed_dim}"
    elif part.bias_k is not None or part.bias_v is not None or part.add_zero_attn:
        reason = "it adds rows to the keys and values (add_bias_kv or add_zero_attn)"
    else:
        return
    raise ValueError(f"nn.MultiheadAttention at {path!r} must be of the plain form to be sliced: {reason}")


def _scores(padding: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Both masks as one tensor to add to the scores, which broadcasts to (batch, heads, length, source length)."""
    added = None if mask is None else _number(mask, dtype)
    if padding is None:
        return added
    rows = _number(padding, dtype)[:, None, None, :]
    return rows if added is None else rows + added


def _number(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add to scores: minus infinity where a boolean mask is true."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
