"""The command `nas`: flags, exit statuses, and one sentence for every mistake; the only home of tyro.

Exit status: 0 done, 1 the work failed, 2 the input was wrong, 3 nothing meets the limits, 130 interrupted.
"""

import contextlib
import errno
import io
import json
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TextIO

import tyro

from nas.command.config_file import defaults_from, read_config
from nas.console import print_comparison, print_object
from nas.errors import NoFeasible, UserError
from nas.runs.requests import ExportRequest, FinetuneRequest, FurtherRequest, ProfileRequest, SearchRequest
from nas.settings import (
    Common,
    DataSettings,
    Limits,
    ModelSettings,
    ProfileSettings,
    SearchSettings,
    SpaceSettings,
    SupernetSettings,
    TrainingSettings,
)

_NO_PLACE = (errno.ENOENT, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG)
DONE, FAILED, WRONG_INPUT, NOTHING_FEASIBLE, INTERRUPTED = 0, 1, 2, 3, 130

_Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
_Network = Annotated[str | None, tyro.conf.arg(name="model")]
_Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class Finetune:
    """Fine-tune a pre-trained model into a super-network, in a run folder; goes on where it stopped.

    With --candidate: fine-tune one sub-network of a finished run further, and export it.
    """

    model: _Model
    """Folder (config.json, model.safetensors, tokenizer or image processor) or hub name of a pre-trained model, or your
    own network as module:factory; with --candidate a finished run folder."""
    out: Path
    """The run folder to make or to go on with; with --candidate the folder to export to."""
    own: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    elastic: SpaceSettings = field(default_factory=SpaceSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    recipe: SupernetSettings = field(default_factory=SupernetSettings)
    candidate: str | None = None
    """The sub-network to fine-tune further: chosen (by a search, within the limits), largest, smallest, or a JSON file
    with its choices."""
    name: str = "default"
    """With --candidate chosen: the search's name."""
    network: _Network = None
    """With --candidate, where the run is of a network of your own: its module:factory again."""
    limits: Limits = field(default_factory=Limits)
    dry_run: bool = False
    """Only estimate time and memory, from a few steps."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class Profile:
    """Measure some sub-networks on this machine, so that the latency of all others can be predicted anywhere.

    With --remote: write a folder to do so on another device, without this project; with --result: read what came back.
    """

    model: _Model
    """A run folder, a folder or hub name of a model (config.json is enough), or your own network as module:factory."""
    out: Path | None = None
    """The profile to write (JSON) or to go on with; not needed with --remote."""
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    remote: Path | None = None
    """Write this folder instead: ONNX files, and a script that measures them where they are copied to."""
    result: Path | None = None
    """The result.json that the script of such a folder wrote: make the profile of it."""
    own: ModelSettings = field(default_factory=ModelSettings)
    elastic: SpaceSettings = field(default_factory=SpaceSettings)
    network: _Network = None
    """Where the run is of a network of your own: its module:factory again."""
    dry_run: bool = False
    """Only estimate the time, from two sub-networks."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class Search:
    """Search a run's super-network on this machine; goes on where it stopped."""

    run: _Run
    """The run folder."""
    search: SearchSettings = field(default_factory=SearchSettings)
    model: str | None = None
    """Where the run is of a network of your own: its module:factory again."""
    limits: Limits = field(default_factory=Limits)
    dry_run: bool = False
    """Only estimate time and memory, from a few measured sub-networks."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class Report:
    """Draw how the fine-tuning went, and a search: its front with the full network and the chosen one marked."""

    run: _Run
    """The run folder."""
    name: str = "default"
    """The search's name."""
    limits: Limits = field(default_factory=Limits)
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class Export:
    """Write the best sub-network within the limits: weights, ONNX and a card with figures from the test rows."""

    run: _Run
    """The run folder."""
    out: Path
    """The folder to write; replaced only when everything in it was checked."""
    name: str = "default"
    """The search's name."""
    model: str | None = None
    """Where the run is of a network of your own: its module:factory again."""
    limits: Limits = field(default_factory=Limits)
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class Demo:
    """All of it on a small language model and movie-review sentences, in minutes on two cores."""

    out: Path = Path("demo")
    """Folder of the demo: the run and the export; the same command goes on where it stopped."""
    cache: Path | None = None
    """Where fetched files are kept (default: $SUPERSIEVE_CACHE, else the user's cache folder)."""
    dry_run: bool = False
    """Only say what would be done and how long it takes."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, usable and missing on this machine."""

    common: Common = field(default_factory=Common)


_COMMANDS: dict[str, type[Any]] = {
    "finetune": Finetune,
    "profile": Profile,
    "search": Search,
    "report": Report,
    "export": Export,
    "demo": Demo,
    "doctor": Doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; `argv` without the program's name."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_overview(), file=sys.stdout if args else sys.stderr)
            return DONE if args else WRONG_INPUT
        if args[0] == "--version":
            print(f"supersieve {version('supersieve')}")
            return DONE
        command = _parse(args)
        if command is not None:
            _one_process()
            with _own_stdout() as out:
                _HANDLERS[type(command)](command, out)
        return DONE
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in args:
            traceback.print_exc()
        status, sentence = _verdict(error)
        print(f"nas: {sentence}", file=sys.stderr, flush=True)
        return status


def _overview() -> str:
    lines = ["usage: nas COMMAND [flags]", ""]
    for name, kind in _COMMANDS.items():
        text = textwrap.wrap(str(kind.__doc__), 90)
        lines += [f"  {name:<10}{text[0]}", *(f"  {'':<10}{line}" for line in text[1:])]
    return "\n".join([*lines, "", "nas COMMAND --help lists the flags of a command; nas --version prints the version."])


def _parse(args: Sequence[str]) -> Any:
    """The command asked for as its frozen dataclass; None when its help was printed."""
    kind = _COMMANDS.get(args[0])
    if kind is None:
        raise UserError(f"there is no command {args[0]!r}; the commands are {', '.join(_COMMANDS)}")
    values = read_config(args[1:])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                prog=f"nas {args[0]}",
                args=args[1:],
                default=defaults_from(kind, values, missing=tyro.MISSING),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction),
            )
    except SystemExit as stopped:
        if not stopped.code:
            return None
        raise UserError(f"{_first_paragraph(said.getvalue())}; see nas {args[0]} --help") from None


def _first_paragraph(boxed: str) -> str:
    """The reason out of a message that is drawn as a box with rules between its paragraphs."""
    reason = re.split("\u2500{5,}[^\u2570]*\u2502\n|\u2570", boxed.partition("\n")[2])[0]
    return re.sub(r"[\s\u2502]+", " ", reason).strip().rstrip(".")


@contextlib.contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """A private copy of standard output; what libraries print there goes to standard error instead.

    Their bars and warnings are switched off, so that the figures and errors of this program can be seen.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Threads that spin while they wait make a step two to three times slower where other programs want the processors.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.stdout.flush()
    private, previous = os.dup(1), sys.stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        with warnings.catch_warnings(), open(private, "w", encoding="utf-8", closefd=False) as out:
            warnings.simplefilter("ignore")
            yield out
    finally:
        sys.stdout = previous
        os.dup2(private, 1)
        os.close(private)


def _verdict(error: BaseException) -> tuple[int, str]:
    """Exit status and one sentence for whatever ended a command."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; the same command goes on where it stopped"
    if isinstance(error, NoFeasible):
        return NOTHING_FEASIBLE, f"error: {text}"
    if isinstance(error, UserError):
        return WRONG_INPUT, f"error: {text}"
    if isinstance(error, OSError) and (error.filename or error.errno in _NO_PLACE):
        place = f": {error.filename}" if error.filename else ""
        return WRONG_INPUT, f"error: {error.strerror or text}{place}; nothing is lost, mend it and repeat the command"
    if any(os.strerror(number) in text for number in _NO_PLACE):  # libraries in Rust wrap what the system said
        return WRONG_INPUT, f"error: {text[:300]}; nothing is lost, mend it and repeat the command"
    return FAILED, f"error: the work failed: {type(error).__name__}: {text[:300]} (--debug shows where)"


def _one_process() -> None:
    """UserError where a launcher started several processes: a run folder belongs to one."""
    if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
        raise UserError(
            f"a command must run in one process, a launcher started {os.environ['WORLD_SIZE']}; start it without the "
            "launcher, or call nas.instatune in a program of your own under accelerate launch"
        )


def _finetune(command: Finetune, out: TextIO) -> None:
    from nas.runs import estimate
    from nas.runs import finetune as workflow

    if command.candidate is not None:
        _finetune_candidate(command, command.candidate, out)
        return
    if command.name != "default" or command.limits.given():
        raise UserError("--name and limits choose a sub-network of a finished run: give them with --candidate chosen")
    if command.network is not None:
        raise UserError("--model goes with --candidate; a network to begin with stands first: nas finetune MODEL")
    request = FinetuneRequest(
        command.model,
        command.data,
        command.own,
        command.elastic,
        command.training,
        command.recipe,
        command.common,
    )
    if command.dry_run:
        _print(estimate.finetuning(request), command.common, out)
    else:
        _print(workflow.finetune_run(request, command.out), command.common, out)


def _finetune_candidate(command: Finetune, spec: str, out: TextIO) -> None:
    from nas.runs import estimate
    from nas.runs import export as delivery

    settings = (command.own, command.data, command.elastic, command.recipe)
    if settings != (ModelSettings(), DataSettings(), SpaceSettings(), SupernetSettings()):
        raise UserError(
            "--candidate takes the rows and the sub-networks of the run, and trains one of them plainly: leave out "
            "--data and its columns, the sizes, the sampling and distillation, and --weights and what goes with them"
        )
    request = FurtherRequest(
        Path(command.model),
        spec,
        command.name,
        command.limits,
        command.training,
        command.common,
        command.network,
    )
    if command.dry_run:
        _print(estimate.further(request), command.common, out)
    else:
        _print(delivery.finetune_candidate(request, command.out), command.common, out, show=print_comparison)


def _profile(command: Profile, out: TextIO) -> None:
    from nas.runs import profile as profiling
    from nas.runs import profile_kit as remote

    if command.remote is not None and command.result is not None:
        raise UserError("--remote writes a folder and --result reads what came of one: give one of them")
    request = ProfileRequest(
        command.model, command.profile, command.own, command.elastic, command.common, command.network
    )
    if command.dry_run:
        _print(profiling.estimate(request), command.common, out)
    elif command.remote is not None:
        _print(remote.write_folder(request, command.remote), command.common, out)
    elif command.out is None:
        raise UserError("--out must name the profile to write, e.g. --out laptop.json")
    elif command.result is not None:
        _print(remote.read_result(request, command.result, command.out), command.common, out)
    else:
        _print(profiling.profile_device(request, command.out), command.common, out)


def _search(command: Search, out: TextIO) -> None:
    from nas.runs import estimate
    from nas.runs import search as searching

    request = SearchRequest(command.run, command.search, command.limits, command.common, command.model)
    work = estimate.searching if command.dry_run else searching.search_run
    _print(work(request), command.common, out)


def _report(command: Report, out: TextIO) -> None:
    from nas.runs import report

    _print(report.report_run(command.run, command.name, command.limits), command.common, out)


def _export(command: Export, out: TextIO) -> None:
    from nas.runs import export as delivery

    request = ExportRequest(command.run, command.name, command.limits, command.common, command.model)
    result = delivery.export_run(request, command.out)
    _print(result, command.common, out, show=print_comparison)


def _demo(command: Demo, out: TextIO) -> None:
    from nas.command import demo

    if command.dry_run:
        _print(demo.plan(command.out, command.cache), command.common, out)
        return
    _print(demo.demo(command.out, command.cache, command.common), command.common, out, show=demo.show)


def _doctor(command: Doctor, out: TextIO) -> None:
    from nas.command import doctor

    diagnosis = doctor.diagnose()
    _print(diagnosis.to_json(), command.common, out, show=doctor.show)
    if not diagnosis.healthy:
        raise UserError("something that the commands need cannot be used; the list says what to install")


def _print(
    result: Mapping[str, Any],
    common: Common,
    out: TextIO,
    show: Callable[[Mapping[str, Any], TextIO], None] = print_object,
) -> None:
    if common.json:
        out.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        show(result, out)
    out.flush()


_HANDLERS: dict[type[Any], Callable[[Any, TextIO], None]] = {
    Finetune: _finetune,
    Profile: _profile,
    Search: _search,
    Report: _report,
    Export: _export,
    Demo: _demo,
    Doctor: _doctor,
}
