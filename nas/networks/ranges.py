"""What the layers of a network read: ranges and means of their inputs on a few rows, from which INT8 is calibrated.

These are the statistics that nncf takes (`nncf.quantize`, OpenVINO backend), in one pass and for all layers, whichever
of them will be quantized: of each row by itself the least and largest value of every channel, and the mean of every
channel. No activation is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from hardware.inputs import batch_size, call, map_inputs, split
from search_spaces.inputs import Inputs

_MASK = "attention_mask"


@dataclass(frozen=True)
class Read:
    """One tensor that layers read.

    Attributes:
        low, high: least and largest value of each channel in each row (rows, channels).
        mean: of each channel, all rows counting alike (channels,).
        shape: of the tensor for one row.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Ranges:
    """What the linear layers and convolutions of a network read on the rows of a calibration.

    Attributes:
        reads: the tensors that they read.
        of: index of the tensor in `reads`, by the path of the layer. Layers that read the same tensor have the same.
        repeated: paths of layers that run more than once in a pass; their tensor spans all that they read.
        outputs: mean of each output channel (channels,) of convolutions, by path.
        norms: path of the batch norm that a convolution's output goes to, by the path of the convolution.
        first: paths of the convolutions that an input of the network reaches without passing another one.
        attention: whether the network has a softmax or attention, which nncf calibrates in another way.
    """

    reads: tuple[Read, ...] = ()
    of: Mapping[str, int] = field(default_factory=dict)
    repeated: frozenset[str] = frozenset()
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=dict)
    first: frozenset[str] = frozenset()
    attention: bool = False

    def readers(self, path: str) -> list[str]:
        """The paths of all layers that read the same tensor as the layer `path`, itself included."""
        return [other for other, index in self.of.items() if index == self.of[path]]


def plain_convolution(layer: nn.Module) -> bool:
    """Whether a layer is a convolution over all its input channels, not a grouped, depthwise or transposed one."""
    return isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd) and layer.groups == 1


def version(tensor: Tensor) -> int:
    """A number that changes when a tensor is changed in place, where torch counts that."""
    return 0 if tensor.is_inference() else tensor._version


@torch.no_grad()
def calibrate(module: nn.Module, batches: Sequence[Inputs]) -> Ranges:
    """Run a network on a few rows and take statistics of what its layers read.

    The statistics of a row are those of the row by itself, as if it were the only one of its batch: padding is left
    out where the inputs have an `attention_mask`. Where a layer reads a tensor whose positions are not those of the
    mask, the rows of that batch are run one by one.

    Args:
        module: the network in evaluation mode. It is hooked into while this function runs and then as before.
        batches: inputs on the device of the module; rows of one batch have similar lengths, which keeps the padding
            small.

    Raises:
        ValueError: there are no rows, or a layer reads a value that is not finite.
    """
    if not batches:
        raise ValueError("ranges of activations need at least one row, got none")
    observer = _Observer(module)
    with observer:
        for batch in batches:
            try:
                observer.run(batch)
            except _UnclearError:
                for row in _rows_of(batch):
                    observer.run(row)
    return observer.ranges()


class _UnclearError(Exception):
    """It is not clear which positions of a tensor are padding."""


@dataclass
class _Collected:
    """Statistics of one tensor so far: a part for each batch."""

    low: list[Tensor] = field(default_factory=list)
    high: list[Tensor] = field(default_factory=list)
    total: list[Tensor] = field(default_factory=list)
    shape: tuple[int, ...] = ()

    def read(self) -> Read:
        low, high = torch.cat(self.low), torch.cat(self.high)
        return Read(low, high, torch.stack(self.total).sum(0) / len(low), self.shape)


class _Observer:
    """Hooks in the layers of a module, and what they have seen."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # A layer that runs again is told apart by the number of the run; so are the tensors that it reads.
        self._slots: dict[tuple[str, int], int] = {}
        self._collected: list[_Collected] = []
        self._outputs: dict[str, list[Tensor]] = {}
        self._flow = _Flow()
        self._norms: dict[str, str] = {}
        self._pending: list[tuple[int, Tensor, Tensor, Tensor, tuple[int, ...]]] = []
        self._rows = 0

    def __enter__(self) -> None:
        self._handles = []
        for path, part in self._module.named_modules():
            hook: Any = None
            # A weight that is computed anew, as by a weight norm, is not the layer's own.
            if isinstance(part, nn.Linear | _ConvNd) and part._parameters.get("weight") is not None:
                hook = self._layer(path, part)
            elif isinstance(part, _BatchNorm):
                hook = self._norm(path)
            if hook is not None:
                self._handles.append(part.register_forward_hook(hook, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def run(self, batch: Inputs) -> None:
        """Run one batch and add its statistics; nothing is added where it raises an exception."""
        self._batch, self._mask, self._done = batch_size(batch), _mask(batch), set[int]()
        self._calls: dict[str, int] = {}
        self._pending, self._means = [], dict[str, Tensor]()
        # The tensors of the first batch are kept until its end, so that no two of them have the same identity.
        self._first = self._rows == 0
        self._tensors: dict[tuple[int, int], tuple[Tensor, int]] = {}
        self._made: dict[int, tuple[Tensor, str]] = {}
        if self._first:
            self._slots, self._collected, self._flow = {}, [], _Flow()
            self._flow.begin(batch)
            with self._flow:
                call(self._module, batch)
        else:
            call(self._module, batch)
        for index, low, high, total, shape in self._pending:
            into = self._collected[index]
            into.low.append(low)
            into.high.append(high)
            into.total.append(total)
            into.shape = into.shape or shape
        for path, mean in self._means.items():
            self._outputs.setdefault(path, []).append(mean)
        self._rows += self._batch
        self._tensors, self._made = {}, {}

    def ranges(self) -> Ranges:
        """What was seen in all batches."""
        reads = [each.read() for each in self._collected]
        of: dict[str, int] = {}
        repeated = frozenset(path for path, number in self._slots if number)
        for path in dict.fromkeys(path for path, _ in self._slots):
            indices = [index for (other, _), index in self._slots.items() if other == path]
            of[path] = indices[0]
            if path in repeated:
                of[path] = len(reads)
                reads.append(_joined([reads[index] for index in indices]))
        for path, index in of.items():
            if not (reads[index].low.isfinite().all() and reads[index].high.isfinite().all()):
                raise ValueError(f"the layer {path} reads values that are not finite, so it has no range for INT8")
        means = {path: torch.stack(parts).sum(0) / self._rows for path, parts in self._outputs.items()}
        kept = [path for path in of if path not in repeated]
        return Ranges(
            tuple(reads),
            of,
            repeated,
            {path: means[path] for path in kept if path in means},
            {path: self._norms[path] for path in kept if path in self._norms},
            frozenset(self._flow.first),
            self._flow.attention,
        )

    def _layer(self, path: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            tensor = args[0] if args else kwargs["input"]
            number = self._calls.get(path, 0)
            self._calls[path] = number + 1
            with self._flow.paused():
                if self._first:
                    self._slots[path, number] = self._index(tensor)
                index = self._slots.get((path, number))
                if index is not None and index not in self._done:
                    self._done.add(index)
                    self._pending.append((index, *self._statistics(layer, tensor)))
                if isinstance(layer, _ConvNd):
                    self._means[path] = output.flatten(2).mean(2).sum(0)
                    self._made[id(output)] = (output, path)
            if self._first and plain_convolution(layer):
                self._flow.passed(path, tensor, output)

        return hook

    def _norm(self, path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            made = self._made.get(id(args[0] if args else kwargs["input"]))
            if made is not None:
                self._norms[made[1]] = path

        return hook

    def _index(self, tensor: Tensor) -> int:
        """The index of a tensor of the first batch; a new one where no layer has read it yet."""
        key = (id(tensor), version(tensor))
        if key not in self._tensors:
            self._tensors[key] = (tensor, len(self._collected))
            self._collected.append(_Collected())
        return self._tensors[key][1]

    def _statistics(self, layer: nn.Module, tensor: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
        """Least and largest values (rows, channels), the sum over rows of means (channels,), the shape of one row."""
        rows, shape = self._batch, (1, *tensor.shape[1:])
        if len(tensor) % rows:
            # A tensor that does not depend on the rows, such as one of relative positions, is the same for all.
            tensor = tensor[None].expand(rows, *tensor.shape)
        convolution = isinstance(layer, _ConvNd)
        if convolution:
            tensor = tensor.reshape(rows, -1, tensor.shape[1], tensor[0, 0].numel()).movedim(2, 3)
        values = tensor.reshape(rows, -1, tensor.shape[-1])
        if self._mask is None or (values.shape[1] == 1 and not convolution):
            low, high = torch.aminmax(values, dim=1)
            return low, high, values.mean(1).sum(0), shape
        if convolution or values.shape[1] != self._mask.shape[1]:
            raise _UnclearError
        kept = self._mask[:, :, None]
        low = values.masked_fill(~kept, torch.inf).amin(1)
        high = values.masked_fill(~kept, -torch.inf).amax(1)
        mean = values.masked_fill(~kept, 0).sum(1) / kept.sum(1)
        return low, high, mean.sum(0), shape


class _Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what the inputs reach before they come to a convolution, in one pass, and notices attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first: set[str] = set()
        self.attention = False
        self._reached: set[int] = set()
        self._paused = False

    def begin(self, inputs: Inputs) -> None:
        """Start with the inputs of the network."""
        args, kwargs = split(inputs)
        self._reached = {_storage(value) for value in [*args, *kwargs.values()]}

    def paused(self) -> "_Paused":
        """A context in which operations are not followed."""
        return _Paused(self)

    def passed(self, path: str, tensor: Tensor, output: Tensor) -> None:
        """Note that `output` comes out of the convolution `path`, which read `tensor`."""
        if _storage(tensor) in self._reached:
            self.first.add(path)
        self._reached.discard(_storage(output))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._paused:
            return result
        name = str(func)
        self.attention |= "attention" in name or ("softmax" in name and "log_softmax" not in name)
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        reached = any(_storage(value) in self._reached for value in given)
        for value in tree_flatten(result)[0]:
            # Views and changes in place share the storage. One that is freed and used again is told anew here.
            if isinstance(value, Tensor):
                (self._reached.add if reached else self._reached.discard)(_storage(value))
        return result


class _Paused:
    def __init__(self, flow: _Flow) -> None:
        self._flow = flow

    def __enter__(self) -> None:
        self._flow._paused = True

    def __exit__(self, *_: object) -> None:
        self._flow._paused = False


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _joined(reads: Sequence[Read]) -> Read:
    """What one layer reads in several runs of one pass."""
    low = torch.stack([each.low for each in reads]).amin(0)
    high = torch.stack([each.high for each in reads]).amax(0)
    return Read(low, high, torch.stack([each.mean for each in reads]).mean(0), reads[0].shape)


def _mask(batch: Inputs) -> Tensor | None:
    """Which positions are no padding, bool (rows, length); None where there is no padding."""
    mask = batch.get(_MASK) if isinstance(batch, Mapping) else None
    if mask is None or mask.ndim != 2 or bool(mask.all()):
        return None
    return mask.bool()


def _rows_of(batch: Inputs) -> list[Inputs]:
    """The rows of a batch one by one, without padding."""
    rows, mask = batch_size(batch), _mask(batch)

    def one(row: int) -> Inputs:
        def cut(value: Tensor) -> Tensor:
            if not value.ndim or len(value) != rows:
                return value
            if mask is not None and value.shape == mask.shape:
                return value[row : row + 1, mask[row]]
            return value[row : row + 1]

        return map_inputs(batch, cut)

    return [one(row) for row in range(rows)]
