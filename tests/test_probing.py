"""What a runtime does with each precision on this machine: found by running it, once in a process."""

import time

import pytest

from hardware.probing import PROBED, Offer, Probe, gaining_precisions, probe
from hardware.quantized import SEVEN_BITS

KINDS = ("linear", "convolution", "embedding")


@pytest.fixture(scope="module", autouse=True)
def budget() -> None:
    """All kinds in one runtime; processor time, since other processes may work too."""
    begin = time.process_time()
    gaining_precisions("openvino", KINDS)
    assert time.process_time() - begin < 20


def test_what_openvino_makes_of_layers() -> None:
    for kind in KINDS:
        eight, four = (probe("openvino", kind, precision) for precision in ("int8-weights", "int4-weights"))
        assert eight.runs and four.runs
        assert four.size_ratio < eight.size_ratio < 0.4
    for kind in KINDS[:2]:
        int8 = probe("openvino", kind, "int8")
        assert int8.runs and int8.speed_up > 0.8 and 0.2 < int8.size_ratio < 0.4
        assert int8.note == (SEVEN_BITS if int8.saturates else "")
    assert "multiply nothing" in probe("openvino", "embedding", "int8").note
    refused = probe("openvino", "convolution", "int8-asymmetric")
    assert not refused.runs and "symmetric" in refused.note
    assert (refused.speed_up, refused.size_ratio, refused.worth) == (0, 1, False)


def test_offers_are_what_is_worth_it_and_known_afterwards() -> None:
    begin = time.perf_counter()
    found = gaining_precisions("openvino", KINDS)
    assert time.perf_counter() - begin < 0.5
    for precision in PROBED:
        worthy = {kind for kind in KINDS if probe("openvino", kind, precision).worth}
        assert set(found[precision].kinds if precision in found else ()) == worthy
    assert set(found["int8-weights"].kinds) == set(KINDS)
    assert set(gaining_precisions("openvino", ("embedding",))) >= {"int8-weights", "int4-weights"}
    assert "int8" not in gaining_precisions("openvino", ("embedding",))


def test_pytorch_offers_nothing() -> None:
    assert gaining_precisions("pytorch", KINDS) == {}
    assert "PyTorch alone" in probe("pytorch", "linear", "bfloat16").note


def test_onnx_runtime_has_asymmetric_weights_but_no_bfloat16() -> None:
    assert not probe("onnxruntime", "linear", "bfloat16").runs
    asymmetric = probe("onnxruntime", "linear", "int8-asymmetric")
    assert asymmetric.runs or "7 bits" in asymmetric.note


@pytest.mark.parametrize(
    ("runs", "speed_up", "size_ratio", "worth"),
    [(True, 1.05, 1.0, True), (True, 0.5, 0.8, True), (True, 1.04, 0.81, False), (False, 2.0, 0.1, False)],
)
def test_the_rule(runs: bool, speed_up: float, size_ratio: float, worth: bool) -> None:
    assert Probe(runs, speed_up, size_ratio, False, "").worth is worth


def test_notes_of_an_offer() -> None:
    one, other = Probe(True, 2.0, 0.5, True, "cut off"), Probe(True, 2.0, 0.5, False, "")
    assert Offer({"linear": one, "convolution": one, "embedding": other}).note == "cut off"


def test_bad_names() -> None:
    with pytest.raises(ValueError, match=r"a probe must be of one of int8, .*, got float16"):
        probe("openvino", "linear", "float16")
    with pytest.raises(ValueError, match="must be one of pytorch, onnxruntime, openvino, got tflite"):
        gaining_precisions("tflite", KINDS)
