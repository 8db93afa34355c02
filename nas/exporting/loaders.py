"""The Python lines that load an exported network without this project: for its card, and for fresh processes.

Every block defines `run(inputs)`, from arrays by name to logits, except the one of PyTorch, which defines `load` first:
the network stays a module that can be trained.
"""

from pathlib import Path

from hardware.deployment import Deployment
from hardware.policy import Policy
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

_FROM_TRANSFORMERS = """\
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, NETWORK


def load(folder="."):
    config = AutoConfig.from_pretrained(folder)
    record = config.subnetwork
    with torch.device("meta"):
        model = NETWORK(config)
"""

_FROM_FACTORY = """\
import json

import torch
from safetensors.torch import load_file


def load(build, folder="."):  # build: your own function that makes the full network
    with open(f"{folder}/config.json", encoding="utf-8") as file:
        record = json.load(file)["subnetwork"]
    with torch.device("meta"):
        model = build()
"""

_PYTORCH = """\
torch.set_num_threads(<threads>)
network = load(<arguments>).to(torch.<precision>)


def run(inputs):  # arrays by name
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    for name, value in tensors.items():
        tensors[name] = value.to(torch.<precision>) if value.is_floating_point() else value
    with torch.inference_mode():
        output = network(**tensors)
    return getattr(output, "logits", output).float().numpy()
"""

_ONNXRUNTIME = """\
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = <threads>
session = onnxruntime.InferenceSession("<file>", options, providers=["CPUExecutionProvider"])


def run(inputs):  # arrays by name
    return session.run(["logits"], {each.name: inputs[each.name] for each in session.get_inputs()})[0]
"""

_OPENVINO = """\
import openvino

settings = {
    "INFERENCE_NUM_THREADS": <threads>,
    "INFERENCE_PRECISION_HINT": "<hint>",  # left alone, OpenVINO computes in bfloat16 where the processor can
    "PERFORMANCE_HINT": "LATENCY",
}
network = openvino.Core().compile_model("<file>", "CPU", settings)


def run(inputs):  # arrays by name
    return network({port.any_name: inputs[port.any_name] for port in network.inputs})[0]
"""


def torch_loader(source: NetworkClass) -> str:
    """Python that defines `load(folder=".")`, or `load(build, folder=".")` for a class of the user's own."""
    start = _FROM_TRANSFORMERS if source.is_transformers else _FROM_FACTORY
    return start.replace("NETWORK", source.name) + _APPLY


def deployment_loader(deployment: Deployment, file: str, source: NetworkClass, policy: Policy | None = None) -> str:
    """Python that defines `run(inputs)` for a deployment; that of PyTorch stands behind `torch_loader`.

    Args:
        deployment: whose settings the lines hold.
        file: that it loads, relative to the exported folder.
        source: the class of the network; one of the user's own needs `build`, as `torch_loader` says.
        policy: what its layers compute in, where precision goes by layer.
    """
    if deployment.runtime == "pytorch":
        arguments = "" if source.is_transformers else "build"
        lines = _PYTORCH.replace("<precision>", deployment.precision).replace("<arguments>", arguments)
    elif deployment.runtime == "onnxruntime":
        lines = _ONNXRUNTIME
    else:
        floating = deployment.precision if policy is None else policy.floating
        lines = _OPENVINO.replace("<hint>", "bf16" if floating == "bfloat16" else "f32")
    return lines.replace("<threads>", str(deployment.threads)).replace("<file>", file)


def relative(path: Path, folder: Path) -> str:
    """A file's path as the lines have it."""
    return path.relative_to(folder).as_posix()
