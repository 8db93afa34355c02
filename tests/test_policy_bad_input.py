"""Policies and calibration that make no sense are refused in one sentence, and nothing is left behind."""

from pathlib import Path

import pytest
import torch
from torch import nn

from hardware import Backend, ConversionError, OnnxRuntimeBackend, OpenVinoBackend
from hardware.policy import Policy
from search_spaces.inputs import Inputs
from search_spaces.quantization import LayerPrecision
from tests.by_layer import Text

BACKENDS = [OpenVinoBackend, OnnxRuntimeBackend]


def _named() -> tuple[nn.Module, Inputs]:
    class Named(nn.Module):
        """Two inputs by name: a text and numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.words, self.mix = nn.Embedding(20, 8), nn.Linear(8, 8)

        def forward(self, ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.mix(self.words(ids)).mean(1) + numbers
            return out

    return Named().eval(), {"ids": torch.ones(2, 6, dtype=torch.long), "numbers": torch.randn(2, 8)}


@pytest.mark.parametrize("make", BACKENDS)
@pytest.mark.parametrize(
    ("path", "precision", "words"),
    [
        ("absent.deep", "int8", "a policy must name layers of the network, which has no layer absent.deep"),
        ("absent", "float32", "a policy must name layers of the network, which has no layer absent"),
        ("norm", "int8-weights", "must name linear layers, convolutions and embeddings, norm is a LayerNorm"),
        ("words", "int8", "embeddings multiply nothing, so words must be in int8-weights or float32, got int8"),
    ],
)
def test_layers(make: type[Backend], path: str, precision: LayerPrecision, words: str, tmp_path: Path) -> None:
    ids = torch.randint(0, 200, (2, 12))
    with pytest.raises(ValueError, match=words):
        make().convert(Text().eval(), (ids,), tmp_path, precision=Policy({path: precision}))
    assert list(tmp_path.iterdir()) == []


class Computed(nn.Module):
    """A layer whose weight is another one in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.scaled = nn.Linear(8, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.of = nn.Linear(8, 8)
        self.of.forward = self._forward  # type: ignore[method-assign]

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.of.weight * x.mean())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.of(self.scaled(self.plain(x)))
        return out


@pytest.mark.parametrize("make", BACKENDS)
def test_a_layer_whose_weight_is_computed(make: type[Backend], tmp_path: Path) -> None:
    run_in, example = make(), (torch.randn(4, 8),)
    with pytest.raises(ConversionError, match="of must stay in float32, because its weight is computed anew in every"):
        run_in.convert(Computed().eval(), example, tmp_path, precision=Policy({"of": "int8"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", BACKENDS)
def test_rows_for_calibration(make: type[Backend], tmp_path: Path) -> None:
    (module, example), run_in, policy = _named(), make(), Policy({"mix": "int8"})
    ids = torch.ones(1, 6, dtype=torch.long)

    def refused(rows: list[Inputs], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            run_in.convert(module, example, tmp_path, precision=policy, calibration=rows)
        with pytest.raises(ValueError, match=words):
            run_in.convert(module, example, tmp_path, precision=torch.int8, calibration=rows)

    good = {"ids": ids, "numbers": torch.randn(1, 8)}
    refused([], "must be calibrated on at least one row, got none; give some rows of the training data")
    refused([good, {"ids": ids}], "must have the inputs ids, numbers, row 1 has no numbers")
    refused([{**good, "numbers": torch.randn(1, 9)}], r"numbers must have the shape \(any, 8\) .* row 0 has \(1, 9\)")
    refused([good, good, {**good, "ids": ids[0]}], r"ids must have the shape \(any, any\) .* row 2 has \(6\)")
    assert list(tmp_path.iterdir()) == []
    assert run_in.convert(module, example, tmp_path, precision=policy, calibration=[good]).is_file()


@pytest.mark.parametrize("make", BACKENDS)
def test_rows_that_make_the_network_useless(make: type[Backend], tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    example, policy, rows = (torch.randn(4, 8),), Policy({"0": "int8", "2": "int8"}), [(torch.zeros(1, 8),)]
    with pytest.raises(ConversionError, match="computes the same for all inputs; keep more layers in float32"):
        make().convert(module, example, tmp_path, precision=policy, calibration=rows)
    with pytest.raises(ValueError, match="rows for calibration must hold numbers, row 1 has others in "):
        make().convert(
            module, example, tmp_path, precision=policy, calibration=[*rows, (torch.full((1, 8), torch.nan),)]
        )
    assert list(tmp_path.iterdir()) == []
    # The layer that had no input but zeros does the harm.
    harmless = Policy({"0": "float32", "2": "int8"})
    assert make().convert(module, example, tmp_path, precision=harmless, calibration=rows).is_file()
