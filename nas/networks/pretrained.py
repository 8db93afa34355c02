"""Load pre-trained networks and their preprocessing with `transformers`.

Weights are read from safetensors files only, because pickled files can run code. Weights that a checkpoint lacks are
initialised at random by `transformers`, which only logs it; here that is an error, except for the head.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.data.pixels import ImagePreprocessor, PlainImages
from nas.data.split import InputKind, Preprocessor
from nas.data.tasks import CLASSIFICATION, Classification, Regression, Task, TokenClassification
from nas.data.tokens import TextPreprocessor
from nas.errors import UserError
from nas.files import expanded
from nas.networks.adapters import TRAINED_HEADS, refuse_adapter_folder, refuse_adapters
from nas.networks.described import check_image_processor, check_tokenizer, check_weights
from nas.networks.heads import order_head
from nas.networks.preprocessing import configured
from nas.quiet import quiet
from nas.seeds import torch_seed
from nas.sentences import listed
from search_spaces.inputs import end_texts
from search_spaces.supernets.described import check_numbers, check_size

_NUMBER = re.compile(r"\.\d+\.")
# The project computes the loss itself; a pipeline reads from the exported config.json how to turn outputs into scores.
_PROBLEMS = {Classification: "single_label_classification", Regression: "regression"}
# What else a configuration may say about the task that the checkpoint was for, and a pipeline goes by.
_FORMER = ("finetuning_task", "task_specific_params", "function_to_apply", "sentence_transformers")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def _quiet() -> AbstractContextManager[None]:
    """Suppress the progress bars, load reports and retry messages of `transformers` and the hub's client."""
    from transformers.utils import logging as settings

    loggers = ("transformers", "huggingface_hub")
    return quiet(loggers, settings.is_progress_bar_enabled, settings.disable_progress_bar, settings.enable_progress_bar)


def load_pretrained(
    name_or_folder: str | Path,
    classes: Sequence[str],
    kind: InputKind,
    *,
    seed: int = 0,
    task: Task = CLASSIFICATION,
    say: Callable[[str], None] | None = None,
) -> tuple[nn.Module, Preprocessor]:
    """Load a pre-trained network with a head for `classes`, and its preprocessor.

    A head that is missing or has another number of outputs is initialised from `seed`. All other weights must come from
    the checkpoint. Weights are converted to float32.

    Args:
        name_or_folder: a folder, or a name on the hub.
        classes: names of the outputs: classes, tags, or the name of the number of a regression.
        kind: texts or images.
        seed: seed of a new head.
        task: decides which kind of head the network gets.
        say: called with a sentence when a trained head is replaced.

    Returns:
        The network in evaluation mode, and its preprocessor.

    Raises:
        UserError: the model does not exist, has no safetensors weights, needs its own code, has no head for the task,
            has weights that do not fit its architecture (the message names the first of them), or a head for the same
            classes in another order whose outputs cannot be put in order.
    """
    name = _checked(name_or_folder)
    auto = _auto_class(task, kind)
    with _quiet(), torch.random.fork_rng(devices=[]):
        config = _configuration(name)
        trained_for = _output_names(config)
        _check_described(auto, config, name)
        torch.manual_seed(torch_seed(seed, "head"))
        module, report = _from_hub(
            lambda: auto.from_pretrained(
                name,
                num_labels=len(classes),
                id2label=dict(enumerate(classes)),
                label2id={label: index for index, label in enumerate(classes)},
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                problem_type=_PROBLEMS.get(type(task)),
                key_mapping=TRAINED_HEADS,
            ),
            name,
        )
    _forget_former_task(module.config)
    check_weights(module, name)
    replaced = _refuse_new_weights(module, report, name)
    if replaced and say:
        say(f"{name} was trained for {replaced} outputs: its head is made new for {len(classes)}")
    elif report["missing_keys"] and report["unexpected_keys"] and say:
        others = listed(sorted(report["unexpected_keys"]), 5)
        say(f"The head of {name} is made new: its weights {others} are of other heads")
    if not replaced and not isinstance(task, Regression):
        order_head(module, _body(module), report["missing_keys"], trained_for, classes, name, say)
    preprocessor = load_preprocessor(name, kind, task)
    if isinstance(preprocessor, TextPreprocessor):
        _agree(module, preprocessor.tokenizer, name)
    module.eval()
    return module, configured(preprocessor, module, name)


def _configuration(name: str) -> Any:
    from transformers import AutoConfig

    return _from_hub(lambda: AutoConfig.from_pretrained(name, trust_remote_code=False), name)


def _output_names(config: Any) -> Sequence[str]:
    """The names of the outputs that a checkpoint was trained for, in their order."""
    names = getattr(config, "id2label", None) or {}
    return [str(names[index]) for index in sorted(names)]


def _check_described(auto: Any, config: Any, name: str) -> None:
    """UserError where a configuration describes a network that is far larger than the weights beside it."""
    # A weight takes half a byte at least. Those of the hub are not here yet, and the hub has its own bounds.
    stored = sum(path.stat().st_size for path in Path(name).glob("*.safetensors"))
    try:
        check_numbers(config.to_dict())
        if stored:
            check_size(lambda: auto.from_config(config, trust_remote_code=False), 2 * stored + 2**24)
    except ValueError as error:
        raise UserError(f"the weights of {name} must fit its config.json: {error}") from error


def _forget_former_task(config: Any) -> None:
    """Remove from a configuration what it says about the task that the checkpoint was trained for."""
    for key in _FORMER:
        if key in vars(config):
            delattr(config, key)


def _agree(module: Any, tokenizer: Any, name: str) -> None:
    """Make a text network and its tokenizer agree on the longest text and the padding token.

    Raises:
        UserError: no padding token can be found.
    """
    most = most_tokens(module)
    if most is not None:
        # Many tokenizers do not know the longest text of their model, and a token after the last position raises an
        # index error.
        tokenizer.model_max_length = min(most, int(tokenizer.model_max_length))
    config = module.config.get_text_config()
    tokens = len(tokenizer)
    # A classifier generates no text, so keys and values need not be cached for a next token.
    config.use_cache = False
    known = config.pad_token_id if isinstance(config.pad_token_id, int) else -1
    if 0 <= known < tokens:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(known)
        return
    # Decoders are often trained without padding. As classifiers they use the last token before the padding, so the
    # padding token must be defined.
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UserError(f"the tokenizer of {name} must name a padding token or an end of texts, it has neither")
    config.pad_token_id = tokenizer.pad_token_id


def _auto_class(task: Task, kind: InputKind) -> Any:
    """The class of `transformers` that builds a network with the head of the task."""
    import transformers

    if isinstance(task, TokenClassification):
        if kind != "text":
            raise UserError(f"token classification needs rows of words, got {kind} rows")
        return transformers.AutoModelForTokenClassification
    by_kind = {
        "text": transformers.AutoModelForSequenceClassification,
        "image": transformers.AutoModelForImageClassification,
    }
    return by_kind[kind]


def _refuse_new_weights(module: nn.Module, report: Mapping[str, Any], name: str) -> int | None:
    """Check that all weights below the head came from the checkpoint.

    `transformers` re-initialises weights that do not fit and ignores weights that the network lacks. This is accepted
    for the head and the pooler below it only.

    Returns:
        The number of outputs of the checkpoint's head if the head was replaced, else None.

    Raises:
        UserError: a weight has another shape, is missing, or has no counterpart in the network.
    """
    prefix = _body(module)
    shapes = {key: (tuple(found), tuple(wanted)) for key, found, wanted in report["mismatched_keys"]}
    heads = {key: found for key, (found, wanted) in shapes.items() if _other_head(key, found, wanted, prefix)}
    own = list(module.state_dict())
    wrong = [key for key in own if key in shapes and key not in heads]
    if wrong:
        found, wanted = shapes[wrong[0]]
        raise UserError(
            f"the weights of {name} must fit its config.json: {wrong[0]} must have the shape {wanted}, "
            f"the file has {found} ({len(wrong)} do not fit)"
        )
    absent = set(report["missing_keys"])
    missing = [key for key in own if key in absent and key.startswith(prefix) and "pooler" not in key]
    if missing:
        raise UserError(f"the weights of {name} must fit its config.json: {missing[0]} is missing ({len(missing)} are)")
    refuse_adapters(report["unexpected_keys"], name)
    surplus = _surplus(report["unexpected_keys"], own, prefix)
    if surplus:
        raise UserError(
            f"the weights of {name} must fit its config.json: the file has {surplus[0]}, for which the network has no "
            f"place ({len(surplus)} have none)"
        )
    return next((found[0] for found in heads.values()), None)


def _body(module: nn.Module) -> str:
    """Prefix of the names of all weights below the head: the base model's, else that of the first child module."""
    base = getattr(module, "base_model_prefix", "")
    if isinstance(getattr(module, base, None), nn.Module):
        return f"{base}."
    return f"{next((name for name, _ in module.named_children()), base)}."


def _surplus(unexpected: Iterable[str], own: Sequence[str], prefix: str) -> list[str]:
    """Weights of further blocks, or weights and biases of existing layers, that the network has no parameter for.

    These mean that config.json does not describe the checkpoint. Heads of other tasks may be left over.
    """
    body = [key for key in own if key.startswith(prefix)]
    blocks = {_NUMBER.sub(".*.", key) for key in body}
    layers = {key.rpartition(".")[0] for key in body if key.endswith((".weight", ".bias"))}

    def needed(key: str) -> bool:
        inner = key if key.startswith(prefix) else f"{prefix}{key}"
        layer, _, kind = inner.rpartition(".")
        return _NUMBER.sub(".*.", inner) in blocks or (kind in ("weight", "bias") and layer in layers)

    return sorted(filter(needed, unexpected))


def _other_head(key: str, found: tuple[int, ...], wanted: tuple[int, ...], prefix: str) -> bool:
    """Whether a weight belongs to the head and differs from the network's in the number of outputs only."""
    return not key.startswith(prefix) and found[1:] == wanted[1:] and len(found) == len(wanted)


def same_labels(model: nn.Module, classes: Sequence[str]) -> None:
    """Check that the outputs of a network stand for these classes in this order, as a teacher's must.

    Names are compared, ignoring case, where both are words (not numbers or "LABEL_0"). A network without a
    configuration of `transformers` has no names to compare and is accepted.

    Raises:
        UserError: the number of outputs or a name differs.
    """
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, Mapping):
        return
    theirs = [str(names[index]) for index in sorted(names)]
    if len(theirs) != len(classes):
        raise UserError(
            f"the network must tell apart the {len(classes)} labels of the data, it has {len(theirs)} outputs "
            f"({', '.join(theirs[:5])})"
        )
    for index, (found, wanted) in enumerate(zip(theirs, classes, strict=True)):
        if _is_word(found) and _is_word(wanted) and found.lower() != wanted.lower():
            raise UserError(
                f"the network must have the labels of the data in their order: output {index} is {found}, "
                f"the data's label is {wanted}"
            )


def _is_word(label: str) -> bool:
    return not label.removeprefix("LABEL_").isdigit()


def load_preprocessor(name_or_folder: str | Path, kind: InputKind, task: Task = CLASSIFICATION) -> Preprocessor:
    """Load the tokenizer or image processor of a model.

    Args:
        name_or_folder: a folder, or a name on the hub.
        kind: texts or images.
        task: for token classification, tokenizers that mark a word by the space before it (RoBERTa's) add that space.

    Raises:
        UserError: the model does not exist or has no tokenizer or image processor.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    name = _checked(name_or_folder, weights=False)
    plain = PlainImages.load(Path(name))
    if plain is not None:
        return plain
    with _quiet():
        if kind == "image":
            make = AutoImageProcessor.from_pretrained
            processor = _from_hub(lambda: make(name, backend="pil", trust_remote_code=False), name)
            check_image_processor(processor, name)
            return ImagePreprocessor(processor)
        words = {"add_prefix_space": True} if isinstance(task, TokenClassification) else {}
        tokenizer = _from_hub(lambda: AutoTokenizer.from_pretrained(name, trust_remote_code=False, **words), name)
    # If its files are missing, transformers silently makes an empty tokenizer that knows special tokens only.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise UserError(f"{name} must hold the files of a tokenizer (tokenizer.json or a vocabulary), it has none")
    check_tokenizer(tokenizer, name)
    tokenizer.padding_side = "right"
    return TextPreprocessor(tokenizer)


def save_preprocessor(preprocessor: Preprocessor, folder: Path) -> None:
    """Write files from which `load_preprocessor` restores the preprocessor into an existing folder."""
    preprocessor.save(folder)


def _checked(name_or_folder: str | Path, *, weights: bool = True) -> str:
    """The name or folder to give to `transformers`; raises UserError for a folder that holds no model."""
    folder = expanded(name_or_folder)
    if folder.is_file():
        raise UserError(f"the model must be a folder or a hub name, {folder} is a file")
    if not folder.is_dir():
        if isinstance(name_or_folder, Path) or str(name_or_folder)[:1] in "./~" or len(folder.parts) > 2:
            raise UserError(f"the model must be a folder or a hub name, there is no folder {folder}")
        return str(name_or_folder)
    if not weights:
        return str(folder)
    refuse_adapter_folder(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"the model folder {folder} must hold a config.json, it has none")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(item.name for item in folder.iterdir() if item.suffix in _PICKLES)
        found = (
            f"it holds {pickled[0]}, which may run code when read: convert it first"
            if pickled
            else "it holds no weights"
        )
        raise UserError(f"the model folder {folder} must hold its weights as safetensors, {found}")
    return str(folder)


def _from_hub(load: Callable[[], Any], name: str) -> Any:
    """Call `load`; what `transformers` raises for a wrong name, file or architecture becomes a UserError."""
    try:
        return load()
    except ImportError as error:
        raise UserError(f"{name} needs a package that is not installed: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        if "couldn't connect" in str(error) or "is not a local folder" in str(error):
            raise UserError(f"there is no folder {name}, and no such model can be reached on the hub") from error
        raise UserError(f"{name} cannot be loaded with transformers: {_first_line(error)}") from error
    except BaseException as error:
        # What panics in Rust is no Exception, and neither is what a user or the system stops it by.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        # safetensors and tokenizers raise their own exceptions, which derive from Exception directly.
        raise UserError(f"{name} is damaged or not what its name says: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def example_inputs(
    module: nn.Module, kind: InputKind, preprocessor: Preprocessor, tokens: int = 128, batch: int = 2
) -> dict[str, Tensor]:
    """Make keyword inputs without padding, always the same ones: random tokens, or images of noise.

    Args:
        module: the network; its configuration limits the number of tokens and the token ids.
        kind: texts or images.
        preprocessor: the preprocessor of the network.
        tokens: length of each text.
        batch: number of rows.
    """
    rng = np.random.default_rng(0)
    if kind == "image":
        from PIL import Image

        pixels = rng.integers(0, 256, size=(batch, 64, 64, 3), dtype=np.uint8)
        rows = []
        for image in pixels:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            rows.append(buffer.getvalue())
        return preprocessor.prepare(rows, tokens).batch(range(batch))
    config = getattr(module, "config", None)
    width = min(tokens, most_tokens(module) or tokens)
    words = int(getattr(config, "vocab_size", 0) or len(getattr(preprocessor, "tokenizer", ())))
    return random_texts(rng, config, words, (batch, width))


def random_texts(rng: np.random.Generator, config: Any, words: int, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Random texts without padding, as a network with this configuration reads them.

    Args:
        rng: gives the tokens.
        config: of the network; None if it has none.
        words: size of its vocabulary.
        shape: rows, and tokens of each.
    """
    # The first ids are often special tokens.
    ids = torch.from_numpy(rng.integers(min(1000, words // 2), words, size=shape))
    return {"input_ids": end_texts(ids, config), "attention_mask": torch.ones_like(ids)}


def most_tokens(module: nn.Module) -> int | None:
    """Longest text of a `transformers` network in tokens, or None when its configuration does not say.

    RoBERTa and its relatives number positions from the padding index + 1, so the first positions are never used.
    """
    positions = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    # XLNet's -1 says that it has no limit.
    if not isinstance(positions, int) or positions < 1:
        return None
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding) and part.num_embeddings == positions]
    return positions - max((part.padding_idx + 1 for part in tables if part.padding_idx is not None), default=0)
