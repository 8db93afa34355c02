"""The command `nas`: its commands, exit statuses, and one sentence for every mistake.

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
from typing import Any, TextIO, TypeVar

import tyro

from nas.command.config_file import defaults_from, read_config
from nas.command.flags import mistake
from nas.command.home import home
from nas.console import Show, print_object
from nas.errors import NoFeasible, UserError
from nas.runs.requests import (
    EvolveRequest,
    ExportRequest,
    FinetuneRequest,
    ProfileKitRequest,
    ProfileRequest,
    ProfileResultRequest,
    PruneRequest,
    RefineRequest,
    ReportRequest,
    SearchRequest,
)
from nas.sentences import did_you_mean, one_line, quoted
from nas.settings import Common

_CANNOT_WRITE = (errno.ENOENT, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG)
R = TypeVar("R", FinetuneRequest, PruneRequest, EvolveRequest, RefineRequest, ProfileRequest, SearchRequest)
DONE, FAILED, WRONG_INPUT, NOTHING_FEASIBLE, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Demo:
    """All of it on a small language model and movie-review sentences, in minutes on two cores."""

    out: Path = Path("demo")
    """Folder of the demo: the run and the export; the same command goes on where it stopped."""
    cache: Path | None = None
    """Where fetched files are kept; None: $SUPERSIEVE_CACHE, else the user's cache folder."""
    dry_run: bool = False
    """Only say what would be done and how long it takes."""
    common: Common = field(default_factory=Common)


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, usable and missing on this machine."""

    common: Common = field(default_factory=Common)


_COMMANDS: dict[str, type[Any]] = {
    "finetune": FinetuneRequest,
    "prune": PruneRequest,
    "evolve": EvolveRequest,
    "profile": ProfileRequest,
    "search": SearchRequest,
    "report": ReportRequest,
    "export": ExportRequest,
    "refine": RefineRequest,
    "profile-kit": ProfileKitRequest,
    "profile-result": ProfileResultRequest,
    "demo": Demo,
    "doctor": Doctor,
}
# How version 0.1 spelled what are commands of their own now.
_MOVED = {
    ("finetune", "--candidate"): "nas refine RUN --candidate SPEC --out FOLDER",
    ("profile", "--remote"): "nas profile-kit MODEL --out FOLDER",
    ("profile", "--result"): "nas profile-result MODEL RESULT --out FILE",
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
            with home(), _own_stdout() as out:
                _HANDLERS[type(command)](command, out)
        return DONE
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if "--debug" in args:
            traceback.print_exc()
        status, sentence = _verdict(error)
        print(f"nas: {one_line(sentence)}", file=sys.stderr, flush=True)
        return status


def _overview() -> str:
    lines = ["usage: nas COMMAND [flags]", ""]
    for name, kind in _COMMANDS.items():
        text = textwrap.wrap(str(kind.__doc__), 90)
        lines += [f"  {name:<16}{text[0]}", *(f"  {'':<16}{line}" for line in text[1:])]
    return "\n".join([*lines, "", "nas COMMAND --help lists the flags of a command; nas --version prints the version."])


def _parse(args: Sequence[str]) -> Any:
    """The request of a command; None when its help was printed."""
    kind = _COMMANDS.get(args[0])
    if kind is None:
        meant = did_you_mean(args[0], _COMMANDS)
        raise UserError(f"there is no command {quoted(args[0])}{meant}; the commands are {', '.join(_COMMANDS)}")
    for word in args[1:]:
        now = _MOVED.get((args[0], word.partition("=")[0]))
        if now is not None:
            raise UserError(f"nas {args[0]} {word.partition('=')[0]} is a command of its own now: {now}")
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
        reason = mistake(f"nas {args[0]}", kind, args[1:], values) or _first_paragraph(said.getvalue())
        raise UserError(f"{reason}; see nas {args[0]} --help") from None


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
    text = one_line(str(error))
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; the same command goes on where it stopped"
    if isinstance(error, NoFeasible):
        return NOTHING_FEASIBLE, f"error: {text}"
    if isinstance(error, UserError):
        return WRONG_INPUT, f"error: {text}"
    if isinstance(error, SystemExit):
        return WRONG_INPUT, f"error: code of your own ended the command (sys.exit({text[:100]})); let it raise an error"
    if isinstance(error, OSError) and (error.filename or error.errno in _CANNOT_WRITE):
        where = f": {error.filename}" if error.filename else ""
        return WRONG_INPUT, f"error: {error.strerror or text}{where}; nothing is lost, mend it and repeat the command"
    if any(os.strerror(number) in text for number in _CANNOT_WRITE):  # libraries in Rust wrap what the system said
        return WRONG_INPUT, f"error: {one_line(text, 300)}; nothing is lost, mend it and repeat the command"
    return FAILED, f"error: the work failed: {type(error).__name__}: {one_line(text, 300)} (--debug shows where)"


def _one_process() -> None:
    """UserError where a launcher started several processes: a run folder belongs to one."""
    if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
        raise UserError(
            f"a command must run in one process, a launcher started {os.environ['WORLD_SIZE']}; start it without the "
            "launcher, or call nas.instatune in a program of your own under accelerate launch"
        )


def _estimate_or_run(
    request: R,
    out: TextIO,
    estimate: Callable[[R], Mapping[str, Any]],
    run: Callable[[R], Mapping[str, Any]],
    show: Show,
) -> None:
    """Print what a long command would take (`--dry-run`), or run it and show its result."""
    if request.dry_run:
        _print(estimate(request), request.common, out)
    else:
        _print(run(request), request.common, out, show=show)


def _finetune(request: FinetuneRequest, out: TextIO) -> None:
    from nas.reporting import endings
    from nas.runs import finetune

    _estimate_or_run(request, out, finetune.estimate, finetune.finetune_run, endings.print_finetuned)


def _prune(request: PruneRequest, out: TextIO) -> None:
    from nas.reporting import endings
    from nas.runs import prune

    _estimate_or_run(request, out, prune.estimate, prune.prune_run, endings.print_pruned)


def _evolve(request: EvolveRequest, out: TextIO) -> None:
    from nas.runs import evolve

    _estimate_or_run(request, out, evolve.estimate, evolve.evolve_run, print_object)


def _refine(request: RefineRequest, out: TextIO) -> None:
    from nas.reporting import endings
    from nas.runs import refine

    _estimate_or_run(request, out, refine.estimate, refine.refine_run, endings.print_comparison)


def _profile(request: ProfileRequest, out: TextIO) -> None:
    from nas.reporting import endings
    from nas.runs import profile

    _estimate_or_run(request, out, profile.estimate, profile.profile_device, endings.print_profile)


def _profile_kit(request: ProfileKitRequest, out: TextIO) -> None:
    from nas.runs import profile_kit

    _print(profile_kit.write_kit(request), request.common, out)


def _profile_result(request: ProfileResultRequest, out: TextIO) -> None:
    from nas.reporting import endings
    from nas.runs import profile_kit

    _print(profile_kit.read_result(request), request.common, out, show=endings.print_profile)


def _search(request: SearchRequest, out: TextIO) -> None:
    from nas.reporting import endings
    from nas.runs import search

    _estimate_or_run(request, out, search.estimate, search.search_run, endings.print_search)


def _report(request: ReportRequest, out: TextIO) -> None:
    from nas.runs import readers

    reader = readers.reader(request.run)
    _print(reader.report(request), request.common, out, show=reader.show_report)


def _export(request: ExportRequest, out: TextIO) -> None:
    from nas.runs import readers

    reader = readers.reader(request.run)
    _print(reader.export(request), request.common, out, show=reader.show_export)


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
    show: Show = print_object,
) -> None:
    if common.json:
        out.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        show(result, out)
    out.flush()


_HANDLERS: dict[type[Any], Callable[[Any, TextIO], None]] = {
    FinetuneRequest: _finetune,
    PruneRequest: _prune,
    EvolveRequest: _evolve,
    RefineRequest: _refine,
    ProfileRequest: _profile,
    ProfileKitRequest: _profile_kit,
    ProfileResultRequest: _profile_result,
    SearchRequest: _search,
    ReportRequest: _report,
    ExportRequest: _export,
    Demo: _demo,
    Doctor: _doctor,
}
