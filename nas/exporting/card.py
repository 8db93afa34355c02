"""The card of an exported network: what it is, what was measured on what, and the lines that load it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hardware.deployment import Deployment
from hardware.inputs import is_tokens, split
from hardware.policy import Policy
from hardware.registry import runtime_kind
from nas.compared import HEADS
from nas.exporting.loaders import deployment_loader, torch_loader
from nas.exporting.markdown import as_it_is, code_span
from nas.exporting.network_files import NetworkClass
from nas.objectives import quantity
from search_spaces.inputs import Inputs

_TOKENIZER = "tokenizer_config.json"


@dataclass(frozen=True)
class Card:
    """What a card says beyond what the network itself tells.

    Args:
        title: heading.
        base_model: name of the pre-trained network; of a local folder only its last part is printed.
        origin: where the network comes from, with {model} for the name of the pre-trained one.
        data: what it was fine-tuned and measured on.
        classes: names of the outputs, in their order.
        figures: measured values by the name of the network (`chosen` is the exported one) and of the figure, e.g.
            `{"today": {"test_accuracy": 0.87}, "chosen": {...}}`; the last network is the exported one.
        conditions: machine, runtime, precision, threads, batch, tokens and whatever else the figures depend on.
        chosen_by: what the search knew of this network when it was chosen, by the name of the objective.
        judged: how many test rows, or words, an accuracy is of; 0 where that is not known.
        notes: sentences, e.g. what the data can tell.
    """

    title: str = "A sub-network"
    base_model: str = ""
    origin: str = "It was cut out of `{model}`, fine-tuned as a super-network."
    data: str = ""
    classes: tuple[str, ...] = ()
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    conditions: Mapping[str, object] = field(default_factory=dict)
    chosen_by: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    judged: int = 0


def write_card(
    card: Card,
    source: NetworkClass,
    inputs: Inputs,
    files: Sequence[str],
    deployed: tuple[Deployment, str, Policy | None] | None = None,
) -> str:
    """The card as Markdown; its Python blocks run in the exported folder, each in a process of its own.

    Args:
        card: what it says beyond the network.
        source: the class of the network.
        inputs: an example.
        files: names in the folder.
        deployed: how the network was measured, the file of it that is loaded, and what its layers compute in where
            that differs; None where it was not measured.
    """
    parts = [f"# {card.title}", _what(card, source)]
    if card.figures:
        parts += ["## Measured", _table(card), _measured_on(card)]
    parts += card.notes
    if card.chosen_by:
        known = "; ".join(f"{name} {_number(name, value)}" for name, value in card.chosen_by.items())
        parts += [f"It was chosen by what the search knew of it: {known}."]
    if deployed is not None and not runtime_kind(deployed[0].runtime).runs_modules:
        parts += [f"## Load it as it was measured: {_described(deployed[0])}", *_deployed_part(*deployed, source)]
    if deployed is not None and deployed[2] is not None:
        parts += ["## Precision of its layers", *_precisions(deployed[2])]
    parts += ["## Load it with PyTorch", *_torch_part(source, inputs, files)]
    if deployed is not None and runtime_kind(deployed[0].runtime).runs_modules and source.loadable:
        lines = deployment_loader(deployed[0], deployed[1], source)
        after = "the first block" if source.is_transformers else "the first block and with your own `build`"
        parts += [f"As it was measured ({_described(deployed[0])}), after {after}:", _block(lines)]
    parts += ["## Load it with ONNX Runtime", _onnx_part(inputs, files)]
    parts += ["## Files", *_files(files)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(card: Card, source: NetworkClass) -> str:
    name = Path(card.base_model).name if Path(card.base_model).is_absolute() else card.base_model
    lines = [f"A smaller `{source.name}`: its layers have sizes of their own, and blocks may have been dropped."]
    if name:
        lines.append(card.origin.replace("{model}", as_it_is(name)))
    if card.data:
        lines.append(f"Data: {as_it_is(card.data)}.")
    if card.classes:
        lines.append("Classes, in the order of the outputs: " + ", ".join(map(code_span, card.classes)) + ".")
    return "\n".join(lines)


def _table(card: Card) -> str:
    figures = card.figures
    names = dict.fromkeys(name for values in figures.values() for name in values)
    columns = {network: HEADS.get(network, network) for network in figures}
    rows = [f"| | {' | '.join(columns.values())} |", f"|---{'|---' * len(columns)}|"]
    for name in names:
        cells = [_exact(name, values[name], card.judged) if name in values else "" for values in figures.values()]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _exact(name: str, value: float, judged: int) -> str:
    """A figure, with the whole numbers that it comes from where there are such: these can be compared exactly."""
    text = _number(name, value)
    if name == "test_accuracy" and judged:
        return f"{text} ({round(value * judged):,} of {judged:,})"
    return f"{text} ({round(value * 2**20):,} bytes)" if name == "size_mib" else text


def _number(name: str, value: float) -> str:
    """Enough digits to compare with, and the unit that the name ends in."""
    unit = quantity(name).unit if quantity(name).scale == 1.0 else ""
    if float(value).is_integer() and abs(value) >= 1e4:
        return f"{value:,.0f}"
    text = f"{value:.6g}" if name.startswith("test_") else f"{value:.4g}"
    return f"{text} {unit}" if unit else text


def _described(deployment: Deployment) -> str:
    return f"{runtime_kind(deployment.runtime).title}, {deployment.precision}"


def _deployed_part(deployment: Deployment, file: str, policy: Policy | None, source: NetworkClass) -> list[str]:
    lines = deployment_loader(deployment, file, source, policy)
    return [f"Needs {runtime_kind(deployment.runtime).library} only.", _block(lines)]


def _precisions(policy: Policy) -> list[str]:
    """One row a layer, and what the rest computes in."""
    rows = ["| layer | precision |", "|---|---|"]
    for path, precision in policy.layers.items():
        rows.append(f"| `{path}` | {precision}{', asymmetric weights' if path in policy.asymmetric else ''} |")
    rest = f"Layers in float32 and everything else compute in {policy.floating}."
    return ["\n".join(rows), rest] if policy.layers else [rest]


def _measured_on(card: Card) -> str:
    if not card.conditions:
        return ""
    return "Measured on: " + "; ".join(f"{name} {value}" for name, value in card.conditions.items()) + "."


def _torch_part(source: NetworkClass, inputs: Inputs, files: Sequence[str]) -> list[str]:
    if not source.is_transformers and not source.has_factory:
        return [
            f"The weights are in `model.safetensors`, under the names that `{source.name}` gives them; "
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


def _torch_example(inputs: Inputs, files: Sequence[str]) -> str:
    if _TOKENIZER in files:
        return (
            "from transformers import AutoTokenizer\n\n"
            f"model = load()\n{_tokenized('pt')}"
            "with torch.no_grad():\n    logits = model(**inputs).logits\n"
        )
    args, kwargs = split(inputs)
    tensors = {**{f"input_{i}": value for i, value in enumerate(args)}, **kwargs}
    made = [f"{name} = {_made(value, 'torch')}" for name, value in tensors.items()]
    given = ", ".join([f"input_{i}" for i in range(len(args))] + [f"{name}={name}" for name in kwargs])
    return "\n".join(["model = load()", *made, "with torch.no_grad():", f"    logits = model({given}).logits"]) + "\n"


def _tokenized(library: str) -> str:
    """Lines that make `inputs` of two sentences; the exported tokenizer gives the inputs of the network alone."""
    return (
        'tokenizer = AutoTokenizer.from_pretrained(".")\n'
        'texts = ["A sentence.", "Another one, somewhat longer."]\n'
        f'inputs = tokenizer(texts, padding=True, return_tensors="{library}")\n'
    )


def _onnx_part(inputs: Inputs, files: Sequence[str]) -> str:
    args, kwargs = split(inputs)
    if _TOKENIZER in files:
        code = (
            "import onnxruntime\nfrom transformers import AutoTokenizer\n\n"
            'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])\n'
            f"{_tokenized('np')}"
            'logits = session.run(["logits"], dict(inputs))[0]\n'
        )
        needs = "Needs onnxruntime, and transformers for the numbers of the words, which come from its tokenizer."
        return f"{needs} Batch and length are free.\n\n{_block(code)}"
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
    return f"Needs onnxruntime only. {free}\n\n{_block(chr(10).join(lines) + chr(10))}"


def _made(value: torch.Tensor, library: str) -> str:
    shape = tuple(value.shape)
    return f"{library}.ones({shape}, dtype={library}.{str(value.dtype).removeprefix('torch.')})"


def _block(code: str) -> str:
    return f"```python\n{code}```"


def _files(files: Sequence[str]) -> list[str]:
    said = {
        "config.json": "the architecture; under `subnetwork` the sizes of layers that differ from what it says",
        "model.safetensors": "the weights",
        "model.onnx": "the whole network in float32 for ONNX Runtime and OpenVINO, weights inside",
        "model-int8.onnx": "the same in INT8 for ONNX Runtime",
        "model-by-layer.onnx": "the same with a precision for each layer for ONNX Runtime",
        "openvino/model.xml": "the quantized network for OpenVINO; its weights are in `openvino/model.bin`",
    }
    return ["\n".join(f"- `{name}`" + (f": {said[name]}" if name in said else "") for name in files)]
