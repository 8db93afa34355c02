"""Turn raw labelled rows into the three splits of a run.

`prepare_data` drops unreadable images, makes missing validation and test splits, removes rows that occur in two splits,
and fits the task to the training labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nas.data.pixels import undecodable
from nas.data.places import InData, Places
from nas.data.split import PARTS, Data, InputKind, Preprocessor, RawRow, fingerprint_of, make_split, row_key, stratified
from nas.data.tasks import CLASSIFICATION, Labels, Task
from nas.errors import UserError
from nas.sentences import quoted

_MOST_UNDECODABLE = 0.01
LabelledRows = tuple[Sequence[RawRow], Labels]
"""The rows of one split and their labels."""


@dataclass(frozen=True)
class Table:
    """Raw labelled rows as they were read, before splitting and preprocessing.

    Args:
        kind: texts or images.
        classes: names of the network's outputs: classes, tags, or the name of the number of a regression.
        parts: split name ("train", and "validation" and "test" where the data has them) -> its rows and labels.
        task: the kind of labels; `prepare_data` fits a regression to the training rows.
        notes: sentences for the user: how many rows were read, and what was left out.
        places: split name -> where its rows stand, for sentences; they may be missing.
    """

    kind: InputKind
    classes: tuple[str, ...]
    parts: Mapping[str, LabelledRows]
    task: Task = CLASSIFICATION
    notes: tuple[str, ...] = ()
    places: Mapping[str, Places] = field(default_factory=dict)


def prepare_data(
    table: Table,
    preprocess: Preprocessor,
    *,
    seed: int,
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    max_tokens: int = 128,
) -> Data:
    """Make training, validation and test splits and preprocess their rows.

    Splits that the data already has are kept. A missing one is drawn from the training rows, stratified by class where
    rows have classes. Rows that also occur in the test split are removed from the other two, and rows that occur in
    the validation split are removed from training. Images that cannot be decoded are dropped, up to one in a hundred.

    Args:
        table: the raw rows.
        preprocess: the preprocessor of the network; it must read the same kind of rows.
        seed: decides which rows become validation and test rows.
        shares: relative sizes of train, validation and test; only those of the splits to be made have an effect.
        max_tokens: texts are truncated to this many tokens, or to the limit of the model.

    Raises:
        UserError: a class has too few rows, too many images are unreadable, a split has no rows left, or the network
            reads another kind of rows.
    """
    if table.kind != preprocess.kind:
        raise UserError(f"the model reads {preprocess.kind} rows, but the data holds {table.kind} rows")
    if len(shares) != len(PARTS) or min(shares) <= 0:
        raise UserError(f"shares must be three positive numbers (train, validation, test), got {shares}")
    readable = _readable(table)
    # Leaks are removed after splitting, because a data set that comes with its own splits may contain them too.
    parts = _without_leaks(_split(readable, table, seed, shares))
    strata = table.task.strata(parts["train"][1])
    absent = set() if strata is None else set(range(len(table.classes))) - set(strata.tolist())
    if absent:
        name = table.classes[min(absent)]
        raise UserError(f"every class must have training rows of its own, class {quoted(name)} has none")
    empty = next((name for name in PARTS if not len(parts[name][0])), None)
    if empty is not None:
        raise UserError(f"the {empty} split must have rows that are in no other split, it has none")
    task = table.task.fitted(parts["train"][1])
    splits = {name: make_split(*parts[name], preprocess, max_tokens, task) for name in PARTS}
    return Data(
        table.kind,
        table.classes,
        splits["train"],
        splits["validation"],
        splits["test"],
        fingerprint=fingerprint_of(table.classes, {name: (part.rows, part.labels) for name, part in splits.items()}),
        left_out=_count(readable) - _count(parts),
        max_tokens=max_tokens,
        undecodable=_count(table.parts) - _count(readable),
        # Only texts can be truncated, so other inputs need not have such a count.
        truncated=sum(int(getattr(part.inputs, "truncated", 0)) for part in splits.values()),
    )


def _count(parts: Mapping[str, LabelledRows]) -> int:
    return sum(len(rows) for rows, _ in parts.values())


def _kept(part: LabelledRows, indices: Sequence[int] | Labels) -> LabelledRows:
    rows, labels = part
    kept = np.asarray(indices, dtype=np.int64)
    return [rows[i] for i in kept], labels[kept]


def _readable(table: Table) -> dict[str, LabelledRows]:
    """The parts without undecodable images; raises UserError when these are more than one in a hundred."""
    parts = table.parts
    bad = {name: set(undecodable(rows)) for name, (rows, _) in parts.items()}
    count, rows = sum(map(len, bad.values())), _count(parts)
    if count > _MOST_UNDECODABLE * rows:
        name = next(name for name in PARTS if bad.get(name))
        first = table.places.get(name, InData(name)).place(min(bad[name]))
        raise UserError(
            f"at most {_MOST_UNDECODABLE:.0%} of the images may be damaged, but {count} of {rows} cannot be decoded; "
            f"the first is {first}"
        )
    return {
        name: _kept(part, [i for i in range(len(part[0])) if i not in bad[name]]) if bad[name] else part
        for name, part in parts.items()
    }


def _split(
    parts: Mapping[str, LabelledRows], table: Table, seed: int, shares: Sequence[float]
) -> dict[str, LabelledRows]:
    """All three parts; missing ones are drawn from the training rows."""
    wanted = [(name, share) for name, share in zip(PARTS, shares, strict=True) if name == "train" or name not in parts]
    rows, labels = parts["train"]
    made = stratified(rows, table.task.strata(labels), [share for _, share in wanted], seed, table.classes)
    taken = {name: _kept(parts["train"], kept) for (name, _), kept in zip(wanted, made, strict=True)}
    return {**parts, **taken}


def _without_leaks(parts: Mapping[str, LabelledRows]) -> dict[str, LabelledRows]:
    """Remove rows that also occur in a later part; of test, validation and train, test keeps all of its rows."""
    seen: set[bytes] = set()
    kept: dict[str, LabelledRows] = {}
    # From test to train: rows are plentiful in training, while the figures depend on each test row.
    for name in reversed(PARTS):
        keys = [row_key(row) for row in parts[name][0]]
        kept[name] = _kept(parts[name], [i for i, key in enumerate(keys) if key not in seen])
        seen.update(keys)
    return kept
