"""The precisions that a command may choose from for every layer: as its flags say, as recorded, or as this machine has.

`--precisions` is checked against what the runtime gains here, which is found by running it (`hardware.probing`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict

import pydantic
from torch import nn

from hardware.layers import kind_of
from hardware.policy import PrecisionChoices
from hardware.probing import gaining_precisions, probe
from hardware.profile import BY_LAYER
from hardware.registry import runtime as runtime_here
from nas.console import say
from nas.errors import UserError
from nas.profiling.profiles import Profiles
from nas.records import Scalar
from nas.searching.relative_latency import LatencySettings
from nas.sentences import did_you_mean, quoted
from nas.settings import PrecisionSettings, SearchSettings
from search_spaces.quantization import PRECISIONS, FloatPrecision, LayerPrecision, large_tables, quantizable_layers

QUANTIZE = "quantize"
"""The entry of a search's record that holds its `PrecisionChoices` as JSON."""
_USUAL: tuple[LayerPrecision, ...] = ("int8", "float32")
_SCHEMA = pydantic.TypeAdapter(PrecisionChoices)


def precision_choices(settings: PrecisionSettings, model: nn.Module, runtime: str) -> PrecisionChoices:
    """What the layers of a network may compute in, of what this machine gains by.

    Args:
        settings: the flags.
        model: the full network.
        runtime: that will execute it.

    Raises:
        UserError: an unknown precision, or one that the runtime cannot execute or does not gain by here.
    """
    wanted = _named(settings.precisions)
    kinds = sorted({kind for _, layer in quantizable_layers(model) if (kind := kind_of(layer)) is not None})
    try:
        layers = gaining_precisions(runtime, kinds)
        tables = gaining_precisions(runtime, ["embedding"]) if any(large_tables(model)) else {}
    except ValueError as error:
        raise UserError(str(error)) from error
    for precision in wanted:
        if precision != "float32" and precision not in layers:
            why = "; ".join(filter(None, (probe(runtime, kind, precision).note for kind in kinds)))
            reason = why or "it makes layers neither faster nor smaller"
            raise UserError(f"--precisions: {runtime} does not gain by {precision} here ({reason}); leave it out")
    for note in filter(None, (layers[precision].note for precision in wanted if precision in layers)):
        say(f"Layers in INT8: {note}")
    floats: tuple[FloatPrecision, ...] = ("bfloat16", "float32") if "bfloat16" in layers else ("float32",)
    embeddings: tuple[LayerPrecision, ...] = ("int8-weights", "float32") if "int8-weights" in tables else ("float32",)
    asymmetric = "int8" in wanted and "convolution" in getattr(layers.get("int8-asymmetric"), "kinds", ())
    return PrecisionChoices(wanted, embeddings, floats, asymmetric, settings.keep_float)


def check_by_layer(runtime: str, one_precision: bool) -> None:
    """Raise UserError unless precision can go by layer.

    Args:
        runtime: that will execute the network.
        one_precision: whether the user names one precision for all layers.
    """
    if one_precision:
        raise UserError(
            "--quantize chooses the precision of every layer, --precision one for all: leave one of them out"
        )
    found = runtime_here(runtime)
    if not found.usable:
        raise UserError(f"{runtime} cannot be used here: {found.notes['all']}")
    if BY_LAYER not in found.precisions:
        raise UserError(
            f"{runtime} has no precision by layer here ({found.notes[BY_LAYER]}); "
            "--quantize needs --runtime openvino or onnxruntime"
        )


def searched_precisions(
    settings: SearchSettings, profiles: Profiles, begun: Mapping[str, Scalar], model: nn.Module
) -> PrecisionChoices | None:
    """What layers may compute in; None without `--quantize`.

    Args:
        settings: the flags of the search.
        profiles: its device profiles, the first of which decides.
        begun: the record of the search where it goes on, whose precisions stay; else empty.
        model: the full network.

    Raises:
        UserError: flags that contradict each other or the profile, or as `precision_choices`.
    """
    first = next(iter(profiles.values()), None)
    if not settings.quantize:
        if settings.precisions is not None or settings.keep_float:
            raise UserError("--precisions and --keep-float say what --quantize may choose from: add it")
        if first is not None and first.precisions is not None:
            raise UserError("the first --profile has a precision for every layer, as --quantize searches: add it")
        return None
    runtime = settings.runtime or (first.runtime if first is not None else LatencySettings.runtime)
    check_by_layer(runtime, settings.precision is not None)
    if first is not None:
        if first.precisions is None:
            raise UserError("--quantize needs a profile that has a precision for every layer: nas profile --quantize")
        if settings.precisions is not None or settings.keep_float:
            raise UserError("the profile says what --quantize may choose from: leave --precisions and --keep-float out")
        return first.precisions
    before = recorded_precisions(begun)
    if before is not None and settings.precisions is None and not settings.keep_float:
        return before
    return precision_choices(settings, model, runtime)


def precisions_record(precisions: PrecisionChoices | None) -> dict[str, str]:
    """The entry of a search's record; empty where precision does not go by layer."""
    return {} if precisions is None else {QUANTIZE: json.dumps(asdict(precisions))}


def recorded_precisions(request: Mapping[str, Scalar]) -> PrecisionChoices | None:
    """What `precisions_record` wrote; None where there is nothing. UserError where it is damaged."""
    text = request.get(QUANTIZE)
    if text is None:
        return None
    try:
        return _SCHEMA.validate_json(str(text))
    except pydantic.ValidationError as error:
        raise UserError(f"the precisions in the record of a search are damaged: {error.errors()[0]['msg']}") from None


def _named(text: str | None) -> tuple[LayerPrecision, ...]:
    """The precisions of `--precisions` in their fixed order, float32 always among them."""
    if text is None:
        return _USUAL
    names = {name.strip() for name in text.split(",")}
    unknown = sorted(names - set(PRECISIONS))
    if unknown:
        raise UserError(
            f"--precisions must be some of {', '.join(PRECISIONS)}, got {quoted(unknown[0])}"
            f"{did_you_mean(unknown[0], PRECISIONS)}"
        )
    if names <= {"float32"}:
        raise UserError("--precisions must name one besides float32, e.g. int8,float32")
    return tuple(each for each in PRECISIONS if each in names | {"float32"})
