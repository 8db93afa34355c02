"""The table of objectives: the one home of their names, directions, units and limits."""

import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import Command

from nas.errors import UserError
from nas.objectives import FORMULAS, MEASURED, NAMES, SCORES, TABLE, check_limits, is_latency, known_quantity, quantity
from nas.searching.objectives import objective
from nas.settings import Limits

ROOT = Path(__file__).parents[1]


def test_every_quantity_has_its_limit_and_no_other_limit_is_there() -> None:
    assert {field.name for field in fields(Limits)} == {each.limit_name for each in TABLE}
    for each in TABLE:
        value = 1.0 if each.source == "score" else 3.0
        assert Limits(**{each.limit_name: value}).checked() == {each.limit_name: value}
        assert each.limit_name == ("max_" if each.direction == "minimize" else "min_") + each.name
        assert objective(each.name).direction == each.direction


def test_every_quantity_comes_from_one_source() -> None:
    assert len(set(NAMES)) == len(TABLE) and set(SCORES) | set(FORMULAS) | set(MEASURED) == set(NAMES)
    assert len(SCORES) + len(FORMULAS) + len(MEASURED) == len(NAMES)
    assert set(MEASURED) == {"latency_ms", "energy_mj", "memory_mib"} and set(SCORES) == {"accuracy", "r2"}


def test_the_guide_and_the_help_name_every_one(nas_command: Command) -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    text = nas_command("search", "--help").out
    for each in TABLE:
        flag = f"--{each.limit_name.replace('_', '-')}"
        assert f"`{each.name}`" in guide, f"the guide must name {each.name}"
        assert re.search(rf"\b{each.name}\b", text), f"the help must name {each.name}"
        assert flag in text and flag in guide


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("min_accuracy", 95, "--min-accuracy must be a share from 0 to 1 (95 % is 0.95), got 95"),
        ("min_accuracy", 90.5, "--min-accuracy must be a share from 0 to 1 (90.5 % is 0.905), got 90.5"),
        ("min_accuracy", 1e9, "--min-accuracy must be a share from 0 to 1 (95 % is 0.95), got 1e+09"),
        ("min_accuracy", -0.1, "--min-accuracy must be a share from 0 to 1 (95 % is 0.95), got -0.1"),
        ("min_accuracy", math.nan, "--min-accuracy must be a share from 0 to 1 (95 % is 0.95), got nan"),
        ("min_r2", 1.5, "--min-r2 must be at most 1, got 1.5"),
    ],
)
def test_limits_that_no_score_can_meet(flag: str, value: float, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        Limits(**{flag: value}).checked()


def test_limits_that_may_be_met() -> None:
    for limits in (Limits(min_accuracy=0.0), Limits(min_accuracy=1.0), Limits(min_r2=-5.0), Limits(max_latency_ms=1e9)):
        assert len(limits.checked()) == 1
    check_limits({"max_error": 95.0, "min_latency_ms_phone": 3.0})


@pytest.mark.parametrize(
    ("name", "value", "text", "axis"),
    [
        ("accuracy", 0.8312, "83.1 %", "accuracy (%)"),
        ("r2", 0.51234, "0.512", "R squared"),
        ("latency_ms", 12.345, "12.3 ms", "latency (ms)"),
        ("latency_ms", 0.01234, "0.0123 ms", "latency (ms)"),
        ("parameters", 30_338, "0.0303 M", "parameters (M)"),
        ("memory_mib", 0.0, "0 MiB", "memory (MiB)"),
        ("latency_ms_phone", 1234.5, "1,234 ms", "latency on phone (ms)"),
        ("macs", 2_622_528, "2.62 M", "multiply-accumulates (M)"),
        ("parameters", 22_713_728, "22.7 M", "parameters (M)"),
        ("size_mib", 86.6, "86.6 MiB", "size (MiB)"),
        ("energy_mj", 41.27, "41.3 mJ", "energy (mJ)"),
        ("memory_mib", 512.4, "512 MiB", "memory (MiB)"),
        ("size_mib", 0.0, "0.0 MiB", "size (MiB)"),
        ("macs", 2e19, "2e+13 M", "multiply-accumulates (M)"),
        ("own_module:size", 0.5, "0.5000", "own module:size"),
    ],
)
def test_values_for_people(name: str, value: float, text: str, axis: str) -> None:
    assert quantity(name).shown(value) == text and quantity(name).axis == axis
    assert is_latency(name) == name.startswith("latency_ms")


def test_values_that_are_shown_together_have_equal_decimals() -> None:
    latency = quantity("latency_ms")
    decimals = latency.decimals_of([0.8717, 3.2, 41.27])
    assert [latency.shown(value, decimals) for value in (0.8717, 41.27)] == ["0.87 ms", "41.27 ms"]
    assert latency.decimals_of([]) == latency.decimals and latency.decimals_of([1e-30]) == 8


def test_names_that_are_none() -> None:
    with pytest.raises(UserError, match=f"must be one of {', '.join(NAMES)} or your own module:function, got 'speed'"):
        known_quantity("speed")
    with pytest.raises(UserError):
        known_quantity("latency_ms_phone")
    assert known_quantity("own:f").direction == "minimize"
