"""`nas doctor`: what is installed, usable and missing on this machine, and the command that installs the rest."""

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, TextIO

from hardware.machine import usable_cores
from nas.console import print_table

_IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL"}


@dataclass(frozen=True)
class Package:
    """One library that supersieve uses: its version, whether it can be imported, and what to do where it cannot."""

    name: str
    version: str | None
    usable: bool
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `nas doctor` found; `healthy` when everything that the commands need can be imported.

    `runtimes` holds name, version, usable precisions and notes of each runtime that latencies can be measured in.
    """

    python: str
    system: str
    processor: str
    cpu_features: tuple[str, ...]
    cpus: int
    torch_threads: int | None
    memory_gib: float | None
    accelerators: tuple[str, ...]
    packages: tuple[Package, ...]
    runtimes: tuple[dict[str, Any], ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether every library that the commands need can be used."""
        return all(package.usable for package in self.packages)

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as one object."""
        return {"healthy": self.healthy, **asdict(self)}


def diagnose() -> Diagnosis:
    """Look at this machine; imports every library once, so it takes some seconds."""
    # nncf reports its use over the network unless it takes itself to be tested; looking at it is no use.
    os.environ.setdefault("NNCF_CI", "1")
    packages = tuple(_package(name) for name in _requirements())
    processor, features = _processor()
    threads, accelerators = _torch()
    return Diagnosis(
        python=f"{platform.python_version()} ({sys.executable})",
        system=platform.platform(),
        processor=processor,
        cpu_features=features,
        cpus=usable_cores(),
        torch_threads=threads,
        memory_gib=_memory_gib(),
        accelerators=accelerators,
        packages=packages,
        runtimes=_runtimes(),
    )


def show(diagnosis: Mapping[str, Any], out: TextIO) -> None:
    """Print a diagnosis for a person."""
    threads = diagnosis["torch_threads"] or "unknown"
    print(f"Python       {diagnosis['python']}", file=out)
    print(f"System       {diagnosis['system']}", file=out)
    print(f"Processor    {diagnosis['processor']}, {diagnosis['cpus']} usable, torch uses {threads} threads", file=out)
    print(f"Features     {', '.join(diagnosis['cpu_features']) or 'none of those that matter here'}", file=out)
    print(f"Memory       {diagnosis['memory_gib']} GiB", file=out)
    print(f"Accelerator  {', '.join(diagnosis['accelerators']) or 'none'}", file=out)
    rows = {
        package["name"]: (package["version"] or "missing", "yes" if package["usable"] else "no", package["advice"])
        for package in diagnosis["packages"]
    }
    _show_runtimes(diagnosis["runtimes"], out)
    print_table("Libraries", ("version", "usable", "to mend it"), rows, out)


def _requirements() -> list[str]:
    try:
        lines = requires("supersieve") or []
    except PackageNotFoundError:
        return []
    found = []
    for line in lines:
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match is not None and "extra ==" not in line:
            found.append(match.group().lower())
    return found


def _package(name: str) -> Package:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Package(name, None, False, f"pip install {name}")
    try:
        import_module(_IMPORTED_AS.get(name, name.replace("-", "_")))
    except Exception as error:  # a broken library can raise anything, and saying so is the purpose here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Package(name, installed, False, f"{reason}; pip install --force-reinstall {name}")
    return Package(name, installed, True)


def _runtimes() -> tuple[dict[str, Any], ...]:
    """What can be measured here; nothing where not even torch can be imported, which the libraries tell."""
    try:
        from hardware import backends
    except Exception:  # a broken library can raise anything
        return ()
    return tuple(asdict(runtime) for runtime in backends())


def _show_runtimes(runtimes: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    rows = {
        runtime["name"]: (
            runtime["version"] or "missing",
            ", ".join(runtime["precisions"]) or "none",
            "; ".join(reason if what == "all" else f"{what}: {reason}" for what, reason in runtime["notes"].items()),
        )
        for runtime in runtimes
    }
    if rows:
        print_table("Runtimes", ("version", "precisions", "notes"), rows, out)


def _processor() -> tuple[str, tuple[str, ...]]:
    try:
        from hardware.machine import processor
    except Exception:  # as above
        return platform.processor() or platform.machine(), ()
    return processor()


def _memory_gib() -> float | None:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    return round(total / 2**30, 1)


def _torch() -> tuple[int | None, tuple[str, ...]]:
    try:
        import torch
    except ImportError:
        return None, ()
    names = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if torch.backends.mps.is_available():
        names.append("Apple GPU (mps)")
    return torch.get_num_threads(), tuple(names)
