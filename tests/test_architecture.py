"""Imports point one way, without cycles, and each large library has its homes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("search_spaces", "predictors", "hardware", "nas")

MAY_IMPORT = {
    "search_spaces": {"search_spaces"},
    "predictors": {"predictors"},
    "hardware": {"hardware", "search_spaces"},
    "nas": {"nas", "search_spaces", "predictors", "hardware"},
}
# The parts of `nas`, each of which may use those before it; modules outside of them are used by all.
LAYERS = (
    "data",
    "networks",
    "exporting",
    "searching",
    "profiling",
    "learning",
    "pruning",
    "evolving",
    "reporting",
    "runs",
    "command",
)
# A recipe is one paper's method; recipes are composed by others and know nothing of each other.
RECIPES = {
    "nas.searching.linas",
    "nas.learning.instatune",
    "nas.pruning.emo_pms",
    "nas.evolving.evonorm",
    "nas.profiling.simq_nas",
}
# SimQ-NAS searches with LINAS, as its paper does.
COMPOSED = {"nas.profiling.simq_nas": {"nas.searching.linas"}}
ON_TOP = {
    "nas.command.cli": set(),
    "nas.command.demo": {"nas.command.cli"},
    "nas.runs.search": {"nas.command.cli", "nas.command.demo", "nas.runs.prune"},
    "nas.runs.prune": {"nas.command.cli"},
    "nas.runs.evolve": {"nas.command.cli"},
    "nas.runs.finetune": {"nas.command.cli", "nas.command.demo"},
}

HOMES = {
    "accelerate": {"nas.learning.processes"},
    "datasets": {"nas.data.location", "nas.data.parts"},
    "matplotlib": {"nas.reporting.pictures"},
    "moocore": {"nas.searching.pareto"},
    "nncf": {"hardware.quantized"},
    "onnx": {"hardware.onnx", "hardware.onnx_int8", "hardware.onnx_layers", "hardware.template"},
    "onnxruntime": {"hardware.onnxruntime", "nas.profiling.on_device"},
    "onnxscript": {"hardware.onnx"},
    "openvino": {
        "hardware.openvino",
        "hardware.openvino_layers",
        "hardware.openvino_operators",
        "nas.profiling.on_device",
    },
    "optuna": {"nas.searching.storage", "nas.searching.study", "nas.searching.trials"},
    "plotly": {"nas.reporting.charts"},
    "pydantic": {
        "hardware.policy",
        "hardware.profile",
        "nas.command.config_file",
        "nas.learning.finetuned",
        "nas.profiling.verified_record",
        "nas.records",
        "nas.runs.exported",
        "nas.runs.folder",
        "nas.runs.precisions",
        "nas.runs.pruned_latency",
        "nas.runs.profile_kit",
    },
    "ray": {"nas.ray_address", "nas.ray_session", "nas.tuned", "nas.workers"},
    "rich": {"nas.console"},
    "scipy": {"nas.searching.acquisition", "nas.searching.knapsack", "predictors.gaussian_process"},
    "sqlalchemy": {"nas.searching.storage", "nas.searching.storage_address"},
    "transformers": {"nas.networks.pretrained", "nas.networks.untrained", "search_spaces.supernets.storage"},
    "tyro": {"nas.command.cli", "nas.runs.requests"},
}
SLOW_TO_IMPORT = {
    "accelerate",
    "datasets",
    "matplotlib",
    "nncf",
    "onnx",
    "onnxruntime",
    "openvino",
    "plotly",
    "ray",
    "sklearn",
    "transformers",
}
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """The modules that import statements among `nodes` name; `from a import b` counts as a.b where that is a module."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in SOURCES else str(node.module))
    return found


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
IMPORTS = {name: imported(ast.walk(tree)) for name, tree in TREES.items()}
OURS = {name: {other for other in found if other in SOURCES and other != name} for name, found in IMPORTS.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_packages_point_one_way(name: str) -> None:
    used = {other.split(".")[0] for other in OURS[name]}
    assert used <= MAY_IMPORT[name.split(".")[0]]


@pytest.mark.parametrize("name", [name for name in SOURCES if name.count(".") > 1 and name.startswith("nas.")])
def test_the_parts_of_nas_point_one_way(name: str) -> None:
    below = LAYERS[: LAYERS.index(name.split(".")[1]) + 1]
    parts = {other.split(".")[1] for other in OURS[name] if other.startswith("nas.") and other.count(".") > 1}
    assert parts <= set(below)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_recipes_do_not_know_each_other(recipe: str) -> None:
    assert OURS[recipe] & (RECIPES - {recipe}) <= COMPOSED.get(recipe, set())


@pytest.mark.parametrize("module", sorted(ON_TOP))
def test_commands_are_on_top(module: str) -> None:
    assert module in SOURCES
    assert {name for name, used in OURS.items() if module in used} <= ON_TOP[module]


def test_no_cycles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in sorted(OURS[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in OURS:
        visit(name, ())


@pytest.mark.parametrize("name", SOURCES)
def test_libraries_are_imported_in_their_homes(name: str) -> None:
    for library in {module.split(".")[0] for module in IMPORTS[name]}:
        if library == "sklearn":
            assert name.startswith("predictors.")
        elif library in HOMES:
            assert name in HOMES[library], f"{library} is imported in {name}"


@pytest.mark.parametrize("name", SOURCES)
def test_slow_libraries_are_imported_late(name: str) -> None:
    on_top = {module.split(".")[0] for module in imported(iter(TREES[name].body))}
    assert not on_top & SLOW_TO_IMPORT


@pytest.mark.parametrize("name", SOURCES)
def test_no_type_checking_blocks_and_no_pickle(name: str) -> None:
    names = {node.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Name)}
    assert "TYPE_CHECKING" not in names
    assert not {"pickle", "cloudpickle", "dill", "joblib"} & IMPORTS[name]
