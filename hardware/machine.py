"""Description of this machine, as device profiles record it."""

import os
import platform
import re
from pathlib import Path

from hardware.profile import Machine

CPU_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "i8mm",
    "bf16",
)
_CPUINFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def this_machine(accelerator: str | None = None) -> Machine:
    """Describe this machine: processor and its features, usable cores, system, and the frequency governor.

    Args:
        accelerator: name of the GPU that is measured; None if none is.
    """
    name, features = processor()
    return Machine(
        processor=_shown(name),
        cores=usable_cores(),
        system=_shown(platform.platform()),
        features=features,
        governor=_governor(),
        accelerator=None if accelerator is None else _shown(accelerator),
    )


def processor(cpuinfo: Path = _CPUINFO) -> tuple[str, tuple[str, ...]]:
    """Name of the processor, and those of `CPU_FEATURES` that it has; outside Linux no features are known."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    # x86 lists "flags", ARM lists "Features".
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags.group(1).split()) if flags else set()
    found = name.group(1).strip() if name else platform.processor() or platform.machine()
    return found, tuple(feature for feature in CPU_FEATURES if feature in known)


def in_words(processor: str, cores: int) -> str:
    """A machine in a few words: its processor and the number of cores that may be used."""
    return f"{processor}, {cores} {'core' if cores == 1 else 'cores'}"


def usable_cores() -> int:
    """Number of cores that this process may run on, which containers may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _governor() -> str | None:
    try:
        return _shown(_GOVERNOR.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


def _shown(text: str) -> str:
    """Make text valid as a `Name` of a profile: printable, at most 256 characters, not empty."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:256] or "unknown"
