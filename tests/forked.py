"""Python in processes of its own, forked from one that has imported the libraries: that takes longer than most tests.

Only libraries are imported before the fork. This project is imported by each process, as in one that is started anew.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

LIBRARIES = (
    "accelerate",
    "datasets",
    "matplotlib.figure",
    "moocore",
    "onnx",
    "onnxruntime",
    "onnxscript._framework_apis.torch_2_11",
    "onnxscript.function_libs.torch_lib.ops",
    "onnxscript.rewriter",
    "optuna",
    "pandas",
    "pydantic.main",
    "pydantic.dataclasses",
    "rich.console",
    "safetensors.torch",
    "scipy.io",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.gaussian_process",
    "sqlalchemy",
    "tomllib",
    "torch",
    "torch._dynamo",
    "torch._inductor.fx_passes.dedupe_symint_uses",
    "torch._inductor.sizevars",
    "torch.export._trace",
    "torch.fx.experimental.validator",
    "torch.onnx._internal.exporter._core",
    "torch.onnx._internal.exporter._torchlib.ops",
    "torch.onnx._internal.fx.passes",
    "transformers.modeling_layers",
    "transformers.models.auto.image_processing_auto",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "typeguard",
    "tyro",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(LIBRARIES))


@cache
def known_operators() -> list[Any]:
    """The operators that the exporter to ONNX knows, whose sources take seconds to parse."""
    operators: list[Any] = import_module("onnxscript._framework_apis.torch_2_11").get_torchlib_ops()
    return operators


def list_operators_once() -> None:
    """The exporter parses them in each export; from now on, in the first one."""
    from torch.onnx._internal._lazy_import import onnxscript_apis

    onnxscript_apis.get_torchlib_ops = known_operators


class Finished(NamedTuple):
    """How a process ended: negative signals as `subprocess` has them, and what it wrote."""

    status: int
    out: str
    err: str


class Forked:
    """A running process: `python ARGS` with `-c CODE`, `-m MODULE` or a script, and their arguments.

    Args:
        args: those of Python.
        cwd: the folder that it runs in; None: that of this process.
        env: its environment; None: that of this process.
        nice: how much less than this process it takes of a busy processor.
    """

    def __init__(
        self, args: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, nice: int = 0
    ) -> None:
        self._folder = TemporaryDirectory()
        environment = dict(os.environ if env is None else env)
        arguments = (list(args), self._folder.name, str(cwd or Path.cwd()), environment, nice)
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.exitcode

    def send_signal(self, which: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, which)

    def out(self) -> str:
        """What it has written so far."""
        return self._written("out")

    def finish(self, timeout_s: float) -> Finished:
        """Wait for its end, and end it after that time: then its status is that of a killed one."""
        self._process.join(timeout_s)
        self._end()
        assert self._process.exitcode is not None
        finished = Finished(self._process.exitcode, self._written("out"), self._written("err"))
        self._folder.cleanup()
        return finished

    def kill(self) -> None:
        """End it where it still runs, and forget what it wrote."""
        self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()

    def _written(self, name: str) -> str:
        path = Path(self._folder.name, name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def run(
    args: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 300
) -> Finished:
    """A process from its beginning to its end."""
    return Forked(args, cwd=cwd, env=env).finish(timeout_s)


def _run(args: list[str], folder: str, cwd: str, environment: dict[str, str], nice: int) -> None:
    """What the forked process does; its exit status is that of what it runs."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.nice(nice)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if environment.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    kind = args[0]
    if kind == "-c":
        _as_main(args[1], ["-c", *args[2:]])
    elif kind == "-m":
        sys.argv = args[1:]
        sys.path.insert(0, cwd)
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = args
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")


def _as_main(code: str, argv: list[str]) -> None:
    """Code as `python -c` runs it."""
    sys.argv = argv
    sys.path.insert(0, "")
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(code, "<string>", "exec"), main.__dict__)
