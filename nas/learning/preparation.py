"""From what the user names to a super-network with data: the first stage of a fine-tuning, new or resumed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nas.console import say
from nas.data.reading import Source, read_table
from nas.data.split import Data, InputKind, Preprocessor
from nas.data.table import Table, prepare_data
from nas.data.tasks import TASKS
from nas.errors import UserError
from nas.exporting.folder import check_exportable
from nas.exporting.network_files import ExportError
from nas.files import located
from nas.learning.block_order import block_order
from nas.learning.checkpoint import model_fingerprint
from nas.learning.importance import ImportanceConfig
from nas.learning.instatune import InstaTuneConfig
from nas.learning.training import TrainingConfig
from nas.networks.loading import EXAMPLE_TOKENS, is_own, load_network, maker
from nas.networks.own_model import check_outputs
from nas.networks.pretrained import example_inputs
from nas.number_lists import number_list
from nas.records import Scalar
from nas.settings import Common, DataSettings, ModelSettings, SpaceSettings, SupernetSettings, TrainingSettings
from search_spaces import Supernet, last_first, space, spread
from search_spaces.families.drop_order import DropOrder
from search_spaces.inputs import Inputs

_SIZES = ("depth", "heads", "ffn", "width", "channels")
_WITHOUT_INFLUENCE = ("checkpoint_every_s", "trackers")
# Classes of which the tests export sub-networks of all kinds, so that the minute for an ONNX file need not be spent.
_EXPORTED = frozenset(
    f"{name}For{task}"
    for name in ("Bert", "DistilBert", "Electra", "Roberta", "ViT", "DeiT", "Dinov2", "Beit", "Swin", "ResNet")
    for task in ("SequenceClassification", "TokenClassification", "ImageClassification")
)
_DROP_ORDERS: dict[str, Callable[[int], tuple[int, ...]]] = {"last": last_first, "spread": spread}


@dataclass(frozen=True)
class Prepared:
    """A super-network before fine-tuning, its preprocessing and its data."""

    supernet: Supernet
    preprocessor: Preprocessor
    data: Data


MakeSupernet = Callable[[nn.Module, Data, Preprocessor], Supernet]
"""Finds the sub-networks of a network; UserError where it has none."""


def prepare(model: str, data: DataSettings, own: ModelSettings, make: MakeSupernet, seed: int) -> Prepared:
    """Load model and data and find the sub-networks; writes nothing. UserError for wrong input.

    Args:
        model: a model folder or hub name, or `module:factory`.
        data: the rows to fine-tune on.
        own: what a network of the user's own needs.
        make: finds the sub-networks.
        seed: of the split of the rows, and of a head without weights.
    """
    table = read_rows(data)
    module, preprocessor = load_network(model, own, table.classes, table.kind, TASKS[data.task], seed)
    ready = prepared_rows(table, preprocessor, data, seed)
    _reads_all(module, ready)
    supernet = make(module, ready, preprocessor)
    _can_be_exported(model, supernet, ready, preprocessor)
    return Prepared(supernet, preprocessor, ready)


def data_location(data: DataSettings, what: str) -> str:
    """The path of the rows that the user names, or their name on the hub.

    Args:
        data: where the rows are.
        what: they are for, for the message of a missing `--data`.

    Raises:
        UserError: there is no `--data`.
    """
    if data.data is None:
        raise UserError(f"--data must name {what}: a file, a folder or a hub data set")
    return located(data.data)


def read_rows(data: DataSettings) -> Table:
    """Read the rows that the user names, and say what was read; UserError for wrong input."""
    table = read_table(
        Source(
            str(data.data),
            data.text,
            data.image,
            data.label,
            data.data_config,
            TASKS[data.task],
            data.separator,
            data.encoding,
        )
    )
    for note in table.notes:
        say(note)
    return table


def prepared_rows(table: Table, preprocessor: Preprocessor, data: DataSettings, seed: int) -> Data:
    """Split and preprocess the rows, and say what was left out; UserError as of `prepare_data`."""
    ready = prepare_data(table, preprocessor, seed=seed, max_tokens=data.max_tokens)
    for what, count in (
        ("Images that cannot be decoded, left out", ready.undecodable),
        ("Rows that stand in the test or validation rows too, left out", ready.left_out),
        (f"Texts longer than {data.max_tokens} tokens, or than the model takes, cut off", ready.truncated),
    ):
        if count:
            say(f"{what}: {count:,}")
    return ready


def prepare_again(
    model: str,
    rows: Path,
    classes: Sequence[str],
    kind: InputKind,
    task: str,
    own: ModelSettings,
    make: MakeSupernet,
    seed: int,
    fingerprint: str,
) -> Prepared:
    """The same again for a run that was begun: the rows that it keeps in its folder, and the model anew.

    UserError when the model is no longer the one with this fingerprint.
    """
    module, preprocessor = load_network(model, own, classes, kind, TASKS[task], seed)
    ready = Data.load(rows, preprocessor)
    if model_fingerprint(module) != fingerprint:
        raise UserError(
            f"{rows.parent} was begun with other weights than {model} has now; begin anew in another folder"
        )
    return Prepared(make(module, ready, preprocessor), preprocessor, ready)


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


def _can_be_exported(model: str, supernet: Supernet, data: Data, preprocessor: Preprocessor) -> None:
    """Export the smallest sub-network into a temporary folder; UserError where that fails."""
    smallest = supernet.space.candidate({choice.name: choice.options[0] for choice in supernet.space.choices})
    tokens = max(int(split.inputs.lengths.max()) for split in (data.train, data.validation, data.test))
    example = example_inputs(supernet.model, data.kind, preprocessor, tokens=tokens)
    kind = type(supernet.model).__name__
    factory = maker(model if is_own(model) else None, len(data.classes))
    try:
        check_exportable(supernet.extract(smallest), example, factory=factory, onnx=kind not in _EXPORTED)
    except ExportError as error:
        raise UserError(
            f"the sub-networks of {model} could not be exported, so nothing is trained: {error}; leave whole what it "
            "names, by the flags of the sub-networks, or take another model"
        ) from error


def training_config(training: TrainingSettings, common: Common) -> TrainingConfig:
    """The configuration of a plain fine-tuning."""
    return TrainingConfig(**vars(training), seed=common.seed, device=common.device)


def instatune_config(training: TrainingSettings, recipe: SupernetSettings, common: Common) -> InstaTuneConfig:
    """The configuration of the fine-tuning of a super-network; UserError for a teacher that would not teach."""
    if recipe.teacher is not None and recipe.distillation == "low-cost":
        raise UserError("--teacher needs --distillation high-cost or hybrid: with low-cost the full network teaches")
    sampling = {name: value for name, value in vars(recipe).items() if name != "teacher"}
    return InstaTuneConfig(**vars(training), **sampling, seed=common.seed, device=common.device)


def outcome_settings(training: TrainingSettings) -> dict[str, Scalar]:
    """The settings that decide the outcome of a fine-tuning, for the record of a request."""
    return {name: value for name, value in vars(training).items() if name not in _WITHOUT_INFLUENCE}


def elastic_supernet(
    elastic: SpaceSettings, seed: int, module: nn.Module, data: Data, preprocessor: Preprocessor
) -> Supernet:
    """The super-network with the sizes that the user names; bind the first two for `prepare`.

    Args:
        elastic: the sizes, and the order in which blocks drop.
        seed: of an order by importance.
        module: the network.
        data: of the run.
        preprocessor: of the network.

    Raises:
        UserError: the network has no sub-networks of these sizes.
    """
    # A network of transformers has its own example, one text of which is padded.
    known = hasattr(module, "config")
    example = None if known else example_inputs(module, data.kind, preprocessor, tokens=EXAMPLE_TOKENS)
    if elastic.drop_order != "importance":
        return supernet_of(module, example, elastic)
    say("Finding out which blocks matter least")
    first = supernet_of(module, example, elastic, last_first, say=None)
    return supernet_of(module, example, elastic, block_order(first, data.train, ImportanceConfig(seed=seed)))


def supernet_of(
    module: nn.Module,
    example: Inputs | None,
    elastic: SpaceSettings,
    order: DropOrder | None = None,
    *,
    say: Callable[[str], None] | None = say,
) -> Supernet:
    """The super-network of a module with the sizes that `elastic` names; UserError where it has none.

    Args:
        module: of full size.
        example: inputs of batch above 1; None for a network of transformers.
        elastic: the sizes, and the order in which blocks drop.
        order: that order, where `elastic` does not say it.
        say: called with a sentence on what keeps its size.
    """
    sizes = {name: _sizes(name, getattr(elastic, name)) for name in _SIZES}
    try:
        order = order or _DROP_ORDERS[elastic.drop_order]
        return Supernet(module, space(module, example, drop_order=order, say=say, **sizes))
    except ValueError as error:
        raise UserError(str(error)) from error


def _sizes(name: str, text: str | None) -> tuple[int | float, ...] | None:
    if text is None or text == "none":
        return None if text is None else ()
    wanted = "numbers above 0, separated by commas, e.g. 4,5,6 or as shares 0.5,1.0"
    return number_list(name, text, wanted, lambda sizes: min(sizes) > 0)
