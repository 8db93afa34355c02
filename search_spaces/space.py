"""Choices, the space that they span, and its candidates.

A choice may be conditional: it is active only while its parent choice takes certain options. Candidates that differ
only in inactive choices describe the same network, so every way to make a candidate returns its canonical form, in
which inactive choices are None.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.arrays import BoolArray, FloatArray, IntArray
from search_spaces.cuts import AttributeCut, AxisCut, BlockCut, Cut

Option = int | float | str

_CUT_KINDS: dict[str, type[Cut]] = {"axis": AxisCut, "attribute": AttributeCut, "blocks": BlockCut}
_MAX_JSON = 64 * 2**20
# Of what is read from a file: far above the sizes of any network.
_MOST_OPTIONS, _LARGEST = 2**16, 2**53


@dataclass(frozen=True)
class Choice:
    """One decision of a space.

    Args:
        name: unique within a space, e.g. `heads.3`.
        options: at least one, all different; in increasing order if `ordered`. A `range` takes no memory for its
            members.
        active_if: (name of the parent choice, the options of the parent for which this choice is active); None: the
            choice is always active.
        ordered: whether the options are sizes (True) or categories (False).
        cuts: what the choice removes from a module; empty for a choice that removes nothing.

    Raises:
        ValueError: there are no options, options repeat, ordered options do not increase, or the condition names no
            option of the parent.
    """

    name: str
    options: tuple[Option, ...] | range
    active_if: tuple[str, tuple[Option, ...]] | None = None
    ordered: bool = True
    cuts: tuple[Cut, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.options, range):
            object.__setattr__(self, "options", tuple(self.options))
        if len(self.options) == 0:
            raise ValueError(f"choice {self.name} must have at least one option, got none")
        if isinstance(self.options, range):
            if self.options.step < 1:
                raise ValueError(f"options of {self.name} must increase, got {self.options}")
        elif len(set(self.options)) != len(self.options):
            raise ValueError(f"options of {self.name} must be distinct, got {self.options}")
        elif self.ordered and _numeric(self.options) and sorted(self.options, key=float) != list(self.options):
            raise ValueError(f"ordered options of {self.name} must increase, got {self.options}")
        if self.active_if is not None:
            parent, values = self.active_if
            if not values:
                raise ValueError(f"choice {self.name} is never active: no option of {parent} is named")
            object.__setattr__(self, "active_if", (parent, tuple(values)))
        object.__setattr__(self, "cuts", tuple(self.cuts))

    @property
    def kind(self) -> str:
        """What it decides, by its name before the first dot: `heads` for `heads.3`."""
        return self.name.partition(".")[0]

    def index(self, option: object) -> int:
        """The position of `option` among the options.

        Raises:
            ValueError: it is none of them; the message lists the options.
        """
        try:
            return self.options.index(option)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            shown = self.options if len(self.options) <= 20 else f"{self.options[0]} .. {self.options[-1]}"
            raise ValueError(f"{self.name} must be one of {shown}, got {option!r}") from None


def _numeric(options: Sequence[Option]) -> bool:
    return all(isinstance(option, (int, float)) for option in options)


class Candidate(Mapping[str, Option | None]):
    """An immutable, hashable mapping from the name of every choice to its option, or to None if it is inactive."""

    __slots__ = ("_hash", "_values")

    def __init__(self, values: Mapping[str, Option | None]) -> None:
        self._values = dict(values)
        self._hash = hash(frozenset(self._values.items()))

    def __getitem__(self, name: str) -> Option | None:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self._values == other._values

    def __repr__(self) -> str:
        return f"Candidate({self._values})"

    def __reduce__(self) -> tuple[type["Candidate"], tuple[dict[str, Option | None]]]:
        # Python salts the hashes of strings in each process, so a stored hash would be wrong after unpickling.
        return Candidate, (self._values,)


@dataclass(frozen=True)
class Space:
    """The set of all distinct candidates of some choices.

    Encoded candidates are integer arrays of shape (n, k): one row for each candidate and one column for each choice, in
    the order of `choices`, holding the index of the option. Columns of inactive choices hold 0.

    Args:
        choices: the choices, with unique names. A parent may stand in a space that is joined later with `+`, so
            conditions are checked when they are first needed.

    Raises:
        ValueError: a name repeats, or (on first use) conditions form a cycle or name a choice that is missing.
    """

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        seen: set[str] = set()
        for choice in self.choices:
            if choice.name in seen:
                raise ValueError(f"choice names must be unique, got {choice.name} twice")
            seen.add(choice.name)

    def __add__(self, other: "Space") -> "Space":
        """A space with the choices of both; raises ValueError for a repeated name."""
        return Space(self.choices + other.choices)

    def __getitem__(self, name: str) -> Choice:
        """The choice of that name; raises KeyError if there is none."""
        return self.choices[self._columns[name]]

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {choice.name: column for column, choice in enumerate(self.choices)}

    @cached_property
    def option_counts(self) -> IntArray:
        """The number of options of every choice (k,)."""
        return np.array([len(choice.options) for choice in self.choices], dtype=np.int64)

    @cached_property
    def _conditions(self) -> list[tuple[int, int, BoolArray]]:
        """(column, parent's column, bool table of the parent options that activate it); parents before children."""
        pending = {c.name: c for c in self.choices if c.active_if is not None}
        done = {c.name for c in self.choices if c.active_if is None}
        conditions = []
        while pending:
            ready = [c for c in pending.values() if c.active_if is not None and c.active_if[0] in done]
            if not ready:
                raise ValueError(_unresolved(next(iter(pending.values())), self._columns))
            for choice in ready:
                parent, values = choice.active_if or ("", ())
                table = np.zeros(len(self[parent].options), dtype=np.bool_)
                table[[self[parent].index(value) for value in values]] = True
                conditions.append((self._columns[choice.name], self._columns[parent], table))
                done.add(choice.name)
                del pending[choice.name]
        return conditions

    @cached_property
    def _levels_of_conditions(self) -> list[tuple[IntArray, IntArray, BoolArray]]:
        """The conditions grouped by depth in the tree: columns (m,), parents' columns (m,), tables (m, most options).

        All conditions of one depth are evaluated at once with NumPy. A network has one condition for each choice of
        every block but only one or two depths, and a search canonicalises thousands of candidates.
        """
        level: dict[int, int] = {}
        steps: dict[int, list[tuple[int, int, BoolArray]]] = {}
        for column, parent, table in self._conditions:
            level[column] = level.get(parent, 0) + 1
            steps.setdefault(level[column], []).append((column, parent, table))
        found = []
        for _, step in sorted(steps.items()):
            tables = np.zeros((len(step), int(self.option_counts.max())), dtype=np.bool_)
            for row, (_, _, table) in zip(tables, step, strict=True):
                row[: len(table)] = table
            columns, parents = np.array([(column, parent) for column, parent, _ in step], dtype=np.int64).T
            found.append((columns, parents, tables))
        return found

    def active(self, encoded: npt.ArrayLike) -> BoolArray:
        """Which choices are active (n, k) in encoded candidates (n, k); raises ValueError for indices out of range."""
        return self._active(self._checked(encoded))

    def _active(self, array: IntArray) -> BoolArray:
        active = np.ones(array.shape, dtype=np.bool_)
        for columns, parents, tables in self._levels_of_conditions:
            active[:, columns] = active[:, parents] & tables[np.arange(len(columns)), array[:, parents]]
        return active

    def canonical(self, encoded: npt.ArrayLike) -> IntArray:
        """Encoded candidates (n, k) with inactive columns set to 0; raises ValueError for indices out of range."""
        array = self._checked(encoded)
        return np.where(self._active(array), array, 0)

    def _checked(self, encoded: npt.ArrayLike) -> IntArray:
        array = np.asarray(encoded, dtype=np.int64)
        if array.size == 0 and array.ndim < 2:
            array = array.reshape(0, len(self.choices))
        if array.ndim != 2 or array.shape[1] != len(self.choices):
            raise ValueError(f"encoded candidates must have shape (n, {len(self.choices)}), got {array.shape}")
        if (array < 0).any() or (array >= self.option_counts).any():
            row, column = np.argwhere((array < 0) | (array >= self.option_counts))[0]
            name, count = self.choices[column].name, self.option_counts[column]
            raise ValueError(f"index of {name} must be in 0..{count - 1}, got {array[row, column]} in row {row}")
        return array

    def size(self) -> int:
        """The exact number of distinct candidates, without listing them."""
        children: dict[int, list[tuple[int, BoolArray]]] = {}
        for column, parent, table in self._conditions:
            children.setdefault(parent, []).append((column, table))

        # The conditions form a forest. A choice contributes, for each of its options, the product of the counts of the
        # children that the option activates; an inactive child counts once.
        def count(column: int) -> int:
            below = [(count(child), table) for child, table in children.get(column, [])]
            if not below:
                return len(self.choices[column].options)
            return sum(
                math.prod(size for size, table in below if table[option])
                for option in range(len(self.choices[column].options))
            )

        return math.prod(count(column) for column, choice in enumerate(self.choices) if choice.active_if is None)

    def random(self, n: int, rng: np.random.Generator) -> IntArray:
        """`n` random encoded candidates (n, k): every choice uniform over its options, then made canonical."""
        return self.canonical(rng.integers(0, self.option_counts, size=(n, len(self.choices))))

    def sample(self, rng: np.random.Generator) -> Candidate:
        """One random candidate: every choice uniform over its options, then made canonical."""
        return self.decode(self.random(1, rng))[0]

    def largest(self) -> Candidate:
        """The candidate with the last option of every choice."""
        return self.decode(self.option_counts[None] - 1)[0]

    def full(self) -> Candidate:
        """The candidate that leaves the network as it is.

        Today this is `largest()`: the last option of every choice that cuts a network is its full size, which
        `Supernet` checks.
        """
        return self.largest()

    def smallest(self) -> Candidate:
        """The candidate with the first option of every choice."""
        return self.decode(np.zeros((1, len(self.choices)), dtype=np.int64))[0]

    def candidate(self, values: Mapping[str, Option | None]) -> Candidate:
        """Check a candidate given as a plain mapping and return its canonical form.

        Args:
            values: the options by name; inactive choices may be None or missing.

        Raises:
            ValueError: a name or an option that the space does not have, or an active choice without an option.
        """
        unknown = [name for name in values if name not in self._columns]
        if unknown:
            raise ValueError(f"{unknown[0]} is no choice of this space; its choices are {', '.join(self._columns)}")
        given = [(choice, values.get(choice.name)) for choice in self.choices]
        array = np.array([[0 if option is None else choice.index(option) for choice, option in given]], dtype=np.int64)
        for (choice, option), active in zip(given, self.active(array)[0], strict=True):
            if active and option is None:
                raise ValueError(f"{choice.name} must be given: it is active in this candidate")
        return self.decode(array)[0]

    def encode(self, candidates: Iterable[Candidate]) -> IntArray:
        """Encode candidates as option indices (n, k).

        Raises:
            ValueError: a candidate lacks a choice of the space or has an unknown option.
        """
        rows = []
        for candidate in candidates:
            missing = [choice.name for choice in self.choices if choice.name not in candidate]
            if missing:
                raise ValueError(f"the candidate must name every choice of the space, {missing[0]} is missing")
            options = [(choice, candidate[choice.name]) for choice in self.choices]
            rows.append([0 if option is None else choice.index(option) for choice, option in options])
        return self.canonical(np.array(rows, dtype=np.int64).reshape(len(rows), len(self.choices)))

    def decode(self, encoded: npt.ArrayLike) -> list[Candidate]:
        """The canonical candidates of an array of option indices (n, k).

        Raises:
            ValueError: the array has another shape, or an index is out of range.
        """
        array = self._checked(encoded)
        active = self.active(array)
        return [
            Candidate(
                {
                    choice.name: choice.options[index] if on else None
                    for choice, index, on in zip(self.choices, row.tolist(), mask.tolist(), strict=True)
                }
            )
            for row, mask in zip(array, active, strict=True)
        ]

    def features(self, encoded: npt.ArrayLike) -> FloatArray:
        """Features for predictors (n, f), in 0..1, for encoded candidates (n, k).

        An ordered choice gives one column, its option divided by the largest; a categorical choice gives one one-hot
        column for each option. Columns of inactive choices are 0.

        Raises:
            ValueError: the array has another shape, or an index is out of range.
        """
        array = self._checked(encoded)
        active = self.active(array)
        columns = []
        for column, choice in enumerate(self.choices):
            on = active[:, column]
            if choice.ordered:
                columns.append((_levels(choice, array[:, column]) * on)[:, None])
            else:
                columns.append((array[:, column, None] == np.arange(len(choice.options))) & on[:, None])
        return np.concatenate(columns, axis=1, dtype=np.float64) if columns else np.zeros((len(array), 0))

    def to_json(self) -> str:
        """The whole space, cuts included, as JSON."""
        return json.dumps({"version": 1, "choices": [_choice_to_data(choice) for choice in self.choices]})

    @classmethod
    def from_json(cls, text: str) -> "Space":
        """The space that `to_json` wrote; raises ValueError for any other text."""
        # Such files come from other machines, so nothing of unbounded size is parsed.
        if len(text) > _MAX_JSON:
            raise ValueError(f"the JSON of a space must have at most {_MAX_JSON} characters, got {len(text)}")
        try:
            data = json.loads(text)
            if data["version"] != 1:
                raise ValueError(f"the space must be of version 1, got {data['version']!r}")
            return cls(tuple(_choice_from_data(choice) for choice in data["choices"]))
        except (LookupError, TypeError, AttributeError, OverflowError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"not the JSON of a space: {type(error).__name__}: {error}") from error


def _unresolved(choice: Choice, columns: Mapping[str, int]) -> str:
    parent = choice.active_if[0] if choice.active_if else ""
    if parent in columns:
        return f"conditions must not form a circle, got one through {choice.name} and {parent}"
    return f"{choice.name} depends on {parent}, which is no choice of this space; join the space that has it with +"


def _levels(choice: Choice, indices: IntArray) -> FloatArray:
    """The features in (0, 1] of the options at `indices` (n,); 0 is reserved for inactive choices."""
    options = choice.options
    if isinstance(options, range) and options[0] > 0:
        return np.asarray((options.start + options.step * indices) / options[-1], dtype=np.float64)
    # Words and numbers that are not positive have no meaningful share of the largest option: use their position.
    if isinstance(options, range) or not _numeric(options) or float(options[0]) <= 0:
        return np.asarray((indices + 1) / len(options), dtype=np.float64)
    return np.asarray(options, dtype=np.float64)[indices] / float(options[-1])


def _choice_to_data(choice: Choice) -> dict[str, Any]:
    options: Any = choice.options
    if isinstance(options, range):
        options = {"start": options.start, "stop": options.stop, "step": options.step}
    kinds = {kind: name for name, kind in _CUT_KINDS.items()}
    return {
        "name": choice.name,
        "options": options,
        "active_if": choice.active_if and [choice.active_if[0], list(choice.active_if[1])],
        "ordered": choice.ordered,
        "cuts": [{"kind": kinds[type(cut)], **asdict(cut)} for cut in choice.cuts],
    }


def _choice_from_data(data: Mapping[str, Any]) -> Choice:
    options = data["options"]
    if isinstance(options, dict):
        options = range(*(_whole(name, options[name]) for name in ("start", "stop", "step")))
    elif not isinstance(options, list) or not all(map(_is_option, options)):
        raise ValueError(f"options must be numbers of usual size or words, got {str(options)[:100]}")
    if len(options) > _MOST_OPTIONS:
        raise ValueError(f"a choice must have at most {_MOST_OPTIONS} options, got {len(options)}")
    condition = data["active_if"]
    return Choice(
        name=str(data["name"]),
        options=options if isinstance(options, range) else tuple(options),
        active_if=None if condition is None else (str(condition[0]), tuple(condition[1])),
        ordered=bool(data["ordered"]),
        cuts=tuple(_cut_from_data(cut) for cut in data["cuts"]),
    )


def _is_option(value: object) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return abs(value) <= _LARGEST
    return isinstance(value, str)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        raise ValueError(f"{name} must be an integer of usual size, got {str(value)[:100]}")
    return value


def _cut_from_data(data: Mapping[str, Any]) -> Cut:
    kind = _CUT_KINDS.get(str(data["kind"]))
    if kind is None:
        raise ValueError(f"the kind of a cut must be one of {', '.join(_CUT_KINDS)}, got {str(data['kind'])[:100]!r}")
    names = kind.__dataclass_fields__
    values: dict[str, Any] = {}
    for name, field in names.items():
        value = data[name]
        if field.type is int:
            value = _whole(f"{name} of a cut", value)
        if field.type is str and not isinstance(value, str):
            raise ValueError(f"{name} of a cut must be a word, got {value!r}")
        if field.type not in (int, str) and not isinstance(value, list):
            raise ValueError(f"{name} of a cut must be a list, got {str(value)[:100]!r}")
        values[name] = tuple(_whole(name, item) for item in value) if isinstance(value, list) else value
    return kind(**values)
