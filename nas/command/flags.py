"""The flags of a command, read from the dataclass of its request, and what is wrong with words that do not fit them."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Collection, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from nas.sentences import did_you_mean, one_of, quoted

_TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command, or a word that stands without one.

    Args:
        name: as it is written behind the hyphens.
        kind: the type of its value.
        about: what its value is, as a part of a sentence.
        word: how the word is called that stands without a flag, e.g. RUN; None for a flag.
        required: whether a command needs it.
    """

    name: str
    kind: Any
    about: str
    word: str | None
    required: bool

    @property
    def field(self) -> str:
        """Its name in the request."""
        return self.name.replace("-", "_")

    @property
    def written(self) -> str:
        """Its name in a sentence."""
        return self.word or f"--{self.name}"


@dataclasses.dataclass(frozen=True)
class _Alone:
    """A word that stands alone on a command line, and the flag that was named last before it."""

    word: str
    behind: Flag | None

    @property
    def is_truth(self) -> bool:
        """Whether it was meant as the value of a flag that takes none."""
        return self.behind is not None and self.behind.kind is bool and self.word.casefold() in _TRUTHS

    @property
    def advice(self) -> str:
        """What to write instead, where there are too many such words."""
        if self.behind is not None and self.is_truth:
            return f"{self.behind.written} takes no value"
        if self.behind is not None and get_origin(self.behind.kind) is tuple:
            return f"give {self.behind.written} once for each"
        return "the items of a list are separated by commas without spaces"


def flags_of(request: type[Any]) -> Iterator[Flag]:
    """The flags of a request, those of the settings in it too."""
    hints, about = get_type_hints(request, include_extras=True), _docstrings(request)
    for field in dataclasses.fields(request):
        hint = hints[field.name]
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from flags_of(kind)
            continue
        word = next((note.metavar for note in notes if getattr(note, "metavar", None)), None)
        required = field.default is dataclasses.MISSING
        yield Flag(field.name.replace("_", "-"), kind, about.get(field.name, ""), word, required)


def refusal(flag: Flag, value: str) -> str | None:
    """What is wrong with the text of a value, as a sentence that begins with the flag; None where nothing is."""
    kinds = get_args(flag.kind) if get_origin(flag.kind) in (Union, UnionType) else (flag.kind,)
    if NoneType in kinds and value == "None":
        return None
    for kind in kinds:
        if get_origin(kind) is Literal and value not in get_args(kind):
            return f"{flag.written} must be {one_of(get_args(kind), value)}"
        if kind is int and not _reads(int, value):
            return f"{flag.written} takes a whole number without a unit, got {quoted(value)}: {flag.about}"
        if kind is float and not _reads(float, value):
            return (
                f"{flag.written} takes a number such as 5 or 0.5, without a unit or percent sign, got {quoted(value)}: "
                f"{flag.about}"
            )
    return None


def mistake(command: str, request: type[Any], args: Sequence[str], configured: Collection[str]) -> str | None:
    """The first mistake in the words of a command line, as a sentence; None where none is found.

    Args:
        command: as it is called, e.g. "nas search".
        request: its dataclass.
        args: the words behind the command.
        configured: names of the fields whose values a configuration file has.
    """
    flags = {flag.name: flag for flag in flags_of(request)}
    words, alone, given = iter(args), list[_Alone](), set(configured)
    last: Flag | None = None
    for word in words:
        if not word.startswith("-") or _reads(float, word):
            alone.append(_Alone(word, last))
            continue
        name, equals, value = word.partition("=")
        flag = flags.get(name.removeprefix("--").replace("_", "-")) if name.startswith("--") else None
        if flag is None or flag.word is not None:
            return _no_flag(command, name, flags)
        given.add(flag.field)
        last = flag
        if flag.kind is bool:
            if equals:
                return f"{flag.written} takes no value, got {quoted(value)}"
            continue
        text = value if equals else next(words, None)
        if text is None or (not equals and text.startswith("--")):
            return f"{flag.written} needs a value: {flag.about}"
        wrong = refusal(flag, text)
        if wrong is not None:
            return wrong
    return _count(command, list(flags.values()), alone, given)


def _no_flag(command: str, name: str, flags: dict[str, Flag]) -> str:
    flag = flags.get(name.removeprefix("--"))
    if flag is not None:
        return f"{command} takes {flag.written} without {name}"
    known = [each.written for each in flags.values() if each.word is None]
    return f"{command} has no flag {quoted(name)}{did_you_mean(name, known)}"


def _count(command: str, flags: Sequence[Flag], alone: Sequence[_Alone], given: Collection[str]) -> str | None:
    """What is wrong with the number of words that stand alone, or with flags that are left out."""
    places = [flag for flag in flags if flag.word is not None]
    if len(alone) > len(places):
        takes = " and ".join(flag.written for flag in places) or "no word"
        # A flag without a value may stand before all places, so that its value is taken for one of them.
        wrong = next((each for each in alone if each.is_truth), alone[len(places)])
        return f"{command} takes {takes} besides its flags, got {quoted(wrong.word)} too; {wrong.advice}"
    left_out = [flag for flag in places[len(alone) :] if flag.field not in given]
    left_out += [flag for flag in flags if flag.word is None and flag.required and flag.field not in given]
    return f"{command} needs {left_out[0].written}: {left_out[0].about}" if left_out else None


def _reads(kind: type[int] | type[float], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _docstrings(request: type[Any]) -> dict[str, str]:
    """The docstring below each field of a dataclass, as a part of a sentence, without what None means."""
    found: dict[str, str] = {}
    for kind in reversed(request.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                said = " ".join(str(ast.literal_eval(text.value)).split()).partition("; None")[0].removesuffix(".")
                found[field.target.id] = said[:1].lower() + said[1:]
    return found
