"""The card of an exported network: what it is, what was measured on what, and the lines that load it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hardware.deployment import Deployment
from hardware.inputs import is_tokens, split
from hardware.policy import Policy
from hardware.registry import runtime_kind
from nas.compared import HEADS
from nas.data.tasks import Task
from nas.exporting.loaders import FOLDER, deployment_loader, torch_loader
from nas.exporting.markdown import as_it_is, code_span
from nas.exporting.network_files import NetworkClass
from nas.exporting.outputs import outputs
from nas.exporting.rows_to_inputs import Reading
from nas.objectives import quantity
from search_spaces.inputs import Inputs


@dataclass(frozen=True)
class Card:
    """What a card says beyond what the network itself tells.

    Args:
        title: heading.
        base_model: name of the pre-trained network; of a local folder only its last part is printed.
        origin: where the network comes from, with {model} for the name of the pre-trained one.
        data: what it was fine-tuned and measured on.
        classes: names of the outputs, in their order; empty: those of the network's configuration.
        task: what it was fine-tuned for; None: not known.
        max_tokens: texts were cut off there; None: at the longest that the tokenizer takes.
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
    task: Task | None = None
    max_tokens: int | None = None
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    conditions: Mapping[str, object] = field(default_factory=dict)
    chosen_by: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    judged: int = 0


def write_card(
    card: Card,
    source: NetworkClass,
    inputs: Inputs,
    example: Reading,
    files: Sequence[str],
    deployed: tuple[Deployment, str, Policy | None] | None = None,
) -> str:
    """The card as Markdown; the Python blocks of each section run one after the other in a process of their own.

    Args:
        card: what it says beyond the network.
        source: the class of the network.
        inputs: an example.
        example: how rows become inputs.
        files: names in the folder.
        deployed: how the network was measured, the file of it that is loaded, and what its layers compute in where
            that differs; None where it was not measured.
    """
    parts = [f"# {card.title}", _what(card, source), *_meaning(card, example)]
    if card.figures:
        parts += ["## Measured", _table(card), _measured_on(card)]
    parts += card.notes
    if card.chosen_by:
        known = "; ".join(f"{name} {_number(name, value)}" for name, value in card.chosen_by.items())
        parts += [f"It was chosen by what the search knew of it: {known}."]
    if deployed is not None and not runtime_kind(deployed[0].runtime).runs_modules:
        parts += [
            f"## Load it as it was measured: {_described(deployed[0])}",
            *_deployed_part(*deployed, source, example),
        ]
    if deployed is not None and deployed[2] is not None:
        parts += ["## Precision of its layers", *_precisions(deployed[2])]
    parts += ["## Load it with PyTorch", *_torch_part(source, example)]
    if deployed is not None and runtime_kind(deployed[0].runtime).runs_modules and source.loadable:
        parts += _measured_module(deployed[0], deployed[1], source, example)
    parts += ["## Load it with ONNX Runtime", *_onnx_part(inputs, example)]
    parts += ["## Files", *_files(files)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(card: Card, source: NetworkClass) -> str:
    name = Path(card.base_model).name if Path(card.base_model).is_absolute() else card.base_model
    lines = [f"A smaller `{source.name}`: its layers have sizes of their own, and blocks may have been dropped."]
    if name:
        lines.append(card.origin.replace("{model}", as_it_is(name)))
    if card.data:
        lines.append(f"Data: {as_it_is(card.data)}.")
    return "\n".join(lines)


def _meaning(card: Card, example: Reading) -> list[str]:
    """What goes in, and what each output is."""
    names = ", ".join(f"{number} {code_span(name)}" for number, name in enumerate(card.classes))
    of_outputs = [f"Outputs (`logits`), in their order: {names}." if names else "", outputs(card.task)]
    said = [as_it_is(example.said), " ".join(part for part in of_outputs if part)]
    return ["## Inputs and outputs", *said] if any(said) else []


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
    where = "" if deployment.device == "cpu" else ", on a GPU"
    return f"{runtime_kind(deployment.runtime).title}, {deployment.precision}{where}"


def _deployed_part(
    deployment: Deployment, file: str, policy: Policy | None, source: NetworkClass, example: Reading
) -> list[str]:
    lines = deployment_loader(deployment, file, source, policy)
    needed = (runtime_kind(deployment.runtime).library, "numpy")
    return [_needs(*needed), _block(lines), *_run(example, needed)]


def _measured_module(deployment: Deployment, file: str, source: NetworkClass, example: Reading) -> list[str]:
    after = "the first block" if source.is_transformers else "the first block and with your own `build`"
    said = f"As it was measured ({_described(deployment)}), after {after}:"
    if deployment.device != "cpu":
        said = f"The example computes on the processor. {said}"
    return [said, _block(deployment_loader(deployment, file, source)), *_run(example)]


def _run(example: Reading, named: Sequence[str] = ()) -> list[str]:
    """The example, with the packages that it needs beside those named before it."""
    others = [package for package in example.needs if package not in named]
    needs = f", which needs {_together(others)} too" if others else ""
    return [f"Then, as an example{needs}:", _block(f"{example.lines}logits = run(inputs)\n")]


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


def _torch_part(source: NetworkClass, example: Reading) -> list[str]:
    if not source.is_transformers and not source.has_factory:
        return [
            f"The weights are in `model.safetensors`, under the names that `{source.name}` gives them; "
            "`config.json` holds the sizes of the layers. Building that class needs its own code."
        ]
    warning = (
        "Do not use `from_pretrained`: it expects layers of equal size, and with `ignore_mismatched_sizes` it would "
        "silently put random weights in their place."
    )
    if not source.is_transformers:
        return [_needs("torch", "safetensors", "your own code"), _block(torch_loader(source))]
    needs = _needs("torch", "transformers", *example.needs)
    return [f"{needs} {warning}", _block(torch_loader(source)), "Then, as an example:", _block(_torch_example(example))]


def _torch_example(example: Reading) -> str:
    return (
        f"{example.lines}model = load()\n"
        "with torch.no_grad():\n"
        "    logits = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits\n"
    )


def _onnx_part(inputs: Inputs, example: Reading) -> list[str]:
    code = (
        f"{FOLDER}import onnxruntime\n{example.lines}\n"
        'session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])\n'
        'logits = session.run(["logits"], inputs)[0]\n'
    )
    args, kwargs = split(inputs)
    tokens = any(is_tokens(value) for value in (*args, *kwargs.values()))
    free = "Batch and length are free." if tokens else "The batch is free."
    return [f"{_needs('onnxruntime', *example.needs)} {free}", _block(code)]


def _needs(*packages: str) -> str:
    return f"Needs {_together(packages)} only."


def _together(packages: Sequence[str]) -> str:
    *others, last = dict.fromkeys(packages)
    return f"{', '.join(others)} and {last}" if others else last


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
