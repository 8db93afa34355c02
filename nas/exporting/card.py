"""The card of an exported network: what it is, what was measured on what, and the lines that load it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hardware.inputs import Inputs, is_tokens, split

UNITS = {"latency_ms": "ms", "size_mib": "MiB", "energy_mj": "mJ"}


@dataclass(frozen=True)
class Card:
    """What a card says beyond what the network itself tells.

    Args:
        title: heading.
        base_model: name of the pre-trained network; of a local folder only its last part is printed.
        data: what it was fine-tuned and measured on.
        classes: names of the outputs, in their order.
        figures: measured values of this network by name, e.g. `test_accuracy`, `latency_ms`.
        full: the same of the full network, for comparison.
        measured_on: machine, runtime, precision, threads, batch, tokens and whatever else the figures depend on.
        notes: sentences, e.g. what the data can tell.
    """

    title: str = "A sub-network"
    base_model: str = ""
    data: str = ""
    classes: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    full: Mapping[str, float] = field(default_factory=dict)
    measured_on: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where the class of the network comes from: `transformers`, or a function of the user's own (`factory`)."""

    class_name: str
    is_transformers: bool
    has_factory: bool


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


def torch_loader(source: Source) -> str:
    """Python that defines `load(folder=".")`, or `load(build, folder=".")` for a class of the user's own."""
    start = _FROM_TRANSFORMERS if source.is_transformers else _FROM_FACTORY
    return start.replace("NETWORK", source.class_name) + _APPLY


def write_card(card: Card, source: Source, inputs: Inputs, files: list[str]) -> str:
    """The card as Markdown; its Python blocks run in the exported folder, the second after the first."""
    parts = [f"# {card.title}", _what(card, source)]
    if card.figures:
        parts += ["## Measured", _table(card), _measured_on(card)]
    parts += [*card.notes, "## Load it with PyTorch", *_torch_part(source, inputs, files)]
    parts += ["## Load it with ONNX Runtime", _onnx_part(inputs, files)]
    parts += ["## Files", *_files(files)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(card: Card, source: Source) -> str:
    name = Path(card.base_model).name if Path(card.base_model).is_absolute() else card.base_model
    lines = [f"A smaller `{source.class_name}`: its layers have sizes of their own, and blocks may have been dropped."]
    if name:
        lines.append(f"It was cut out of `{name}`, fine-tuned as a super-network.")
    if card.data:
        lines.append(f"Data: {card.data}.")
    if card.classes:
        lines.append("Classes, in the order of the outputs: " + ", ".join(f"`{each}`" for each in card.classes) + ".")
    return "\n".join(lines)


def _table(card: Card) -> str:
    rows = ["| | this network | full network |", "|---|---|---|"]
    for name, value in card.figures.items():
        full = _number(name, card.full[name]) if name in card.full else ""
        rows.append(f"| {name} | {_number(name, value)} | {full} |")
    return "\n".join(rows)


def _number(name: str, value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1e4 and float(value).is_integer() else f"{value:.4g}"
    return f"{text} {UNITS[name]}" if name in UNITS else text


def _measured_on(card: Card) -> str:
    if not card.measured_on:
        return ""
    return "Measured on: " + "; ".join(f"{name} {value}" for name, value in card.measured_on.items()) + "."


def _torch_part(source: Source, inputs: Inputs, files: list[str]) -> list[str]:
    if not source.is_transformers and not source.has_factory:
        return [
            f"The weights are in `model.safetensors`, under the names that `{source.class_name}` gives them; "
            "`config.json` holds the sizes of the layers. Building that class needs its own code."
        ]
    needs = "torch and transformers" if source.is_transformers else "torch, safetensors and your own code"
    warning = (
        "Do not use `from_pretrained`: it expects layers of equal size, and with `ignore_mismatched_sizes` it would "
        "silently put random weights in their place."
    )
    first = f"Needs {needs} only. {warning}" if source.is_transformers else f"Needs {needs} only."
    blocks = [first, _block(torch_loader(source))]
    return [*blocks, _block(_torch_example(inputs, files))] if source.is_transformers else blocks


def _torch_example(inputs: Inputs, files: list[str]) -> str:
    if "tokenizer_config.json" in files:
        return (
            "from transformers import AutoTokenizer\n\n"
            "model = load()\n"
            'inputs = AutoTokenizer.from_pretrained(".")(["A sentence.", "Another one, somewhat longer."], '
            'padding=True, return_tensors="pt")\n'
            f"with torch.no_grad():\n    logits = model(**{{name: inputs[name] for name in {_names(inputs)}}}).logits\n"
        )
    args, kwargs = split(inputs)
    tensors = {**{f"input_{i}": value for i, value in enumerate(args)}, **kwargs}
    made = [f"{name} = {_made(value, 'torch')}" for name, value in tensors.items()]
    given = ", ".join([f"input_{i}" for i in range(len(args))] + [f"{name}={name}" for name in kwargs])
    return "\n".join(["model = load()", *made, "with torch.no_grad():", f"    logits = model({given}).logits"]) + "\n"


def _names(inputs: Inputs) -> str:
    return repr(tuple(split(inputs)[1]))


def _onnx_part(inputs: Inputs, files: list[str]) -> str:
    args, kwargs = split(inputs)
    lines = ["import numpy", "import onnxruntime", ""]
    lines += ['session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])']
    if kwargs:
        lines += ["inputs = {"]
        lines += [f'    "{name}": {_made(value, "numpy")},' for name, value in kwargs.items()]
        lines += ["}"]
    else:
        made = ", ".join(_made(value, "numpy") for value in args)
        lines += [f"inputs = dict(zip([each.name for each in session.get_inputs()], [{made}]))"]
    lines += ['logits = session.run(["logits"], inputs)[0]']
    free = (
        "Batch and length are free." if any(is_tokens(v) for v in (*args, *kwargs.values())) else "The batch is free."
    )
    ids = " The numbers of the words come from `tokenizer.json`." if "tokenizer.json" in files else ""
    return f"Needs onnxruntime only. {free}{ids}\n\n{_block(chr(10).join(lines) + chr(10))}"


def _made(value: torch.Tensor, library: str) -> str:
    shape = tuple(value.shape)
    return f"{library}.ones({shape}, dtype={library}.{str(value.dtype).removeprefix('torch.')})"


def _block(code: str) -> str:
    return f"```python\n{code}```"


def _files(files: list[str]) -> list[str]:
    said = {
        "config.json": "the architecture; under `subnetwork` the sizes of layers that differ from what it says",
        "model.safetensors": "the weights",
        "model.onnx": "the whole network for ONNX Runtime, weights inside",
    }
    return ["\n".join(f"- `{name}`" + (f": {said[name]}" if name in said else "") for name in files)]
