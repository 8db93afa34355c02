"""`nas demo`: the whole of the main job on a small language model and movie-review sentences, on this machine.

Fetch both (once), fine-tune the super-network, profile this machine, search sub-network and precision of every layer
for accuracy and predicted latency, measure the front as files, export the most accurate network that is `SPEEDUP` times
as fast as the full one is in PyTorch. The settings are what fits into ten minutes on two cores.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from hardware.registry import runtime
from nas.command.demo_files import SENTENCES, WEIGHTS, cache_folder, fetch, unpack_model, unpack_sentences
from nas.console import say
from nas.memory import peak_memory_mib
from nas.records import Milliseconds, Record, read_record, write_record
from nas.reporting.endings import print_comparison
from nas.runs.export import export_run
from nas.runs.finetune import finetune_run
from nas.runs.precisions import check_by_layer
from nas.runs.profile import profile_beside_eager, profile_device
from nas.runs.report import report_run
from nas.runs.requests import ExportRequest, FinetuneRequest, ProfileRequest, ReportRequest, SearchRequest
from nas.runs.search import search_run
from nas.sentences import points
from nas.settings import (
    Common,
    DataSettings,
    Limits,
    ProfileSettings,
    SearchSettings,
    SpaceSettings,
    TrainingSettings,
)

MODEL = "all-MiniLM-L6-v2"
# INT8 alone gives more than half of the speed-up, so no smaller sub-networks are needed; fewer of them train better.
ELASTIC = SpaceSettings(depth="5,6", heads="0.5,0.75,1.0", ffn="0.5,0.75,1.0", drop_order="spread")
TRAINING = TrainingSettings(steps=260, batch_size=32, learning_rate=1e-4, freeze_embeddings=True)
SEARCH = SearchSettings(
    objectives="accuracy,latency_ms", budget=50, rows=600, quantize=True, calibration_rows=64, verify=4
)
PROFILE = ProfileSettings(runtime="openvino", quantize=True, budget=24, minutes=1.5, tolerance=0.1)
SPEEDUP = 5.3
"""The chosen network is at least so many times as fast as the full one in PyTorch, as measured after the search."""


class _Today(Record):
    """`today.json`: the latency of the full network in eager PyTorch."""

    latency_ms: Milliseconds


class Stages:
    """Seconds of each stage of the demo, in their order; what an earlier start had done takes nearly none."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def end(self, name: str) -> None:
        """The stage of that name is done, and the next begins."""
        now = time.monotonic()
        self.seconds[name], self._began = now - self._began, now


def demo(out: Path, cache: Path | None, common: Common) -> dict[str, Any]:
    """Run the demo in the folder `out`, or go on with it.

    Raises:
        UserError: the runtime is missing, the files cannot be fetched, or `out` was begun with other settings.
        NoFeasible: no measured candidate is fast enough.
    """
    check_by_layer(PROFILE.runtime, one_precision=False)
    archives = fetch(cache or cache_folder(), say)
    stages = Stages()
    model, reviews, run = out / MODEL, out / "reviews", out / "run"
    if not model.exists():
        unpack_model(archives[WEIGHTS], model)
    if not reviews.exists():
        unpack_sentences(archives[SENTENCES], reviews)
    data = DataSettings(str(reviews / "reviews.csv"))
    finetune_run(FinetuneRequest(str(model), run, data, elastic=ELASTIC, training=_training(), common=common))
    stages.end("fine-tuning")
    profile = out / "profile.json"
    request = ProfileRequest(subject=str(run), out=profile, settings=PROFILE, common=common)
    profiled, today_ms = _profiled(request, out / "today.json")
    limits = Limits(max_latency_ms=today_ms / SPEEDUP)
    stages.end("profile")
    found = search_run(SearchRequest(run, replace(SEARCH, profile=(profile,)), limits, common=common))
    stages.end("search and measuring its front")
    exported = export_run(ExportRequest(run, out / "export", limits=limits, common=common))
    # After the export, whose comparison it shows.
    report = report_run(ReportRequest(run, limits=limits, common=common))
    stages.end("comparison, export and report")
    return {
        **exported,
        "measured": found["measured"],
        "picture": report["picture"],
        "report": report["report"],
        "profile": profiled,
        "verified": found.get("verified"),
        "stages": stages.seconds,
        "seconds": sum(stages.seconds.values()),
        "peak_memory_mib": peak_memory_mib(),
    }


def _training() -> TrainingSettings:
    """The settings of the fine-tuning, in bfloat16 where the processor is faster in it."""
    note = runtime("pytorch").notes.get("bfloat16", "")
    return TRAINING if note else replace(TRAINING, mixed_precision="bf16")


def _profiled(request: ProfileRequest, path: Path) -> tuple[dict[str, Any], float]:
    """The profile, and the latency of the full network in PyTorch, measured once: it sets the limit of the search."""
    if path.is_file():
        before = read_record(path, _Today).latency_ms
        return profile_device(request), before
    profiled, today_ms = profile_beside_eager(request)
    write_record(path, _Today(latency_ms=today_ms))
    return profiled, today_ms


def plan(out: Path, cache: Path | None) -> dict[str, Any]:
    """What the demo would do."""
    return {
        "fetch": f"86 MB, once, into {cache or cache_folder()}",
        "write": f"{out} (about 250 MB)",
        "fine-tuning": f"{TRAINING.steps} steps of {TRAINING.batch_size} sentences, about 4 minutes on two cores",
        "profile": f"latency of {PROFILE.budget} sub-networks, about 1.5 minutes",
        "search": f"accuracy of {SEARCH.budget} sub-networks with precisions, about 1 minute",
        "verification and export": "about 3 minutes",
        "peak_memory_mib": 3800,
    }


def show(result: Mapping[str, Any], out: TextIO) -> None:
    """Print the result of the demo."""
    low, high = result["accuracy_difference_interval"]
    print(
        f"{result['speed_up_over_today']:.1f} times as fast as the network today, at "
        f"{points(result['accuracy_difference_points'])} points of accuracy "
        f"(95 % interval {points(low)} to {points(high)}).",
        file=out,
    )
    print_comparison(result, out)
    minutes, memory = result["seconds"] / 60, result["peak_memory_mib"]
    verified = (result["verified"] or {}).get("latency_ms")
    if verified is not None:
        rows, count, left = result["profile"]["sub_networks"], verified["count"], verified["non_dominated"]
        print(
            f"Latencies of the front, predicted from {rows} profiled sub-networks and then measured: "
            f"{verified['mape']:.1f} % apart, {left} of {count} still on the front.",
            file=out,
        )
    print(f"All measured candidates: {result['report']} (open it in a browser), {result['picture']}.", file=out)
    parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in result["stages"].items())
    print(f"This took {minutes:.1f} minutes ({parts}) and {memory:,.0f} MiB at most.", file=out)
