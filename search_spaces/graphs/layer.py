"""A layer graph as a module."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from search_spaces.graphs.execution import ZERO, Execution
from search_spaces.graphs.facts import facts
from search_spaces.graphs.graph import LayerGraph
from search_spaces.graphs.moments import Layout
from search_spaces.graphs.operations import INITIAL


class GraphLayer(nn.Module):
    """The layer of a graph, followed by a scale and a shift of each channel (EvoNorm, arXiv 2004.02967, section 3).

    While training, a moment over the batch is that of the batch, and a moving average of it is kept, as by
    `nn.BatchNorm2d`; in evaluation mode the averages take its place. What is averaged is the mean of "mean", the mean
    square of "rms", and the variance of "std", corrected by n / (n - 1) as in `nn.BatchNorm2d` and in timm's EvoNorm B
    layers. The root is taken afterwards. Moments of what is the same in all rows, such as v0, are computed and not
    averaged.

    Small numbers keep every operation defined, as the paper asks without saying where they are: `eps` is added under
    the roots of moments. Where a denominator can be 0, 1 / y is y / (y^2 + eps^2), and logarithms and roots have eps^2
    in a like place. Inputs of half precision are computed in float32.

    Args:
        graph: its dead nodes and duplicates cost nothing.
        channels: the size of the axis of the channels.
        groups: into how many groups "group" divides the channels; reduced until it divides them.
        affine: whether the scale (`weight`, 1 at first) and the shift (`bias`, 0 at first) follow.
        channel_axis: 1 for (N, C, H, W), -1 for the (N, L, C) of transformers. Axis 0 is the batch, and all others are
            what the paper calls w and h.
        momentum: the weight of a new batch in the moving averages; None: all batches weigh the same.
        eps: 1e-5 as in the authors' code.

    Raises:
        ValueError: a number is out of range. When called: the input has no such channels, or, while training a graph
            with moments over the batch, a batch of one row.
    """

    v0: nn.Parameter | None
    v1: nn.Parameter | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    num_batches_tracked: Tensor

    def __init__(
        self,
        graph: LayerGraph,
        channels: int,
        groups: int = 32,
        affine: bool = True,
        *,
        channel_axis: int = 1,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if channels < 1 or groups < 1:
            raise ValueError(f"channels and groups must be positive, got {channels} and {groups}")
        if channel_axis == 0:
            raise ValueError("channel_axis must not be 0, which is the axis of the batch")
        if (momentum is not None and not 0 <= momentum <= 1) or not eps >= 0:
            raise ValueError(f"momentum must be in 0..1 or None and eps at least 0, got {momentum} and {eps}")
        self.graph = graph
        self.channels = channels
        self.groups = next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0)
        self.channel_axis = channel_axis
        self.momentum = momentum
        self.eps = eps
        self._nodes = graph.canonical().nodes
        self._facts = facts(graph.canonical(), eps)
        spreads = [node for node in self._nodes if node.op == "std"]
        self._central = frozenset(node.inputs[0] for node in spreads)
        self._central_within = frozenset(node.inputs[0] for node in spreads if node.over != "batch")
        self._make_parameters(affine)
        self._make_averages()

    def _make_parameters(self, affine: bool) -> None:
        used = {index for node in self._nodes for index in node.inputs}
        begin = {"v0": 0.0, "v1": 1.0, "weight": 1.0, "bias": 0.0}
        for name, value in begin.items():
            needed = INITIAL.index(name) in used if name in INITIAL else affine
            self.register_parameter(name, nn.Parameter(torch.full((self.channels,), value)) if needed else None)

    def _make_averages(self) -> None:
        self._averages: dict[int, str] = {}
        for index, node in enumerate(self._nodes, len(INITIAL)):
            if node.over == "batch" and "n" in self._facts[node.inputs[0]].axes:
                self._averages[index] = f"running_{node.op}_{index}"
                size = (self.channels,) if "c" in self._facts[index].axes else ()
                self.register_buffer(self._averages[index], torch.empty(size))
        if self._averages:
            self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Set the moving averages to what they are at first: means 0, mean squares and variances 1."""
        for index, name in self._averages.items():
            getattr(self, name).fill_(float(self._nodes[index - len(INITIAL)].op != "mean"))
        if self._averages:
            self.num_batches_tracked.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, of the shape and type of x.

        Args:
            x: any shape with the batch as axis 0 and `channels` along `channel_axis`.
        """
        axis = self._checked_axis(x)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        ones = [1] * x.ndim
        ones[axis] = self.channels
        initial = {0: wide, ZERO: wide.new_zeros(())}
        for index, vector in enumerate((self.v0, self.v1), 2):
            if vector is not None:
                initial[index] = vector.view(ones)
        spatial = tuple(other for other in range(1, x.ndim) if other != axis)
        run = Execution(
            nodes=self._nodes,
            facts=self._facts,
            initial=initial,
            layout=Layout(axis, spatial, self.groups),
            eps=self.eps,
            central=self._central if self.training else self._central_within,
            batch=self._averaged(wide, ones),
        )
        result = run.scaled(len(INITIAL) + len(self._nodes) - 1)
        if self.weight is not None and self.bias is not None:
            result = result.times(self.weight.view(ones)).plus(self.bias.view(ones))
        output = result.tensor()
        # Who changes the output in place must change neither the input nor several elements at once.
        if output is wide:
            output = output.clone()
        elif not self._facts[-1].full:
            output = output.expand(x.shape).clone()
        return output.to(x.dtype)

    def _checked_axis(self, x: Tensor) -> int:
        axis = self.channel_axis + (x.ndim if self.channel_axis < 0 else 0)
        if not 0 < axis < x.ndim or x.shape[axis] != self.channels:
            shape = tuple(x.shape)
            where = f"{self.channels} channels along axis {self.channel_axis} and its batch along axis 0"
            raise ValueError(f"the input must have {where}, got the shape {shape}")
        if self.training and self._averages and x.shape[0] == 1:
            raise ValueError("a layer with moments over the batch must be trained with at least 2 rows a batch, got 1")
        return axis

    def _averaged(self, x: Tensor, ones: list[int]) -> Callable[[int, Callable[[], Tensor]], Tensor]:
        """What gives the raw moments over the batch: those of the batch while training, else their averages."""
        if not self.training or not self._averages:
            return lambda index, raw: self._average(index, ones)
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        count = x.numel() // self.channels

        def updated(index: int, raw: Callable[[], Tensor]) -> Tensor:
            value = raw()
            average: Tensor = getattr(self, self._averages[index])
            new = value.detach().reshape(average.shape)
            if self._nodes[index - len(INITIAL)].op == "std":
                new = new * (count / (count - 1))
            average.lerp_(new.to(average.dtype), share)
            return value

        return updated

    def _average(self, index: int, ones: list[int]) -> Tensor:
        average: Tensor = getattr(self, self._averages[index])
        return average.view(ones) if average.ndim else average

    def extra_repr(self) -> str:
        """The formula and the channels, for printing."""
        return f"{self.graph.formula()}, channels={self.channels}, affine={self.weight is not None}"
