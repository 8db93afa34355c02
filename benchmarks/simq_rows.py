"""The rows of `simq_nas.py`: each finds networks in its own way, at most a handful of which are verified as files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from simq_figures import spread_along
from simq_files import FP32, Files, Point
from simq_problem import RUNTIME, SEED, Problem

from hardware.backend import arrange
from hardware.inputs import split
from hardware.openvino_layers import simplify
from hardware.profile import BY_LAYER, DeviceProfile, Precision
from hardware.quantized import has_attention, silent
from nas import linas, nsga2, random_search
from nas.data.accuracy import predict
from nas.files import replacing_folder
from nas.networks.networks import Networks
from nas.searching.first_policies import StartedLinas, first_policies, layer_scores
from nas.searching.relative_latency import LatencySettings
from nas.searching.supernet_search import Algorithm, search
from search_spaces import Space

DROPS = (0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Budgets of accuracy control: points that the quantized network may lose on the rows of the searches."""
BELOW = 0.05
"""How far below the full network's the accuracy of the reference point of hypervolumes lies."""
SINGLE: dict[str, Precision] = {FP32: "float32", "int8": "int8", "bf16": "bfloat16"}
SEARCHED = ("joint", "joint_random", "joint_nsga2", "policy_only", "architecture_then_int8")


@dataclass(frozen=True)
class Known:
    """What rows build on, all of it measured once.

    Args:
        by_layer: device profile with a precision for every layer.
        one_precision: the one in float32.
        accuracy: of the full network in float32, on the rows of the searches.
    """

    by_layer: DeviceProfile
    one_precision: DeviceProfile
    accuracy: float


def points_of(row: str, problem: Problem, known: Known, files: Files) -> list[Point]:
    """What a row proposes, by its own figures alone; files are written here by accuracy control alone."""
    if row in SINGLE:
        return [Point(row, problem.full, SINGLE[row])]
    if row == "accuracy_control":
        return accuracy_controlled(problem, files)
    if row == "knapsack":
        return knapsacks(problem, known)
    if row == "architecture_then_int8":
        profile, space = known.one_precision, problem.supernet.space
        found = _searched(row, problem, known, linas, space, profile, problem.networks, files.folder.parent)
        return [
            Point(each.name, problem.space.candidate({**problem.full, **each.candidate}), "int8", each.values)
            for each in found
        ]
    space = problem.policies if row == "policy_only" else problem.space
    networks = problem.quantized()
    algorithms: dict[str, Algorithm] = {"joint_random": random_search, "joint_nsga2": nsga2}
    algorithm = algorithms.get(row) or StartedLinas(networks)
    return _searched(row, problem, known, algorithm, space, known.by_layer, networks, files.folder.parent)


def knapsacks(problem: Problem, known: Known) -> list[Point]:
    """The full network with the precisions that cost least of its loss, within budgets of latency and as many of size.

    Budgets are evenly spaced, from what the cheapest precisions cost towards what the dearest do.
    """
    space, each = problem.policies, -(-problem.sizes.budgets // 2)
    latency, size = problem.costs(known.by_layer, space)
    scores = layer_scores(problem.quantized(), space, SEED)
    # Half of the policies would be of narrower networks, of which this space has none.
    found = [policy for cost in (latency, size) for policy in first_policies(space, scores, cost, 2 * each)[:each]]
    return [
        Point(f"knapsack-{number}", problem.space.candidate(candidate))
        for number, candidate in enumerate(list(dict.fromkeys(found))[: problem.sizes.budgets])
    ]


def full_accuracy(problem: Problem) -> float:
    """Accuracy of the full network in float32 on the rows of the searches."""
    logits = predict(problem.networks.forward(problem.full), problem.searched)
    return problem.searched.task.score(logits, problem.searched)


def _searched(
    row: str,
    problem: Problem,
    known: Known,
    algorithm: Algorithm,
    space: Space,
    profile: DeviceProfile,
    networks: Networks,
    folder: Path,
) -> list[Point]:
    """The points of a search; all that it measured goes into a table in `folder`."""
    study = search(
        problem.supernet,
        space,
        problem.searched,
        problem.objectives(profile, space),
        budget=problem.sizes.budget,
        seed=SEED,
        algorithm=algorithm,
        networks=networks,
        example_inputs=problem.example,
        latency=LatencySettings(runtime=RUNTIME, precision=profile.precision),
        calibration=problem.norm_rows,
        estimate=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    study.to_pandas().to_csv(folder / f"{row}.csv", index=False)
    front, full = study.front(), space.encode([space.full()])
    costs = [float(each.exact(full)[0]) for each in study.objectives if each.exact is not None]
    values = np.array([[each.sign * member.values[each.name] for each in study.objectives] for member in front])
    chosen = spread_along(values, [BELOW - known.accuracy, *costs], problem.sizes.points)
    return [
        Point(f"{row}-{number}", front[index].candidate, BY_LAYER, front[index].values)
        for number, index in enumerate(chosen)
    ]


class Validation:
    """The validation function of accuracy control: the rows that are right, one by one.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, network: Any, rows: Iterable[tuple[dict[str, Any], int]]) -> tuple[float, list[float]]:
        self.calls += 1
        names = [port.any_name for port in network.inputs]
        right = [float(network(arrange(names, (), row))[0].argmax() == label) for row, label in rows]
        return sum(right) / len(right), right


# Once to see what the function returns, once for the network in float32, and once for that in INT8.
_NOTHING_REVERTED = 3
_RANKED = 100
"""Rows that layers are ranked on: with nncf's 300, six budgets of one network take longer than all other rows."""


def accuracy_controlled(problem: Problem, files: Files, drops: Sequence[float] = DROPS) -> list[Point]:
    """The full network quantized by nncf with accuracy control at several budgets, written as OpenVINO's users do.

    From the first budget that the network in INT8 keeps, larger ones give that network again.
    """
    files.write(Point(FP32, problem.full, "float32"))
    validation = [
        (dict(problem.searched.batch([row])), int(problem.searched.labels[row])) for row in range(len(problem.searched))
    ]
    found = []
    for drop in drops[: problem.sizes.budgets]:
        point, check = Point(f"accuracy_control-{drop:g}", problem.full, "int8"), Validation()
        with silent(), replacing_folder(files.folder / point.name) as part:
            model = _controlled(files, problem, validation, check, drop)
            path = part / "model.xml"
            import openvino

            openvino.save_model(model, path)
            files.note(part, point, path)
        found.append(point)
        if check.calls == _NOTHING_REVERTED:
            break
    return found


def _controlled(files: Files, problem: Problem, validation: Sequence[Any], check: Validation, drop: float) -> Any:
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import (
        AdvancedAccuracyRestorerParameters,
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
    )

    model = openvino.Core().read_model(files.folder / FP32 / "model.onnx")
    simplify(model)
    names = [port.any_name for port in model.inputs]

    def arrays(item: tuple[dict[str, Any], int]) -> dict[str, Any]:
        return arrange(names, (), item[0])

    samples = [arrange(names, *split(row)) for row in problem.calibration]
    return nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(samples),
        nncf.Dataset(validation, arrays),
        check,
        max_drop=drop / 100,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER
        if has_attention(each.get_type_name() for each in model.get_ops())
        else None,
        # A layer that is taken back has its own weights again, but its input stays smoothed (nncf 3.4): with smoothing
        # every step back makes the network worse, down to guessing.
        advanced_quantization_parameters=AdvancedQuantizationParameters(
            smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
        ),
        advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
            num_ranking_workers=1, ranking_subset_size=_RANKED
        ),
    )
