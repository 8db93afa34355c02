"""Narrowing tensors to the units that a candidate keeps."""

import torch
from torch import nn

from search_spaces.cuts import AxisCut
from search_spaces.space import Candidate, Space

_Keep = tuple[tuple[AxisCut, int], ...]


class Slicer:
    """Narrows parameters and buffers, by name, to the units that a candidate keeps."""

    def __init__(self, space: Space) -> None:
        self._plan: dict[str, dict[int, list[tuple[AxisCut, str, int]]]] = {}
        for choice in space.choices:
            for cut in choice.cuts:
                if isinstance(cut, AxisCut):
                    axes = self._plan.setdefault(cut.parameter, {})
                    axes.setdefault(cut.axis, []).append((cut, choice.name, int(choice.options[-1])))
        self._indices: dict[tuple[int, _Keep], slice | torch.Tensor] = {}

    def narrow(self, name: str, tensor: torch.Tensor, candidate: Candidate) -> torch.Tensor:
        """The part of `tensor` that the candidate keeps: a view where it is one piece, `tensor` itself where all of it."""
        for axis, cuts in self._plan.get(name, {}).items():
            keep: _Keep = tuple((cut, _kept(candidate, choice, full)) for cut, choice, full in cuts)
            if all(units == cut.size for cut, units in keep):
                continue
            index = self._index(tensor.shape[axis], keep)
            if isinstance(index, slice):
                tensor = tensor.narrow(axis, index.start, index.stop - index.start)
            else:
                tensor = tensor.index_select(axis, index.to(tensor.device))
        return tensor

    def _index(self, length: int, keep: _Keep) -> slice | torch.Tensor:
        key = (length, keep)
        if key not in self._indices:
            kept = torch.nonzero(kept_mask(length, keep)).flatten()
            first, last = int(kept[0]), int(kept[-1])
            self._indices[key] = slice(first, last + 1) if last - first + 1 == len(kept) else kept
        return self._indices[key]


def _kept(candidate: Candidate, choice: str, full: int) -> int:
    option = candidate[choice]
    return full if option is None else int(option)


def kept_mask(length: int, keep: _Keep) -> torch.Tensor:
    """Which of `length` indices stay (bool), when of each cut only the first units are kept."""
    mask = torch.ones(length, dtype=torch.bool)
    for cut, units in keep:
        end = cut.start + cut.outer * cut.size * cut.unit
        mask[cut.start : end].view(cut.outer, cut.size, cut.unit)[:, units:] = False
    return mask


def sliced_copy(tensor: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """An own, contiguous copy of `view`: a parameter where `tensor` is one."""
    own = view.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(own, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else own


def follow_shapes(module: nn.Module) -> None:
    """Make the size attributes of the standard layers true to the shapes of their weights."""
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        if isinstance(part, nn.Linear):
            part.out_features, part.in_features = weight.shape
        elif isinstance(part, nn.Embedding):
            part.num_embeddings, part.embedding_dim = weight.shape
        elif isinstance(part, nn.modules.conv._ConvNd):
            part.out_channels, part.in_channels = weight.shape[0], weight.shape[1] * part.groups
        elif isinstance(part, nn.modules.batchnorm._NormBase):
            part.num_features = weight.shape[0]
        elif isinstance(part, nn.LayerNorm | nn.RMSNorm):
            part.normalized_shape = tuple(weight.shape)
