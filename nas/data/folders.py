"""What the files of a folder are by their names: of which split, and of which class the images.

A folder is a split, and so is a file, only by an exact name ("train", "val", ...): a class "crash test" or an image
"latest_01.png" is not. The class of an image is the name of a folder, at the one level where the names differ.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.data.parts import kind_of
from nas.errors import UserError
from nas.sentences import listed

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")
# Files that describe a data set and hold no rows of it.
_ABOUT = ("readme.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "license")
_SHOWN = 3


class NoClasses(UserError):
    """The folders of images do not say their classes."""


@dataclass(frozen=True)
class ImageSplits:
    """The images of each split with their classes, None for an image without one, and sentences for the user."""

    images: Mapping[str, Sequence[Path]]
    classes: Mapping[str, Sequence[str | None]]
    notes: Sequence[str]


def is_about(path: Path) -> bool:
    """Whether a file describes a data set and holds no rows."""
    return path.name.lower() in _ABOUT


def files_below(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones, by their paths; links are followed, each folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder.resolve(), followlinks=True):
        seen.add(os.path.realpath(where))
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__")) and os.path.realpath(Path(where, name)) not in seen
        ]
        found += [Path(where, name) for name in names if not name.startswith(".")]
    return sorted(found, key=str)


def left_out(folder: Path, files: Sequence[Path], used: Sequence[Path], why: str) -> list[str]:
    """A sentence about the files that are not used; none where there are none."""
    known = set(used)
    names = [
        path.relative_to(folder.resolve()).as_posix() for path in files if path not in known and not is_about(path)
    ]
    return [f"Files of {folder} left out, {why}: {len(names):,} ({listed(names, _SHOWN)})"] if names else []


# Images ---------------------------------------------------------------------------------------------------------------


def image_splits(folder: Path, images: Sequence[Path]) -> ImageSplits:
    """The images of each split and their classes.

    Splits are folders with exact names of splits, one of them train, and nothing beside these. Images of another split
    than train whose folders say no class have none.

    Raises:
        NoClasses: the folders of the training images do not say their classes.
    """
    top = Path(os.path.commonpath([path.parent for path in images]))
    beside = sorted({path.relative_to(top).parts[0] if path.parent != top else "" for path in images})
    taken = [name for name in beside if name.lower() in _SPLIT_OF]
    groups: dict[str, list[Path]] = {"train": list(images)}
    notes: list[str] = []
    above = len(top.parts)
    if taken == beside and "train" in {_SPLIT_OF[name.lower()] for name in taken}:
        groups, above = {}, above + 1
        for path in images:
            groups.setdefault(_SPLIT_OF[path.relative_to(top).parts[0].lower()], []).append(path)
    elif taken:
        notes = [f"No splits in {folder}, because not all of its folders have the name of one: {listed(beside)}"]
    folders = {split: [path.parts[above:-1] for path in paths] for split, paths in groups.items()}
    level = _class_level(folder, groups["train"], folders["train"])
    if level is None:
        raise NoClasses(
            f"the training images of {folder} must be in several folders, one for each class, or a table beside them "
            "(metadata.csv) must have their names in a column file_name and their labels in a column label"
        )
    classes: dict[str, list[str | None]] = {"train": [names[level] for names in folders["train"]]}
    for split in groups.keys() - {"train"}:
        classes[split] = _like(set(classes["train"]), folder, groups[split], folders[split])
    return ImageSplits(groups, classes, notes)


def _class_level(folder: Path, images: Sequence[Path], folders: Sequence[tuple[str, ...]]) -> int | None:
    """The only level at which the names of the folders differ; None where there is none."""
    depths = Counter(map(len, folders))
    if len(depths) > 1:
        rare = min(depths, key=lambda depth: (depths[depth], depth))
        odd = images[[len(names) for names in folders].index(rare)]
        raise NoClasses(f"every image of {folder} must be in the folder of its class, {odd} is not")
    differ = [level for level, names in enumerate(zip(*folders, strict=True)) if len(set(names)) > 1]
    if len(differ) > 1:
        first, second = ({names[level] for names in folders} for level in differ[:2])
        raise NoClasses(
            f"the images of {folder} must be in one level of folders, the classes: they are in folders "
            f"{listed(sorted(first), 3)}, and in these in folders {listed(sorted(second), 3)}"
        )
    return differ[0] if differ else None


def _like(
    known: set[str | None], folder: Path, images: Sequence[Path], folders: Sequence[tuple[str, ...]]
) -> list[str | None]:
    """The classes of another split than train: of one class where all are in a folder with its name, else None."""
    level = _class_level(folder, images, folders)
    if level is not None:
        return [names[level] for names in folders]
    return [next((name for name in reversed(names) if name in known), None) for names in folders]


# Tables ---------------------------------------------------------------------------------------------------------------


def table_splits(folder: Path, tables: Sequence[Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each split, and all that are used: those with names of splits where there are any, else all."""
    root = folder.resolve()
    exact = {path: _exact_split(path.relative_to(root)) for path in tables}
    if not any(exact.values()):
        exact = _common_form(tables)
    named = {path: split for path, split in exact.items() if split}
    groups: dict[str, list[Path]] = {}
    for path, split in named.items():
        groups.setdefault(split, []).append(path)
    if "train" not in groups and len(named) < len(tables):
        return {"train": list(tables)}, list(tables)
    return groups, list(named)


def _stem(path: Path) -> str:
    """The name of a file without suffixes and without its number among several (train-00000-of-00002.parquet)."""
    kind = kind_of(path) or path.suffix
    return _SHARD.sub("", path.name[: path.name.lower().rindex(kind)]).lower()


def _exact_split(path: Path) -> str | None:
    own = _SPLIT_OF.get(_stem(path))
    above = [_SPLIT_OF[name.lower()] for name in path.parts[:-1] if name.lower() in _SPLIT_OF]
    return own or (above[-1] if above else None)


def _common_form(tables: Sequence[Path]) -> dict[Path, str | None]:
    """Splits of files whose names differ in nothing but the name of the split: reviews_train and reviews_test."""
    forms: dict[Path, tuple[str, str]] = {}
    for path in tables:
        words = re.split(r"([-_. ]+)", _stem(path))
        places = [place for place, word in enumerate(words) if word in _SPLIT_OF]
        if len(places) != 1:
            continue
        split = _SPLIT_OF[words[places[0]]]
        forms[path] = (split, "".join("*" if place == places[0] else word for place, word in enumerate(words)))
    alike = len({form for _, form in forms.values()}) == 1 and "train" in {split for split, _ in forms.values()}
    return {path: split for path, (split, _) in forms.items()} if alike else {}
