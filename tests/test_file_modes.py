"""What is written can be read as far as the umask lets others read, whatever library writes it."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hardware.pytorch import PyTorchBackend
from nas.exporting.network_files import write_network
from nas.learning.checkpoint import Progress, save_checkpoint
from nas.learning.plain_training import train_in
from nas.learning.training import TrainingConfig
from tests import toy_task

ROOT = Path(__file__).parent.parent
PACKAGES = ("nas", "search_spaces", "hardware", "predictors")
# safetensors makes files that their owner alone can read; these give them the usual mode.
HOMES = {"search_spaces/weights.py", "hardware/pytorch.py"}


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in folder.rglob("*")}


def test_all_writers_of_weights_go_by_the_umask(umask: int, tmp_path: Path) -> None:
    network, supernet = toy_task.bert(), toy_task.supernet()
    for name in ("export", "supernet", "pytorch", "checkpoint", "teacher"):
        (tmp_path / name).mkdir()
    write_network(network, tmp_path / "export")
    supernet.save(tmp_path / "supernet")
    PyTorchBackend().convert(network, (), tmp_path / "pytorch")
    optimizer = torch.optim.AdamW(network.parameters())
    save_checkpoint(tmp_path / "checkpoint" / "state", network, optimizer, Progress(), {})
    rows = toy_task.split(16)
    train_in(tmp_path / "teacher" / "run", network, rows, rows, TrainingConfig(steps=1, batch_size=8), "Training")
    found = modes(tmp_path)
    assert found == {(True, 0o777 & ~umask), (False, 0o666 & ~umask)}
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5


def test_a_file_that_is_written_again_keeps_its_mode(tmp_path: Path) -> None:
    supernet = toy_task.supernet()
    supernet.save(tmp_path)
    (tmp_path / "model.safetensors").chmod(0o640)
    supernet.save(tmp_path)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o640


def test_files_of_a_finished_run_have_the_usual_mode(finished: Path, tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    wrong = [path for path in finished.rglob("*") if path.is_file() and path.stat().st_mode != usual.stat().st_mode]
    assert not wrong


def test_nothing_else_writes_safetensors() -> None:
    writes = re.compile(r"from safetensors\S* import .*\bsave")
    found = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if writes.search(path.read_text(encoding="utf-8"))
    }
    assert found == HOMES
