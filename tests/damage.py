"""Damage that a file may have: every field with every wrong value, text cut off, and records out of their order."""

import json
from collections.abc import Callable, Iterator, Mapping
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
    """What is wrong, and the content of the file then."""

    name: str
    content: bytes


def of_json(content: bytes) -> Iterator[Damage]:
    """Damages of a file that holds one JSON value."""
    yield from _of_value(json.loads(content), lambda value: json.dumps(value).encode())
    yield from of_bytes(content)


def of_lines(content: bytes) -> Iterator[Damage]:
    """Damages of a file that holds a JSON value on every line."""
    lines = content.splitlines(keepends=True)
    for number in _told_apart([json.loads(line) for line in lines]):
        before, after = b"".join(lines[:number]), b"".join(lines[number + 1 :])

        def joined(value: Any, before: bytes = before, after: bytes = after) -> bytes:
            return before + json.dumps(value, separators=(",", ":")).encode() + b"\n" + after

        for damage in _of_value(json.loads(lines[number]), joined):
            yield Damage(f"line {number} {damage.name}", damage.content)
        yield Damage(f"line {number} missing", before + after)
        yield Damage(f"line {number} twice", before + 2 * lines[number] + after)
        yield Damage(f"line {number} first", lines[number] + before + after)
        yield Damage(f"line {number} last", before + after + lines[number])
    yield Damage("lines reversed", b"".join(reversed(lines)))
    yield from of_bytes(content)


def of_bytes(content: bytes) -> Iterator[Damage]:
    """Damages of any file."""
    size = len(content)
    for share in (0, 1, size // 4, size // 2, size - 2):
        yield Damage(f"cut off at {share}", content[: max(0, share)])
    for place in (0, 8, size // 3, size // 2, size - 4):
        spoiled = bytearray(content)
        spoiled[place : place + 4] = b"\xff\xfe\x00\x7f"
        yield Damage(f"other bytes at {place}", bytes(spoiled))
    yield Damage("no file of this kind", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    yield Damage("nested deeply", b"[" * 100_000)
    yield Damage("followed by more", content + content)
    yield Damage("only zeros", bytes(max(64, size // 2)))


def _of_value(value: Any, joined: Callable[[Any], bytes]) -> Iterator[Damage]:
    """A JSON value with one part of it damaged, as `joined` makes a file of it."""
    for name, changed in _changes(value):
        yield Damage(name or "the whole", joined(changed))


def _changes(value: Any) -> Iterator[tuple[str, Any]]:
    for name, wrong in VALUES.items():
        if type(wrong) is not type(value) or wrong != value:
            yield f"= {name}", wrong
    if isinstance(value, dict):
        for key in _parts(value):
            rest = {other: each for other, each in value.items() if other != key}
            yield f"{key} missing", rest
            for name, changed in _changes(value[key]):
                yield f"{key}.{name}", {**value, key: changed}
        yield "with a key of nobody", {**value, "nobody": 1}
    elif isinstance(value, list):
        for index in _told_apart(value):
            yield f"{index} missing", [*value[:index], *value[index + 1 :]]
            for name, changed in _changes(value[index]):
                yield f"{index}.{name}", [*value[:index], changed, *value[index + 1 :]]
        if len(value) > 1:
            yield "reversed", value[::-1]
            yield "the first again", [*value, value[0]]
            yield "a thousand times", (value * 1000)[:20_000]
    elif isinstance(value, str) and value[:1] in "{[":
        # JSON within JSON.
        try:
            inner = json.loads(value)
        except ValueError:
            return
        for name, changed in _changes(inner):
            yield f"inside {name}", json.dumps(changed)


def _parts(value: Mapping[str, Any]) -> list[str]:
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
