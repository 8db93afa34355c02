"""The graph of a module from `torch.export`, and where in the user's code an export stops."""

import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from search_spaces.evaluating import evaluating
from search_spaces.inputs import Inputs, split_inputs
from search_spaces.selecting import LastSelected

# Frames of these folders are those of the exporter and ours, not those of the user's code.
_NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parents[1])
_STANDARD_LIBRARY = Path(traceback.__file__).parent


def exported(
    model: nn.Module, example_inputs: Inputs, *, calls_of: Sequence[str] = (), runnable: bool = False
) -> torch.export.ExportedProgram:
    """Trace `model` with `torch.export`, in evaluation mode; the model is left as it is.

    Args:
        model: any module.
        example_inputs: a tuple of positional or a mapping of keyword tensors.
        calls_of: paths of modules whose calls are to be listed, with their arguments, in `module_call_graph`.
        runnable: whether the graph is to be run like the module: for any number of rows, which are axis 0 of all
            inputs, and with gradients. Else it is to be read, and is one of these sizes.

    Raises:
        ValueError: `torch.export` cannot trace the module (the message names the line of the user's code), or the
            module fixes the number of rows.
    """
    args, kwargs = split_inputs(example_inputs)
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in (*args, *kwargs.values()) if runnable else ():
        shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    try:
        with (
            torch.set_grad_enabled(runnable),
            evaluating(model),
            LastSelected(),
            warnings.catch_warnings(),
            _unlogged(),
        ):
            warnings.simplefilter("ignore")
            # Not strict: the module runs as ordinary Python, which takes the forwards of far more models.
            return torch.export.export(
                model,
                args,
                kwargs,
                strict=False,
                dynamic_shapes=shapes if runnable else None,
                preserve_module_call_signature=tuple(calls_of),
            )
    except Exception as error:  # of any type: the exporter runs the user's code
        if "Constraints violated" in str(error):
            raise ValueError(
                "the forward must take any number of rows, it takes only that of example_inputs"
            ) from error
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        where = _users_line(error.__traceback__)
        raise ValueError(f"the model must be traceable by torch.export, which says{where}: {reason}") from error


@contextmanager
def _unlogged() -> Iterator[None]:
    """Context without messages: the exporter prints whole graphs before it raises what is wrong with them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _users_line(trace: TracebackType | None) -> str:
    """The last line of the user's code that a traceback goes through, for a message; empty if there is none."""
    files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(trace)]
    inside = [(file, line) for file, line in files if file.is_file() and _is_the_users(file)]
    return f" at {inside[-1][0]}, line {inside[-1][1]}" if inside else ""


def _is_the_users(file: Path) -> bool:
    """Whether a file is neither the exporter's, nor ours, nor Python's own."""
    if any(file.is_relative_to(folder) for folder in _NOT_THE_USERS):
        return False
    return "site-packages" in file.parts or not file.is_relative_to(_STANDARD_LIBRARY)
