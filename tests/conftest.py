"""What the tests of the commands share: a tiny model, its data, and a run that was fine-tuned and searched once."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny import write_model, write_reviews

from nas.command.cli import main


class Answer(NamedTuple):
    """What a command answered."""

    status: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def nas_command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run one command in this process."""

    def run(*args: object) -> Answer:
        capfd.readouterr()
        status = main([str(arg) for arg in args])
        return Answer(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` and `reviews.csv`; not to be changed."""
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "model")
    write_reviews(folder / "reviews.csv")
    return folder


@pytest.fixture(scope="session")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a finished fine-tuning and a search named default (accuracy, macs); not to be changed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    settings = ["--steps", "40", "--learning-rate", "3e-3"]
    assert (
        main(["finetune", str(inputs / "model"), "--data", str(inputs / "reviews.csv"), "--out", str(run), *settings])
        == 0
    )
    assert main(["search", str(run), "--objectives", "accuracy,macs", "--budget", "12"]) == 0
    return run
