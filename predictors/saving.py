"""Saves a predictor as its data and settings, and fits it again on load.

Such a file holds numbers and JSON only. A pickle could run code, and depends on the version of scikit-learn.
"""

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from predictors.additive import Additive
from predictors.chooser import Chooser
from predictors.corrected import Corrected
from predictors.gaussian_process import GaussianProcess
from predictors.predictor import Predictor
from predictors.ridge import Ridge
from predictors.svr import Svr

_KINDS: dict[str, type[Any]] = {
    "additive": Additive,
    "chooser": Chooser,
    "corrected": Corrected,
    "gaussian process": GaussianProcess,
    "ridge": Ridge,
    "svr": Svr,
}
_VERSION = 1


def save(predictor: Predictor, path: Path) -> None:
    """Write a fitted predictor to a file.

    Args:
        predictor: one of this package's.
        path: the file, `.npz`; an existing one is replaced as a whole.

    Raises:
        ValueError: the predictor is not fitted, or is none of this package's.
    """
    x, y = predictor.data()
    about = json.dumps({"version": _VERSION, **_described(predictor)})
    # Written beside the file, then renamed: a process that dies half-way leaves the old file.
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            np.savez(file, x=x, y=y, about=np.array(about))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path) -> Predictor:
    """Read a predictor that `save` wrote, and fit it again.

    Raises:
        ValueError: the file is missing, damaged, or anything else than a saved predictor.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about, x, y = json.loads(str(file["about"])), file["x"], file["y"]
        if about.pop("version") != _VERSION:
            raise ValueError(f"its version must be {_VERSION}")
        predictor: Predictor = _made(about)
        return predictor.fit(x, y)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        RecursionError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"{path} must be a predictor written by this project: {error}") from error


def _described(predictor: Any) -> dict[str, Any]:
    """Kind and settings of a predictor as JSON; a chooser contains those of its options."""
    kind = next((name for name, known in _KINDS.items() if type(predictor) is known), None)
    if kind is None:
        raise ValueError(f"only {', '.join(_KINDS)} can be saved, got {type(predictor).__name__}")
    settings = {f.name: getattr(predictor, f.name) for f in dataclasses.fields(predictor) if f.init}
    if isinstance(predictor, Chooser):
        settings["options"] = [_described(option) for option in predictor.options]
    return {"kind": kind, "settings": settings}


def _made(about: dict[str, Any]) -> Any:
    """The predictor, not fitted, of a kind and settings; only classes of `_KINDS` can be made."""
    if about["kind"] not in _KINDS:
        raise ValueError(f"its kind must be one of {', '.join(_KINDS)}, got {about['kind']}")
    settings = dict(about["settings"])
    if "options" in settings:
        settings["options"] = tuple(_made(option) for option in settings["options"])
    return _KINDS[about["kind"]](**settings)
