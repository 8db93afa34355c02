"""Candidates of a joint search, an architecture with a precision for each layer, run by fake quantization."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from hardware.inputs import device_of, map_inputs
from hardware.policy import Policy
from nas.data.accuracy import logits_of
from nas.data.split import Split
from nas.errors import UserError
from nas.networks.fake_quantization import Ranges, calibrate, quantize
from nas.networks.networks import Networks
from nas.networks.policies import policy_of
from nas.seeds import generator
from search_spaces import Candidate, Supernet
from search_spaces.arrays import IntArray
from search_spaces.inputs import Inputs

ROWS, LEAST_ROWS = 32, 8
"""Training rows from which the ranges of activations are taken, and how many there must be at least."""
_BATCH = 8
"""Rows of similar length in one pass: less padding than with more, less overhead than with fewer."""
_REMEMBERED = 2
_SEVERAL = 8
"""A batch of at least so many rows with one and the same output means that nothing of the inputs is left."""


def calibration_rows(train: Split, count: int, seed: int = 0) -> list[Inputs]:
    """Training rows as inputs of one row each, from which a file takes the ranges of activations; always the same.

    The rows that `QuantizedNetworks` uses are among them.

    Args:
        train: all training rows.
        count: how many of them at most.
        seed: decides which.
    """
    return [dict(train.batch([int(row)])) for row in _drawn(train, count, seed)]


def _drawn(train: Split, count: int, seed: int) -> IntArray:
    return generator(seed, "int8 calibration").permutation(len(train))[:count]


class QuantizedNetworks:
    """Gives access to the quantized sub-networks of a super-network in evaluation mode.

    What a candidate computes is what its file would compute, see `nas.networks.fake_quantization`. The ranges of its
    activations are those of its architecture in float32, measured on the same training rows for every candidate. So
    repeating an evaluation gives the same bits, in every process.

    Args:
        networks: the same sub-networks in float32.
        supernet: the super-network, on any device.
        train: training rows, of which the ranges of activations come.
        seed: decides which of them are used.

    Raises:
        UserError: there are fewer than 8 training rows.
    """

    def __init__(self, networks: Networks, supernet: Supernet, train: Split, seed: int = 0) -> None:
        if len(train) < LEAST_ROWS:
            raise UserError(
                f"the ranges of activations must come from at least {LEAST_ROWS} training rows, got {len(train)}"
            )
        self._networks, self._supernet = networks, supernet
        self.train, self._seed = train, seed
        self._known: dict[Candidate, tuple[nn.Module, Ranges]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets; it extracts and calibrates networks itself."""
        return {**self.__dict__, "_known": {}}

    def forward(self, candidate: Candidate) -> Callable[..., Any]:
        """A callable that computes the outputs of a candidate as it is quantized; it takes the inputs of the model.

        It raises an ArithmeticError where outputs are not finite, or alike for all of at least 8 rows.

        Raises:
            ValueError: a layer reads values that are not finite.
        """
        policy = self.policy(candidate)
        if policy.is_float:
            return self._networks.forward(candidate)
        module, ranges = self._calibrated(candidate)
        return _Checked(quantize(module, ranges, policy))

    def extract(self, candidate: Candidate) -> nn.Module:
        """The architecture of a candidate as a plain module in float32, in evaluation mode."""
        return self._networks.extract(candidate)

    def policy(self, candidate: Candidate) -> Policy:
        """The precision of each layer, by the paths of the module that `extract` gives."""
        return policy_of(self._supernet, candidate)

    def ranges(self, candidate: Candidate) -> Ranges:
        """What the layers of a candidate's architecture read on the rows of the calibration."""
        return self._calibrated(candidate)[1]

    def _calibrated(self, candidate: Candidate) -> tuple[nn.Module, Ranges]:
        """The architecture of a candidate in float32 and its ranges; those of the last two are remembered."""
        architecture = Candidate({choice.name: candidate[choice.name] for choice in self._supernet.space.choices})
        if architecture not in self._known:
            module = self._networks.extract(architecture)
            ranges = calibrate(module, self._batches())
            while len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[architecture] = module, ranges
        return self._known[architecture]

    def _batches(self) -> list[Inputs]:
        rows = _drawn(self.train, ROWS, self._seed)
        rows = rows[np.argsort(self.train.inputs.lengths[rows], kind="stable")]
        device = device_of(self._supernet)
        parts = np.array_split(rows, -(-len(rows) // _BATCH))
        return [map_inputs(self.train.batch(part), lambda value: value.to(device)) for part in parts]


class _Checked:
    """A quantized network whose outputs are checked: rounding may leave nothing of its inputs."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._module(*args, **kwargs)
        logits = logits_of(output).detach()
        if not bool(torch.isfinite(logits).all()):
            raise ArithmeticError("outputs of the quantized network are not finite")
        if len(logits) >= _SEVERAL and bool((logits == logits.reshape(-1, logits.shape[-1])[0]).all()):
            raise ArithmeticError(f"outputs of the quantized network are alike for {len(logits)} rows")
        return output
