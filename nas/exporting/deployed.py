"""A network in a deployment: the files that are written of it, and those files loaded again.

Figures of an export are figures of such files, never of the module that they were written from.
"""

import copy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from hardware.backend import PRECISIONS, Backend, Runner
from hardware.deployment import Deployment, loaded_files
from hardware.inputs import map_inputs, split
from hardware.policy import Policy
from hardware.pytorch import runner
from hardware.registry import runtime_kind
from hardware.runtimes import RUNTIMES
from nas.errors import UserError
from nas.exporting.loaders import deployment_loader, relative, torch_loader
from nas.exporting.network_files import Factory, NetworkClass, network_class, write_network
from search_spaces.inputs import Inputs

_MEMORY_TIMEOUT_S = 300
_MIB = 2**20


@dataclass(frozen=True)
class Deployed:
    """A network that was written for a deployment and loaded from what was written.

    Args:
        deployment: how it runs.
        folder: the exported folder that its files are in.
        path: the file that the runtime opens.
        run: computes the network, from tensors by name to logits.
        policy: the precision of its layers, where precision goes by layer.
    """

    deployment: Deployment
    folder: Path
    path: Path
    run: Runner
    policy: Policy | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that the runtime loads."""
        return sum(file.stat().st_size for file in loaded_files(self.path))

    @property
    def size_mib(self) -> float:
        """The same in MiB."""
        return self.size_bytes / _MIB


def deploy(
    network: nn.Module,
    deployment: Deployment,
    folder: Path,
    inputs: Inputs,
    *,
    policy: Policy | None = None,
    factory: Factory | None = None,
    calibration: Sequence[Inputs] | None = None,
    backend: Backend | None = None,
) -> Deployed:
    """Write the files of a deployment into an existing folder, and load them.

    Args:
        network: in evaluation mode; it is left as it is.
        deployment: how it will run.
        folder: gets `config.json` and `model.safetensors` where the runtime runs modules, else `model.onnx`, or the
            backend's file of a quantized network, in the runtime's folder for these. A `model.safetensors` or
            `model.onnx` that is there is used as it is.
        inputs: an example, by name.
        policy: the precision of its layers, where precision goes by layer.
        factory: makes the full network of a class that transformers does not have.
        calibration: training rows as inputs of one row each, for INT8.
        backend: of the deployment, which is kept for many networks; None creates one.

    Raises:
        ConversionError: the runtime does not take the network.
        ExportError: the network's class makes other modules.
        ValueError: the runtime does not have this precision.
    """
    runtime = runtime_kind(deployment.runtime)
    if runtime.runs_modules:
        weights = folder / "model.safetensors"
        if not weights.is_file():
            write_network(network, folder, factory)
        return load_deployed(weights, deployment, network, network_class(network, factory), factory)
    converter, precision = backend or deployment.backend(), deployment.numbers(policy)
    whole = folder / "model.onnx"
    if deployment.is_quantized:
        part = folder / runtime.quantized_folder
        part.mkdir(parents=True, exist_ok=True)
        path = converter.convert(network, inputs, part, precision=precision, calibration=calibration)
    else:
        # All runtimes of files read the same one, and bfloat16 is a setting of the runtime.
        path = whole if whole.is_file() else converter.convert(network, inputs, folder, precision=precision)
    run = converter.load(path, threads=deployment.threads, precision=precision)
    return Deployed(deployment, folder, path, run, policy)


def load_deployed(
    path: Path, deployment: Deployment, network: nn.Module, source: NetworkClass, factory: Factory | None
) -> Deployed:
    """What `deploy` wrote of a module, built anew from its files where a loader can build its class."""
    if source.loadable:
        lines: dict[str, Any] = {}
        # Our own template, filled with the name of a class of transformers.
        exec(compile(torch_loader(source), "README.md", "exec"), lines)
        loaded: nn.Module = lines["load"](*(() if source.is_transformers else (factory,)), str(path.parent))
    else:
        loaded = _with_weights(network, path)
    module = loaded.to(deployment.device)
    run = runner(module, threads=deployment.threads, precision=PRECISIONS[deployment.precision])
    return Deployed(deployment, path.parent, path, run)


def _with_weights(network: nn.Module, path: Path) -> nn.Module:
    """A copy of a network whose class no loader can build, with every tensor read from the file."""
    copied, weights = copy.deepcopy(network).cpu().eval(), load_file(path)
    with torch.no_grad():
        for name, value in [*copied.named_parameters(), *copied.named_buffers()]:
            value.copy_(weights[name])
    return copied


def memory_mib(deployed: Deployed, inputs: Inputs, source: NetworkClass) -> float:
    """Largest resident memory, in MiB, of a fresh process that loads the files and runs one input.

    Args:
        deployed: its files stay where they are.
        inputs: of the deployment's batch, by name.
        source: the class of the network, which has to be built where the runtime runs modules.

    Raises:
        UserError: a class of the user's own where it has to be built, which a fresh process cannot.
        RuntimeError: the process failed; the message has its last line.
    """
    deployment, runtime = deployed.deployment, runtime_kind(deployed.deployment.runtime)
    if runtime.runs_modules and not source.is_transformers:
        others = " or ".join(name for name, each in RUNTIMES.items() if not each.runs_modules)
        raise UserError(
            f"memory_mib in {runtime.title} needs a network of transformers, which a fresh process can build; "
            f"choose --runtime {others} for a network of your own"
        )
    # On the processor: the resident memory of a process that uses a GPU is that of its driver.
    deployment = replace(deployment, device="cpu")
    first = torch_loader(source) + "\n\n" if runtime.runs_modules else ""
    program = (
        first
        + deployment_loader(deployment, relative(deployed.path, deployed.folder), source, deployed.policy)
        + _MEASURE_MEMORY
    )
    _, arrays = split(map_inputs(inputs, lambda value: value.detach().cpu()))
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "inputs.npz"
        np.savez(file, **{name: value.numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
        command = [sys.executable, "-I", "-c", program, str(file)]
        done = subprocess.run(command, cwd=deployed.folder, capture_output=True, text=True, timeout=_MEMORY_TIMEOUT_S)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"a fresh process could not run the files: {last}")
    return float(done.stdout.split()[-1])


# On Linux ru_maxrss begins with that of the process that started this one, so the memory of the program itself is read.
_MEASURE_MEMORY = """

import sys

import numpy

with numpy.load(sys.argv[1], allow_pickle=False) as file:
    run({name: file[name] for name in file.files})
if sys.platform == "linux":
    with open("/proc/self/status", encoding="ascii") as file:
        peak = 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
else:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(peak / 2**20)
"""
