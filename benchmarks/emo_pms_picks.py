"""Pruned networks as the rows of the EMO-PMS benchmark hand them on, and what becomes of each: trained and scored."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from emo_pms_problem import Problem, error, right
from safetensors.torch import load_file, save_file
from torch import nn

from nas.files import write_json_atomic
from nas.pruning.emo_pms import fine_tuned
from search_spaces import Candidate, Supernet
from search_spaces.arrays import BoolArray


class Clock:
    """The seconds that a row takes, over all the times that it is interrupted; what is lost by a kill does not count.

    Args:
        path: of the file that keeps them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = json.loads(path.read_text())["seconds"] if path.is_file() else 0.0
        self._began = time.monotonic()

    def keep(self) -> float:
        """The seconds until now, which are written down."""
        seconds = float(self._before + time.monotonic() - self._began)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self._path, {"seconds": seconds})
        return seconds


@dataclass(frozen=True)
class Pick:
    """A network of a row before its last training.

    Args:
        name: of the row and of the share that it is to save.
        channels: its candidate in the space of the problem.
        file: its weights.
    """

    name: str
    channels: Mapping[str, Any]
    file: str

    def load(self, problem: Problem) -> nn.Module:
        """The network, in evaluation mode."""
        candidate = problem.space.candidate(dict(self.channels))
        network = Supernet(problem.original, problem.space).extract(candidate)
        network.load_state_dict(load_file(self.file))
        return network.eval()


def kept(networks: Mapping[str, nn.Module], problem: Problem, folder: Path) -> list[dict[str, Any]]:
    """Picks as JSON data, from networks by name; of two with the same channels the first alone."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Candidate, Pick] = {}
    for name, network in networks.items():
        candidate = problem.candidate_of(network)
        if candidate not in found:
            file = folder / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, file)
            found[candidate] = Pick(name, dict(candidate), str(file))
    return [asdict(each) for each in found.values()]


@dataclass(frozen=True)
class Network:
    """A network as the benchmark scores it.

    Args:
        name: of its row and share.
        macs_saved: share of the original's multiply-accumulates.
        parameters_saved: share of its parameters.
        validation_error: (0..1), which choices go by.
        right: which test rows it has right (n,).
        seconds: of its last training.
    """

    name: str
    macs_saved: float
    parameters_saved: float
    validation_error: float
    right: BoolArray
    seconds: float = 0.0

    @property
    def error(self) -> float:
        """The share of test rows (0..1) that are wrong."""
        return float(1 - self.right.mean())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Network":
        """What `trained` returned."""
        count, digits = data["right"]
        return cls(**{**data, "right": bits(digits, count)})


def trained(pick: Pick, problem: Problem) -> dict[str, Any]:
    """The last training of a pick, and its scores, as JSON data."""
    network, began = pick.load(problem), time.monotonic()
    fine_tuned(network, problem.original, problem.final, problem.final_config)
    return scored(pick.name, network.eval(), problem) | {"seconds": time.monotonic() - began}


def scored(name: str, network: nn.Module, problem: Problem) -> dict[str, Any]:
    """The costs and errors of a network as JSON data; here the test rows are read."""
    candidate = problem.candidate_of(network)
    hits = right(network, problem.test)
    return {
        "name": name,
        "macs_saved": problem.saved(candidate),
        "parameters_saved": problem.saved(candidate, "parameters"),
        "validation_error": error(network, problem.searched),
        "right": [len(hits), np.packbits(hits).tobytes().hex()],
    }


def bits(digits: str, count: int) -> BoolArray:
    """Booleans (n,) from the hexadecimal digits of their packed bits."""
    packed = np.frombuffer(bytes.fromhex(digits), dtype=np.uint8)
    return np.unpackbits(packed, count=count).astype(bool)


def names(row: str, shares: Iterable[float]) -> dict[float, str]:
    """The names of a row's networks, by share."""
    return {share: f"{row}-{100 * share:g}" for share in shares}
