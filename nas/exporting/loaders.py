"""The Python lines that load an exported network without this project: for its card, and for fresh processes.

Every block defines `run(inputs)`, from arrays by name to logits, in the lines of its runtime. Where that runs the
module itself, `load` comes first: the network stays a module that can be trained. What comes first of all names the
exported folder, `.` until somebody writes another path there.
"""

from pathlib import Path

from hardware.deployment import Deployment
from hardware.policy import Policy
from hardware.registry import runtime_kind
from nas.exporting.network_files import NetworkClass

_APPLY = """\
    for path, names in record["blocks"].items():  # the blocks that were not dropped
        part = model.get_submodule(path)
        part._modules = {new: part._modules[old] for new, old in names.items()}
    for path, sizes in record["sizes"].items():  # layers have sizes of their own
        for name, size in sizes.items():
            setattr(model.get_submodule(path), name, tuple(size) if isinstance(size, list) else size)
    weights = load_file(f"{folder}/model.safetensors")
    parameters = {name: torch.nn.Parameter(value, value.is_floating_point()) for name, value in weights.items()}
    for name, source in {**{name: name for name in weights}, **record["ties"]}.items():
        path, _, leaf = name.rpartition(".")
        part = model.get_submodule(path)
        setattr(part, leaf, parameters[source] if leaf in part._parameters else weights[source])
    return model.eval()
"""

FOLDER = 'folder = "."  # the path of this folder\n\n'
"""The first line of what reads its files."""

_FROM_TRANSFORMERS = """\
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, NETWORK


def load(folder=folder):
    config = AutoConfig.from_pretrained(folder)
    record = config.subnetwork
    with torch.device("meta"):
        model = NETWORK(config)
"""

_FROM_FACTORY = """\
import json

import torch
from safetensors.torch import load_file


def load(build, folder=folder):  # build: your own function that makes the full network
    with open(f"{folder}/config.json", encoding="utf-8") as file:
        record = json.load(file)["subnetwork"]
    with torch.device("meta"):
        model = build()
"""


def torch_loader(source: NetworkClass) -> str:
    """Python that defines `load(folder)`, or `load(build, folder)` for a class of the user's own."""
    start = _FROM_TRANSFORMERS if source.is_transformers else _FROM_FACTORY
    return FOLDER + start.replace("NETWORK", source.name) + _APPLY


def deployment_loader(deployment: Deployment, file: str, source: NetworkClass, policy: Policy | None = None) -> str:
    """Python that defines `run(inputs)` for a deployment; where its runtime runs modules, after `torch_loader`.

    Args:
        deployment: whose settings the lines hold.
        file: that it loads, relative to the exported folder.
        source: the class of the network; one of the user's own needs `build`, as `torch_loader` says.
        policy: what its layers compute in, where precision goes by layer.
    """
    runtime, precision = runtime_kind(deployment.runtime), deployment.precision if policy is None else policy.floating
    floating = precision if precision == "bfloat16" else "float32"
    values = {
        "<file>": file,
        "<threads>": str(deployment.threads),
        "<floating>": runtime.floating.get(floating, floating),
        "<device>": deployment.device,
        "<arguments>": "" if source.is_transformers else "build",
    }
    lines = runtime.run_lines if runtime.runs_modules else FOLDER + runtime.run_lines
    for name, value in values.items():
        lines = lines.replace(name, value)
    return lines


def relative(path: Path, folder: Path) -> str:
    """A file's path as the lines have it."""
    return path.relative_to(folder).as_posix()
