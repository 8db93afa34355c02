"""The public names are those that the interface promises, each importable from its package."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The names of `nas` are listed in its stub alone, which is what type checkers and readers see.
PUBLIC = tuple(
    str(alias.asname)
    for node in ast.parse((ROOT / "nas" / "__init__.pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
)
NAMES = {
    "search_spaces": ("Candidate", "Choice", "Space", "Supernet", "plain_attention", "recalibrate", "space"),
    "predictors": ("Predictor",),
    "hardware": ("Backend", "Cost", "Latency", "cost", "measure_latency"),
    "nas": PUBLIC,
}


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in NAMES.items() for name in names])
def test_promised_name_is_public(package: str, name: str) -> None:
    module = import_module(package)
    assert name in module.__all__
    assert getattr(module, name) is not None


@pytest.mark.parametrize("package", NAMES)
def test_every_public_name_exists(package: str) -> None:
    module = import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), name


def test_the_stub_names_what_the_interface_promises() -> None:
    promised = {"Objective", "Study", "export", "instatune", "linas", "nsga2", "random_search", "recalibrate", "search"}
    assert promised <= set(PUBLIC) and len(set(PUBLIC)) == len(PUBLIC)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        import_module("nas").nothing  # noqa: B018


def test_nothing_large_is_imported_for_help() -> None:
    program = (
        "import sys; from nas.command.cli import main\n"
        "sys.exit(main(['--help']) or sum(name in sys.modules for name in ('torch', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60, stdout=subprocess.DEVNULL)
