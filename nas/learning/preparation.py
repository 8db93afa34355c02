"""From what the user names to a super-network with data: the first stage of a run, new or resumed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from hardware.inputs import Inputs
from nas.console import say
from nas.data.reading import Source, read_table
from nas.data.split import Data, Preprocessor
from nas.data.table import prepare_data
from nas.data.tasks import TASKS
from nas.errors import UserError
from nas.files import replace_folder
from nas.learning.block_order import block_order
from nas.learning.checkpoint import model_fingerprint
from nas.learning.importance import ImportanceConfig
from nas.learning.instatune import InstaTuneConfig
from nas.learning.training import TrainingConfig
from nas.networks.loading import EXAMPLE_TOKENS, load_network
from nas.networks.own_model import check_outputs
from nas.networks.pretrained import example_inputs
from nas.records import Scalar, recorded_versions, write_record
from nas.runs.folder import RunFolder, RunRecord
from nas.runs.requests import FinetuneRequest
from nas.settings import Common, SpaceSettings, TrainingSettings
from search_spaces import Supernet, last_first, space, spread
from search_spaces.families.drop_order import DropOrder

_SIZES = ("depth", "heads", "ffn", "width", "channels")
_WITHOUT_INFLUENCE = ("checkpoint_every_s", "trackers")
_DROP_ORDERS: dict[str, Callable[[int], tuple[int, ...]]] = {"last": last_first, "spread": spread}


@dataclass(frozen=True)
class Prepared:
    """A super-network before fine-tuning, its preprocessing and its data."""

    supernet: Supernet
    preprocessor: Preprocessor
    data: Data


def prepare(request: FinetuneRequest) -> Prepared:
    """Load model and data and find the sub-networks; writes nothing. UserError for wrong input."""
    data, seed = request.data, request.common.seed
    if data.data is None:
        raise UserError("--data must name the rows to fine-tune on: a file, a folder or a hub data set")
    task = TASKS[data.task]
    table = read_table(Source(data.data, data.text, data.image, data.label, data.data_config, task))
    module, preprocessor = load_network(request.model, request.own, table.classes, table.kind, task, seed)
    ready = prepare_data(table, preprocessor, seed=seed, max_tokens=data.max_tokens)
    for what, count in (
        ("Images that cannot be decoded, left out", ready.undecodable),
        ("Rows that stand in the test or validation rows too, left out", ready.left_out),
        (f"Texts longer than {data.max_tokens} tokens, or than the model takes, cut off", ready.truncated),
    ):
        if count:
            say(f"{what}: {count:,}")
    _reads_all(module, ready)
    return Prepared(_supernet(module, request.elastic, ready, preprocessor, seed), preprocessor, ready)


def _reads_all(module: nn.Module, data: Data) -> None:
    """Run the network on the longest row of all, as it was prepared: UserError unless it gives the task's outputs."""
    longest = max((data.train, data.validation, data.test), key=lambda split: int(split.inputs.lengths.max()))
    row = longest.batch([int(longest.inputs.lengths.argmax())])
    remedy = (
        "the image processor, or --image-size, must make images of the network's size"
        if data.kind == "image"
        else "a lower --max-tokens cuts texts off"
    )
    # Two rows: one alone hides a network that cannot tell padding.
    check_outputs(module, {name: torch.cat([each, each]) for name, each in row.items()}, len(data.classes), remedy)


def resume(folder: RunFolder, request: FinetuneRequest) -> Prepared:
    """The same again for a run that was begun: its own data, and the model anew.

    UserError when the model is no longer the one that the run was begun with.
    """
    record, seed, task = folder.read(), request.common.seed, TASKS[request.data.task]
    module, preprocessor = load_network(request.model, request.own, record.classes, record.kind, task, seed)
    ready = Data.load(folder.data, preprocessor)
    if model_fingerprint(module) != record.model_fingerprint:
        raise UserError(
            f"{folder.path} was begun with other weights than {request.model} has now; begin anew in another folder"
        )
    return Prepared(_supernet(module, request.elastic, ready, preprocessor, seed), preprocessor, ready)


def record_begin(folder: RunFolder, prepared: Prepared, asked: dict[str, Scalar]) -> None:
    """Write the data, then run.json: where that exists, the run can be resumed."""
    data = prepared.data
    replace_folder(folder.data, data.save)
    record = RunRecord(
        request=asked,
        versions=recorded_versions(),
        model_fingerprint=model_fingerprint(prepared.supernet.model),
        data_fingerprint=data.fingerprint,
        kind=data.kind,
        classes=list(data.classes),
        rows={"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
    )
    write_record(folder.run_json, record)


def training_config(training: TrainingSettings, common: Common) -> TrainingConfig:
    """The configuration of a plain fine-tuning from what the command was told."""
    return TrainingConfig(**asdict(training), seed=common.seed, device=common.device)


def instatune_config(request: FinetuneRequest) -> InstaTuneConfig:
    """The recipe's configuration from what the command was told."""
    recipe = request.recipe
    if recipe.teacher is not None and recipe.distillation == "low-cost":
        raise UserError("--teacher needs --distillation high-cost or hybrid: with low-cost the full network teaches")
    own = {name: value for name, value in asdict(recipe).items() if name != "teacher"}
    return InstaTuneConfig(**vars(training_config(request.training, request.common)), **own)


def asked_of_finetune(request: FinetuneRequest) -> dict[str, Scalar]:
    """What decides the outcome of a fine-tuning, by flag: a repeated command must ask for the same."""
    own, data, recipe = request.own, request.data, request.recipe
    return {
        "model": located(request.model),
        **asdict(own),
        "weights": None if own.weights is None else located(str(own.weights)),
        "tokenizer": None if own.tokenizer is None else located(own.tokenizer),
        **asdict(data),
        "data": located(str(data.data)),
        **asdict(request.elastic),
        **_decides(request.training),
        **asdict(recipe),
        "teacher": None if recipe.teacher is None else located(str(recipe.teacher)),
        "seed": request.common.seed,
    }


def asked_of_further(candidate: str, training: TrainingSettings, common: Common) -> dict[str, Scalar]:
    """What decides the outcome of fine-tuning one sub-network further; the candidate as JSON."""
    return {"candidate": candidate, **_decides(training), "seed": common.seed}


def _decides(training: TrainingSettings) -> dict[str, Scalar]:
    return {name: value for name, value in asdict(training).items() if name not in _WITHOUT_INFLUENCE}


def located(name: str) -> str:
    """A path as seen from everywhere, or the name as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _supernet(module: nn.Module, elastic: SpaceSettings, data: Data, preprocessor: Preprocessor, seed: int) -> Supernet:
    # A network of transformers has its own example, one text of which is padded.
    known = hasattr(module, "config")
    example = None if known else example_inputs(module, data.kind, preprocessor, tokens=EXAMPLE_TOKENS)
    if elastic.drop_order != "importance":
        return supernet_of(module, example, elastic)
    say("Finding out which blocks matter least")
    first = supernet_of(module, example, elastic, last_first)
    return supernet_of(module, example, elastic, block_order(first, data.train, ImportanceConfig(seed=seed)))


def supernet_of(
    module: nn.Module, example: Inputs | None, elastic: SpaceSettings, order: DropOrder | None = None
) -> Supernet:
    """The super-network of a module in the sizes that were asked for; UserError where it has none.

    Args:
        module: of full size.
        example: inputs of batch above 1; None for a network of transformers.
        elastic: the sizes, and the order in which blocks drop.
        order: that order, where `elastic` does not say it.
    """
    sizes = {name: _sizes(name, getattr(elastic, name)) for name in _SIZES}
    try:
        return Supernet(module, space(module, example, drop_order=order or _DROP_ORDERS[elastic.drop_order], **sizes))
    except ValueError as error:
        raise UserError(str(error)) from error


def _sizes(name: str, text: str | None) -> tuple[int | float, ...] | None:
    if text is None or text == "none":
        return None if text is None else ()
    try:
        return tuple(float(part) if "." in part else int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--{name} must be numbers separated by commas, e.g. 4,5,6 or 0.5,1.0, got {text!r}") from None
