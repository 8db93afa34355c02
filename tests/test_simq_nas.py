"""The recipe of SimQ-NAS: one search of sub-network and precisions, verified as files."""

from typing import Any

import pytest
import toy_task

import nas
from hardware.policy import PrecisionChoices
from nas.errors import NoFeasible, UserError
from nas.networks.policies import policy_of
from search_spaces.quantization import is_precision

CONFIG = nas.SimqNasConfig(PrecisionChoices(("int8", "float32")), starts=4, calibration_rows=12)


@pytest.mark.slow
def test_what_is_found_was_verified_as_files() -> None:
    supernet, train, validation = toy_task.supernet(), toy_task.split(40), toy_task.split(24, seed=1)
    found = nas.simq_nas(supernet, train, validation, ["accuracy", "size_mib"], budget=8, seed=0, config=CONFIG)
    assert len(found.study.measurements) == 8
    assert any(is_precision(choice.name) for choice in found.study.space.choices)
    assert found.verified and all({"accuracy", "size_mib"} <= set(each.measured) for each in found.verified)
    verified = {each.candidate: each for each in found.verified}
    chosen = found.select()
    assert chosen.candidate in verified, "only what was measured as a file may be chosen"
    assert chosen.values["size_mib"] == verified[chosen.candidate].measured["size_mib"]
    assert set(policy_of(supernet, chosen.candidate).layers.values()) <= {"int8", "float32"}
    least = min(each.measured["size_mib"] for each in found.verified)
    with pytest.raises(NoFeasible, match="size_mib"):
        found.select(max_size_mib=least / 2)
    again = nas.simq_nas(supernet, train, validation, ["accuracy", "size_mib"], budget=8, seed=0, config=CONFIG)
    assert [m.candidate for m in again.study.measurements] == [m.candidate for m in found.study.measurements]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"runtime": "pytorch"}, "pytorch must have the precision by-layer"),
        ({"runtime": "tensorrt"}, "the runtime must be one of pytorch, onnxruntime, openvino, got tensorrt"),
        ({"starts": 0}, "starts must be at least 1, got 0"),
        ({"calibration_rows": -2}, "calibration_rows must be at least 1, got -2"),
        ({"precisions": PrecisionChoices(("float32",))}, "leave something to choose"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_scored(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        config = nas.SimqNasConfig(**wrong)
        nas.simq_nas(
            toy_task.supernet(), toy_task.split(40), toy_task.split(8), ["macs"], budget=2, seed=0, config=config
        )
