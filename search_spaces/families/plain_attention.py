"""`nn.MultiheadAttention` turned into an equal module of plain layers, whose heads can be sliced.

torch's own module wants a query-key-value weight of three times its full width, so no head can leave it, and in
evaluation `nn.TransformerEncoderLayer` computes everything in one operator that no graph looks into.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PARTS = ("q", "k", "v")


class PlainAttention(nn.Module):
    """Multi-head attention of four linear layers, with the call and the masks of `nn.MultiheadAttention`.

    The layers of `nn.Transformer` take it in place of their own. Differs: it returns no attention weights, and takes
    batches only.
    """

    # nn.TransformerEncoderLayer reads it, and leaves its single operator for inference where there is none.
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
        """Attention of queries (batch, length, width) over keys and values (batch, source length, width).

        Args:
            query: with the batch second where the module is not `batch_first`, like `key` and `value`.
            key: what is attended to.
            value: what is read there.
            key_padding_mask: (batch, source length), true for padding, or numbers that are added to the scores.
            need_weights: ignored; no weights are returned.
            attn_mask: (length, source length), true where a query may not look, or numbers that are added.
            average_attn_weights: ignored.
            is_causal: ignored: a hint that `attn_mask` is causal.

        Returns:
            The shape of `query`, and None.

        Raises:
            ValueError: an input without a batch, or a mask for each head.
        """
        if query.dim() != 3 or (attn_mask is not None and attn_mask.dim() != 2):
            raise ValueError("attention in plain layers takes batches and masks of (length, source length) only")
        if not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
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
    """A copy of a model with every `nn.MultiheadAttention` turned into `PlainAttention`: the same function.

    Those inside `nn.TransformerEncoder`, `nn.TransformerDecoder` and their layers too. Three differences remain: no
    attention weights are returned; where `nn.TransformerEncoder` skips padding in evaluation (and gives zeros there)
    all positions are computed; numbers in a mask are added to the scores in evaluation as in training, where torch's
    layer takes them for true.

    Args:
        model: never changed.

    Returns:
        The copy, or `model` itself where there is nothing to turn.

    Raises:
        ValueError: an attention of another form (keys or values of other widths, added rows, a subclass).
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
            parent.use_nested_tensor = False
        for name, child in parent._modules.items():
            if isinstance(child, nn.MultiheadAttention):
                # One attention under two names stays one.
                parent._modules[name] = plain.setdefault(id(child), PlainAttention(child))
    return twin


def plain_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a model with `nn.MultiheadAttention` under the names of its plain form."""
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
    """What is added to the scores, broadcast to (batch, heads, length, source length)."""
    added = None if mask is None else _number(mask, dtype)
    if padding is None:
        return added
    rows = _number(padding, dtype)[:, None, None, :]
    return rows if added is None else rows + added


def _number(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
