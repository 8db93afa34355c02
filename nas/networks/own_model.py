"""Networks from the user's own code: build them with `module:factory`, load their weights, preprocess their inputs.

Importing a factory runs the user's code, so its name comes from the command line only, never from a run folder.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.data.accuracy import logits_of
from nas.data.pixels import Channels, PlainImages
from nas.data.split import InputKind, Preprocessor
from nas.data.tasks import CLASSIFICATION, Task
from nas.errors import UserError
from nas.networks.channels import probed_channels
from nas.networks.described import check_weights
from nas.networks.own_code import RAISED, current_folder
from nas.networks.preprocessing import configured
from nas.networks.pretrained import load_preprocessor
from nas.seeds import torch_seed

Say = Callable[[str], None]


def own_model(spec: str, weights: Path | None, outputs: int, *, seed: int = 0, say: Say | None = None) -> nn.Module:
    """Build a network with the user's factory and load its weights.

    The factory is called as `factory(outputs)`, or as `factory()` if it takes no argument. The head is the last linear
    layer, together with other linear layers of the same size. It is initialised anew if the weights belong to a head
    with another number of outputs, or if a factory without an argument builds another number of outputs.

    Args:
        spec: `module:factory`; the module is looked for in the current folder first.
        weights: a safetensors file with all parameters and buffers by name; None: the weights that the factory made.
        outputs: number of classes or tags of the data, or 1 for a regression.
        seed: seed of the factory's random draws and of a new head.
        say: called with a sentence when the head is initialised anew.

    Returns:
        The network in evaluation mode.

    Raises:
        UserError: the factory cannot be imported, fails or returns no `nn.Module`, or the weights do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "own model"))
        module, sized = _made(spec, outputs)
        replaced = None if weights is None else _load(module, weights, spec)
        heads = _heads(module)
        made = next((head.out_features for head in heads.values()), outputs)
        # A factory that takes the number of outputs is responsible for its head; `check_outputs` verifies it later.
        if not sized and made != outputs:
            replaced = made
            _renew(module, heads, outputs)
    if replaced is not None and say:
        say(f"{', '.join(heads)} of {spec} has {replaced} outputs: it is made new for {outputs}")
    return module.eval()


def _made(spec: str, outputs: int) -> tuple[nn.Module, bool]:
    """The network, and whether its factory takes the number of outputs as an argument."""
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise UserError(f"a network of your own is named as module:factory, e.g. networks:small, got {spec!r}")
    with current_folder():
        try:
            factory = getattr(import_module(module_name), name)
            sized = _takes_one(factory)
            module = factory(outputs) if sized else factory()
        except RAISED as error:
            # --debug shows the traceback.
            line = (str(error).strip().splitlines() or [""])[0][:300]
            raise UserError(f"{spec} cannot make a network: {type(error).__name__}: {line}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{spec} must make a torch.nn.Module, it made {type(module).__name__}")
    return module, sized


def _takes_one(factory: Callable[..., Any]) -> bool:
    """Whether a factory has a positional parameter."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(parameter.kind in kinds for parameter in inspect.signature(factory).parameters.values())


def _heads(module: nn.Module) -> dict[str, nn.Linear]:
    """The last linear layer and others of the same size, by name.

    Networks with deep supervision or distillation tokens (DeiT) have a second head whose outputs are averaged with the
    first; both must have the same number of outputs.
    """
    linears = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    last = next(reversed(linears.values()), None)
    sizes = {name: (part.in_features, part.out_features) for name, part in linears.items()}
    return {
        name: part for name, part in linears.items() if last and sizes[name] == (last.in_features, last.out_features)
    }


def _renew(module: nn.Module, heads: Mapping[str, nn.Linear], outputs: int) -> None:
    """Replace the heads by newly initialised layers with `outputs` outputs, of the same type and on the same device."""
    for name, old in heads.items():
        new = nn.Linear(old.in_features, outputs, bias=old.bias is not None, device=old.weight.device)
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, new.to(old.weight.dtype))


def _load(module: nn.Module, path: Path, spec: str) -> int | None:
    """Copy the weights of a file into the network, all but those of a head with another number of outputs.

    Returns:
        The number of outputs of the head in the file if that head was skipped, else None.

    Raises:
        UserError: the file has weights that the network lacks, lacks some of the network's, has other shapes, or
            holds values that are no numbers.
    """
    given, own = _read(path), module.state_dict()
    unexpected = next((name for name in given if name not in own), None)
    if unexpected is not None:
        raise UserError(f"the weights in {path} must be those of {spec}: the network has no {unexpected}")
    # Tied weights (an embedding that is also the output layer) are stored under one of their names only, so a missing
    # name is fine when a given one shares its memory.
    shared = {own[name].data_ptr() for name in given}
    # Many files lack the number of batches that a batch norm has seen, which is unused with a fixed momentum.
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    missing = next((name for name in needed if name not in given and own[name].data_ptr() not in shared), None)
    if missing is not None:
        raise UserError(f"the weights in {path} must be those of {spec}: the file has no {missing}")
    heads = {f"{name}.{kind}" for name in _heads(module) for kind in ("weight", "bias")}
    other = {name: tensor for name, tensor in given.items() if tensor.shape != own[name].shape}
    for name in (name for name in own if name in other):
        found, wanted = tuple(other[name].shape), tuple(own[name].shape)
        if name not in heads or found[1:] != wanted[1:] or len(found) != len(wanted):
            raise UserError(
                f"the weights in {path} must be those of {spec}: {name} must have the shape {wanted}, "
                f"the file has {found}"
            )
    # If only one tensor of the head has another shape, the rest of the head is useless, so the whole head is skipped.
    kept = {name: tensor for name, tensor in given.items() if name not in heads or not other}
    module.load_state_dict(kept, strict=False)
    check_weights(module, str(path))
    return next((int(tensor.shape[0]) for tensor in other.values()), None)


def _read(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise UserError(f"--weights must name a .safetensors file (others may run code when read), got {path}")
    try:
        found: Mapping[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"the weights in {path} cannot be read: {error}") from error
    return found


def own_preprocessor(
    module: nn.Module,
    kind: InputKind,
    *,
    image_size: int | tuple[int, int] | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    tokenizer: str | Path | None = None,
    task: Task = CLASSIFICATION,
) -> Preprocessor:
    """Make the preprocessor for a network from the user's own code.

    Images are passed as the first argument of the network's forward, texts as `input_ids` and `attention_mask`.

    Args:
        module: the network.
        kind: texts or images.
        image_size: side or (height, width) in pixels; None: the attribute `image_size` of the network.
        mean, std: mean and standard deviation of red, green and blue in 0..1, or of grey; None: 0.5 each, pixels
            range from -1 to 1 then. Where neither is given, the network is asked whether it reads grey.
        tokenizer: folder or hub name of the tokenizer for texts.
        task: the kind of labels.

    Raises:
        UserError: the image size or the tokenizer is missing, the tokenizer has more tokens than the network's
            configuration says, or the forward does not take these inputs.
    """
    if kind == "text":
        if tokenizer is None:
            raise UserError("texts for a network of your own need --tokenizer: the folder or hub name of a tokenizer")
        parameters = inspect.signature(module.forward).parameters
        free = any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        absent = next((name for name in ("input_ids", "attention_mask") if not free and name not in parameters), None)
        if absent is not None:
            raise UserError(
                f"the forward of a network for texts must take input_ids and attention_mask, it has no {absent}"
            )
        return configured(load_preprocessor(tokenizer, kind, task), module, str(tokenizer))
    name = pixels_name(module)
    size = getattr(module, "image_size", None) if image_size is None else image_size
    if size is None:
        raise UserError("images for a network of your own need --image-size, or an attribute image_size of the network")
    try:
        height, width = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"an image size is a side or (height, width) in pixels, got {size!r}") from error
    given = mean or std
    middle = (0.5,) * (len(given) if given else probed_channels(module, name, (height, width)))
    return PlainImages(name, (height, width), mean or middle, std or middle)


def pixels_name(module: nn.Module) -> str:
    """The name of the first argument of a network for images, its pixels; UserError where it has none."""
    first = next(iter(inspect.signature(module.forward).parameters.values()), None)
    if first is None or first.kind != inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise UserError("the forward of a network for images must name its first argument, the pixels")
    return first.name


def check_outputs(module: nn.Module, inputs: Mapping[str, Tensor], outputs: int, remedy: str = "") -> None:
    """Run a network once to check its inputs and its number of outputs.

    Args:
        module: the network, in evaluation mode.
        inputs: keyword inputs of a few rows.
        outputs: the number of outputs that each row must have.
        remedy: advice that ends the message when the network rejects the inputs.

    Raises:
        UserError: the forward fails, or the last axis of its logits has another size than `outputs`.
    """
    try:
        with torch.no_grad():
            found = tuple(logits_of(module(**inputs)).shape)
    except RAISED as error:
        line = (str(error).strip().splitlines() or [""])[0][:300]
        remedy = f"; {remedy}" if remedy else ""
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        raise UserError(
            f"the network must take {shapes}, but it raised {type(error).__name__}: {line}{remedy}"
        ) from error
    if found[-1:] != (outputs,) and not (outputs == 1 and len(found) == 1):
        raise UserError(f"the network must give {outputs} outputs a row for this data, it gives the shape {found}")
