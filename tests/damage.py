"""Damage that a file may have: every field with every wrong value, text cut off, and records out of their order."""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

FOREIGN = "\x1b[31m$\\frac{[red]<script>alert(1)</script>\r\n\u202e" + "x" * 5000
VALUES: Mapping[str, Any] = {
    "null": None,
    "a word": "word",
    "a list": [[]],
    "an object": {"": {}},
    "true": True,
    "zero": 0,
    "minus one": -1,
    "half": 0.5,
    "large": 10**9,
    "huge": 2**70,
    "largest": 1e308,
    "smallest": 5e-324,
    "infinite": float("inf"),
    "no number": float("nan"),
    "empty": "",
    "foreign text": FOREIGN,
}
_MOST_ALIKE = 3


class Damage(NamedTuple):
    """What is wrong, and what makes the content of the file then: most damages of a large file are never looked at."""

    name: str
    make: Callable[[], bytes]

    @property
    def content(self) -> bytes:
        return self.make()


Change = tuple[str, Callable[[], Any]]


def of_json(content: bytes) -> Iterator[Damage]:
    """Damages of a file that holds one JSON value."""
    for name, changed in _changes(json.loads(content), random.Random(0)):
        yield Damage(name, partial(_dumped, changed))
    yield from of_bytes(content)


def of_lines(content: bytes) -> Iterator[Damage]:
    """Damages of a file that holds a JSON value on every line."""
    lines, rng, met = content.splitlines(keepends=True), random.Random(0), set()
    for number in _told_apart([json.loads(line) for line in lines]):
        before, line, after = b"".join(lines[:number]), lines[number], b"".join(lines[number + 1 :])
        value = json.loads(line)
        for name, changed in _changes(value, rng, _form(value) not in met):
            yield Damage(f"line {number} {name}", partial(_between, before, changed, after))
        met.add(_form(value))
        for name, parts in (
            ("missing", (before, after)),
            ("twice", (before, line, line, after)),
            ("first", (line, before, after)),
            ("last", (before, after, line)),
        ):
            yield Damage(f"line {number} {name}", partial(b"".join, parts))
    yield Damage("lines reversed", lambda: b"".join(reversed(lines)))
    yield from of_bytes(content)


def of_bytes(content: bytes) -> Iterator[Damage]:
    """Damages of any file."""
    size = len(content)
    for share in (0, 1, size // 4, size // 2, size - 2):
        yield Damage(f"cut off at {share}", partial(bytes, content[: max(0, share)]))
    for place in (0, 8, size // 3, size // 2, size - 4):
        yield Damage(f"other bytes at {place}", partial(_spoiled, content, place))
    yield Damage("no file of this kind", lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    yield Damage("nested deeply", lambda: b"[" * 100_000)
    yield Damage("followed by more", lambda: content + content)
    yield Damage("only zeros", lambda: bytes(max(64, size // 2)))


def _spoiled(content: bytes, place: int) -> bytes:
    return content[:place] + b"\xff\xfe\x00\x7f" + content[place + 4 :]


def _dumped(changed: Callable[[], Any]) -> bytes:
    return json.dumps(changed()).encode()


def _between(before: bytes, changed: Callable[[], Any], after: bytes) -> bytes:
    return before + json.dumps(changed(), separators=(",", ":")).encode() + b"\n" + after


def _changes(value: Any, rng: random.Random, every: bool = True) -> Iterator[Change]:
    """A JSON value with one part of it damaged.

    Args:
        value: the value.
        rng: draws what a part is damaged by that is not damaged in every way.
        every: whether the value is damaged in every way, else in one that is drawn. Of parts that are alike only the
            first is damaged in every way, and what lies in it.
    """
    own = [*_of_itself(value)]
    yield from own if every else [rng.choice(own)]
    for name, part, put, first in _parts(value):
        for within, changed in _changes(part, rng, every and first):
            yield f"{name}.{within}", partial(_put, put, changed)


def _put(put: Callable[[Any], Any], changed: Callable[[], Any]) -> Any:
    return put(changed())


def _given(value: Any) -> Any:
    return value


def _of_itself(value: Any) -> Iterator[Change]:
    """Other values in its place, and its parts missing or out of their order."""
    for name, wrong in VALUES.items():
        if type(wrong) is not type(value) or wrong != value:
            yield f"= {name}", partial(_given, wrong)
    if isinstance(value, dict):
        for key in _told_keys(value):
            yield f"{key} missing", lambda key=key: {other: each for other, each in value.items() if other != key}
        yield "with a key of nobody", lambda: {**value, "nobody": 1}
    elif isinstance(value, list):
        for index in _told_apart(value):
            yield f"{index} missing", lambda index=index: [*value[:index], *value[index + 1 :]]
        if len(value) > 1:
            yield "reversed", lambda: value[::-1]
            yield "the first again", lambda: [*value, value[0]]
            yield "a thousand times", lambda: (value * 1000)[:20_000]


class _Part(NamedTuple):
    """A part of a JSON value: its name, what makes the whole of another part, and whether none before it is alike."""

    name: str
    value: Any
    put: Callable[[Any], Any]
    first: bool


def _parts(value: Any) -> Iterator[_Part]:
    """The fields of an object, items of a list, and what a string holds as JSON.

    A string holds what lies in a file of its own too, as a space, or what a library wrote: none of its parts is a first
    one.
    """
    met: set[str] = set()
    if isinstance(value, dict):
        for key in _told_keys(value):
            kind = f"{re.sub('[0-9]+', '#', key)} {_form(value[key])}"
            yield _Part(key, value[key], lambda new, key=key: {**value, key: new}, kind not in met)
            met.add(kind)
    elif isinstance(value, list):
        for index in _told_apart(value):
            kind = _form(value[index])
            yield _Part(str(index), value[index], partial(_with_item, value, index), kind not in met)
            met.add(kind)
    elif isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError):
            yield _Part("inside", json.loads(value), json.dumps, False)


def _with_item(items: list[Any], index: int, new: Any) -> list[Any]:
    return [*items[:index], new, *items[index + 1 :]]


def _told_keys(value: Mapping[str, Any]) -> list[str]:
    """The keys of an object; of many that are alike, as those of a vocabulary, the first and the last."""
    kinds = {type(each) for each in value.values()}
    if len(value) > 30 and len(kinds) == 1 and kinds <= {int, str}:
        return [*list(value)[:2], list(value)[-1]]
    return list(value)


def _told_apart(items: list[Any]) -> list[int]:
    """Positions of items of which no two have the same form: the first and the last of each form."""
    found: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        found.setdefault(_form(item), []).append(index)
    return sorted({index for each in found.values() for index in (each[0], each[-1])})[: 4 * _MOST_ALIKE]


def _form(item: Any) -> str:
    if isinstance(item, dict):
        kind = f"{item.get('op_code')}{item.get('kind')}"
        return kind + ",".join(f"{key}:{type(each).__name__}" for key, each in item.items() if not _dotted(key))
    return type(item).__name__


def _dotted(key: str) -> bool:
    return "." in key
