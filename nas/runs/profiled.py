"""What is profiled, from what the user names: a run, a model of `transformers`, or a network of the user's own."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from hardware.inputs import Inputs
from nas.data.split import InputKind
from nas.errors import UserError
from nas.learning.preparation import located, supernet_of
from nas.networks.loading import device_name, image_size, is_own
from nas.networks.own_model import own_model, own_preprocessor
from nas.networks.pretrained import example_inputs
from nas.networks.untrained import made_inputs, untrained
from nas.profiling.sizes import with_multiples
from nas.profiling.subject import Subject
from nas.runs.folder import RunFolder
from nas.runs.loading import load_run
from nas.runs.requests import ProfileRequest
from nas.settings import Common, ModelSettings, ProfileSettings, SpaceSettings
from search_spaces import Supernet, plain_attention

_OUTPUTS = 2


def open_subject(request: ProfileRequest) -> Subject:
    """The network to profile, and its inputs; UserError where there is none, or it cannot be narrowed or traced."""
    model, settings, own, elastic = request.model, request.settings, request.own, request.elastic
    common, network = request.common, request.network
    if settings.runtime == "openvino":
        common = replace(common, device="cpu")  # it computes nowhere else
    if Path(model, "run.json").is_file():
        if own != ModelSettings() or elastic != SpaceSettings():
            raise UserError("a run has its network and its sub-networks: leave out their sizes, --weights and the like")
        loaded = load_run(RunFolder(Path(model)), common.device, network)
        return loaded.subject(settings.tokens, settings.batch, settings.multiple_of)
    if network is not None:
        raise UserError("--model goes with a run; a network of your own stands first: nas profile module:factory")
    if elastic.drop_order == "importance":
        raise UserError("which blocks matter least is known of a run only; name the run, or another --drop-order")
    make = _own if is_own(model) else _of_transformers
    name, supernet, inputs = make(model, settings, own, elastic, common)
    supernet.eval().to(device_name(common.device))
    return Subject(name, supernet, inputs, with_multiples(supernet.space, settings.multiple_of))


def _of_transformers(
    model: str, settings: ProfileSettings, own: ModelSettings, elastic: SpaceSettings, common: Common
) -> tuple[str, Supernet, Inputs]:
    module = untrained(model, seed=common.seed)
    inputs = made_inputs(module, settings.batch, settings.tokens, _height_width(own))
    # The name that a run of it has, which is no link's and no dot.
    return Path(located(model)).name, supernet_of(module, None, elastic), inputs


def _own(
    model: str, settings: ProfileSettings, own: ModelSettings, elastic: SpaceSettings, common: Common
) -> tuple[str, Supernet, Inputs]:
    module: nn.Module = plain_attention(own_model(model, own.weights, _OUTPUTS, seed=common.seed))
    kind: InputKind = "image" if own.tokenizer is None else "text"
    preprocessor = own_preprocessor(module, kind, image_size=image_size(own.image_size), tokenizer=own.tokenizer)
    example = example_inputs(module, kind, preprocessor, tokens=settings.tokens, batch=max(2, settings.batch))
    inputs = {name: value[: settings.batch] for name, value in example.items()}
    return model, supernet_of(module, example, elastic), inputs


def _height_width(own: ModelSettings) -> tuple[int, int] | None:
    size = image_size(own.image_size)
    return (size, size) if isinstance(size, int) else size
