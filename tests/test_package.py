"""The wheel holds the four packages and works where the checkout is not."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("hardware", "nas", "predictors", "search_spaces")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools")
    # Built from a copy: setuptools leaves a build folder where it works.
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(built), str(source)]
    subprocess.run(command, check=True, timeout=120)
    return next(built.glob("*.whl"))


def test_wheel_holds_the_four_packages_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} | {"nas/__init__.pyi"} <= set(names)
    assert {f"nas/reporting/assets/page.{kind}" for kind in ("css", "js")} <= set(names)


@pytest.mark.slow
def test_command_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    # The installed dependencies, but not the link to the checkout: .pth files count only in the own folder.
    own = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def output(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=clean, text=True, check=True, timeout=120, capture_output=True)
        return done.stdout

    assert "finetune" in output(str(environment / "bin" / "nas"), "--help")
    where = "import search_spaces, nas; print(nas.__file__); print(search_spaces.__file__); nas.Objective"
    for place in output(str(python), "-c", where).splitlines():
        assert Path(place).is_relative_to(environment)
