"""Times exported files loaded by this project, in a process that is driven like `fresh_process.py`.

So both are alike in all but what loads the files: neither has made a search before, and both wait for the next line.
"""

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from hardware.backend import Runner
from hardware.deployment import Deployment
from hardware.inputs import first_row, split
from hardware.registry import runtime_kind
from nas.exporting.deployed import load_deployed
from nas.exporting.network_files import network_class
from nas.networks.loading import maker
from nas.runs.folder import RunFolder
from nas.runs.loaded_search import load_search
from nas.runs.loading import LoadedRun, load_run

_FILES = {("onnxruntime", "int8"): "model-int8.onnx", ("openvino", "int8"): "openvino/model.xml"}


def _loaded(run: LoadedRun, exported: Path, deployment: Deployment, model: str | None) -> Runner:
    if not runtime_kind(deployment.runtime).runs_modules:
        path = exported / _FILES.get((deployment.runtime, deployment.precision), "model.onnx")
        return deployment.backend().load(path, threads=deployment.threads, precision=deployment.dtype)
    whole, factory = run.extract(run.supernet.space.full()), maker(model, len(run.record.classes))
    source = network_class(whole, factory)
    return load_deployed(exported / "model.safetensors", deployment, whole, source, factory).run


def main() -> None:
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    run = load_run(RunFolder(Path(request["run"])), "cpu", request["model"])
    deployment = load_search(run.folder, request["search"]).deployment
    example = split(first_row(run.example(deployment.tokens or 1)))[1]
    network = _loaded(run, Path(request["exported"]), deployment, request["model"])
    print("loaded", flush=True)
    gc.disable()
    for _ in sys.stdin:
        network(**example)  # not timed, as in the other process
        began, cpu = time.perf_counter(), time.process_time()
        network(**example)
        print(1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu), flush=True)


if __name__ == "__main__":
    main()
