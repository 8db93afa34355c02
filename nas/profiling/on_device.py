"""Measure the networks beside this file on this device: `python measure.py`, with numpy and the runtime installed.

This script needs only Python 3.9 or newer, numpy, and the runtime that plan.json names (onnxruntime or openvino). It
writes result.json after every network, and continues an interrupted measurement. Stop other programs on the device
before you start it.
"""

import argparse
import gc
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# The protocol of `hardware.protocol` and the description of `hardware.machine` are repeated in this file, because this
# project is not installed on the device. A test compares both.

FEATURES = [
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
]
Run = Callable[[], object]
Json = dict[str, Any]


def main() -> None:
    """Measure the networks of the plan that have no stable row in the result yet."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent, help="where plan.json is")
    folder = flags.parse_args().folder
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        inputs = {name: file[name] for name in file.files}
    result_path = folder / "result.json"
    load, runtime_version = RUNTIMES[plan["profile"]["runtime"]](plan["profile"], inputs)
    full = load(folder / "full")
    result = previous_result(result_path, plan, runtime_version)
    gc.disable()  # a collection during a call would count as latency
    if not result["profile"].get("reference", {}).get("stable"):
        # The full network against itself: the ratio is about one, and its interval shows how steady the device is.
        result["profile"]["reference"] = timed(full, full, plan["profile"]["protocol"])
        write(result_path, result)
    rows = result["profile"]["rows"]
    for order, index in enumerate(plan["order"]):
        if any(row["order"] == order and row["timing"]["stable"] for row in rows):
            continue
        planned, started = plan["rows"][index], time.monotonic()
        timing = timed(load(folder / planned["folder"]), full, plan["profile"]["protocol"])
        rows[:] = [row for row in rows if row["order"] != order]
        spent = time.monotonic() - started
        rows.append({"candidate": planned["candidate"], "timing": timing, "order": order, "seconds": spent})
        write(result_path, result)
        note = "" if timing["stable"] else " (not stable)"
        print(f"{len(rows)} of {len(plan['order'])}: {timing['median_ms']:.3f} ms{note}", file=sys.stderr, flush=True)
    print(f"Done. Copy {result_path} back and read it: nas profile-result MODEL result.json --out profile.json")


def previous_result(path: Path, plan: Json, runtime_version: str) -> Json:
    """The result so far, or an empty one; exits if the file is of another plan, device or runtime."""
    profile = {**plan["profile"], "machine": machine(), "runtime_version": runtime_version, "rows": []}
    if path.is_file():
        found: Json = json.loads(path.read_text(encoding="utf-8"))
        alike = all(found["profile"].get(key) == value for key, value in profile.items() if key != "rows")
        if found["planned"] != [row["candidate"] for row in plan["rows"]] or not alike:
            sys.exit(f"{path} is of another plan, device or runtime: move it away")
        return found
    return {"planned": [row["candidate"] for row in plan["rows"]], "order": plan["order"], "profile": profile}


def write(path: Path, result: Json) -> None:
    """Write the result through a temporary file, so that a kill leaves either the old or the new content."""
    temporary = path.with_name(".result.json.part")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(result, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def onnxruntime(profile: Json, inputs: dict[str, Any]) -> tuple[Callable[[Path], Run], str]:
    """A function that loads a network into ONNX Runtime, and the version of the runtime."""
    import onnxruntime as library

    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = profile["threads"], 1

    def load(folder: Path) -> Run:
        path = next(folder.glob("*.onnx"))
        session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {each.name: inputs[each.name] for each in session.get_inputs()}
        return lambda: session.run(None, feed)

    return load, str(library.__version__)


def openvino(profile: Json, inputs: dict[str, Any]) -> tuple[Callable[[Path], Run], str]:
    """A function that loads a network into OpenVINO, and the version of the runtime."""
    from importlib.metadata import version

    import openvino as library

    # Without a hint OpenVINO would compute float32 networks in BF16 where the processor supports it.
    hint = {"bfloat16": "bf16"}.get(profile["precision"], "f32")
    settings = {
        "INFERENCE_NUM_THREADS": profile["threads"],
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
    }

    def load(folder: Path) -> Run:
        path = folder / "model.xml" if (folder / "model.xml").is_file() else folder / "model.onnx"
        core = library.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
        request = compiled.create_infer_request()
        feed = {port.get_any_name(): inputs[port.get_any_name()] for port in compiled.inputs}
        return lambda: request.infer(feed, share_inputs=True)

    return load, version("openvino")


RUNTIMES = {"onnxruntime": onnxruntime, "openvino": openvino}


def timed(network: Run, reference: Run, protocol: Json) -> Json:
    """Measure a network alternately with a reference until the 95 % interval of their ratio is narrow enough.

    Returns:
        The fields of a `Timing` (`hardware.profile`).
    """
    clock = ("wall", "cpu").index(protocol["clock"])
    warm = warmed_up((network, reference), protocol, clock)
    own: list[tuple[float, float]] = []
    other: list[tuple[float, float]] = []
    while len(own) < protocol["rounds_most"]:
        # Alternate which is called first, so that neither always finds the caches that the other has left.
        pairs = [(network, own), (reference, other)]
        for run, times in pairs if len(own) % 2 == 0 else pairs[::-1]:
            times.append(watched(run))
        if len(own) >= protocol["rounds"] and half_width(ratios(own, other, clock)) <= protocol["tolerance"]:
            break
    wall = np.array([each[0] for each in own])
    low, median, high, p95 = (float(value) for value in np.percentile(wall, (25, 50, 75, 95)))
    cpu = ratios(own, other, 1)
    width = half_width(ratios(own, other, clock))
    return {
        "median_ms": median,
        "p95_ms": p95,
        "quartiles": [low, high],
        "cpu_ms": float(np.median([each[1] for each in own])),
        "noise": (high - low) / median,
        "samples": wall.tolist(),
        "ratio": float(np.median(ratios(own, other, 0))),
        "cpu_ratio": float(np.median(cpu)) if cpu else 0.0,
        "half_width": width,
        "stable": bool(warm and width <= protocol["tolerance"]),
        "reference_ms": float(np.median([each[0] for each in other])),
    }


def watched(run: Run) -> tuple[float, float]:
    """Wall and CPU milliseconds of one call."""
    start, cpu_start = time.perf_counter(), time.process_time()
    run()
    end, cpu_end = time.perf_counter(), time.process_time()
    return 1e3 * (end - start), 1e3 * (cpu_end - cpu_start)


def warmed_up(networks: tuple[Run, Run], protocol: Json, clock: int) -> bool:
    """Call both alternately until the medians of the last two windows agree; False if that is not reached."""
    times: list[list[float]] = [[], []]
    window = protocol["window"]
    for _ in range(protocol["warmup_most"]):
        for run, taken in zip(networks, times):  # noqa: B905
            taken.append(watched(run)[clock])
        if len(times[0]) >= 2 * window:
            medians = [(np.median(t[-2 * window : -window]), np.median(t[-window:])) for t in times]
            if all(abs(now - before) <= protocol["warmup_tolerance"] * before for before, now in medians):
                return True
    return bool(protocol["warmup_most"] == 0)


def ratios(own: list[tuple[float, float]], other: list[tuple[float, float]], clock: int) -> list[float]:
    """Ratios to the reference by round, of wall (0) or CPU time (1); without rounds in which the clock stood still."""
    pairs = [(mine[clock], theirs[clock]) for mine, theirs in zip(own, other)]  # noqa: B905
    return [mine / theirs for mine, theirs in pairs if mine > 0 and theirs > 0]


def half_width(values: list[float]) -> float:
    """Half-width of the 95 % interval of the median, relative to the median; 1e9 for fewer than 6 values.

    The bounds are two order statistics (Hahn and Meeker 1991, *Statistical Intervals*, section 5.2).
    """
    # `tail` / 2 ** n is the probability that at most `rank` of n values are below the median.
    rank, tail = 0, 0
    while rank < len(values):
        tail += math.comb(len(values), rank)
        if 2 * tail > 0.05 * 2 ** len(values):
            break
        rank += 1
    if rank == 0:
        return 1e9
    ordered = sorted(values)
    return (ordered[-rank] - ordered[rank - 1]) / 2 / float(np.median(ordered))


def machine() -> Json:
    """Description of this device, as profiles record it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags.group(1).split()) if flags else set()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processor = name.group(1).strip() if name else platform.processor() or platform.machine() or "unknown"
    return {
        "processor": shown(processor),
        "cores": cores,
        "system": shown(platform.platform()),
        "features": [feature for feature in FEATURES if feature in known],
    }


def shown(text: str) -> str:
    """Make text valid for a profile: printable, at most 256 characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:256]


if __name__ == "__main__":
    main()
