"""What the tests of the commands share: a tiny model, its data, and a run that was fine-tuned and searched once."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from forked import list_operators_once
from tiny import write_model, write_reviews

from nas.command.cli import main


class Answer(NamedTuple):
    """What a command answered."""

    status: int
    out: str
    err: str


Command = Callable[..., Answer]
TellCases = Callable[[str, int, Sequence[str]], None]


# What takes longest comes first, so that no process is left with it at the end; first of all what waits for others.
LONGEST = ("workers_ray", "workers", "kill", "readme", "cli_profile", "processes", "bad_input", "checkpoint", "cli")


def pytest_itemcollected(item: pytest.Item) -> None:
    """One process runs all tests that share what takes long to make: a network of the laws, or a file's fixtures.

    The exhaustive tests of a file are divided by their kind, which takes far longer to test than to make.
    """
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    network = parameters.get("name") if item.path.parent.name == "laws" else None
    kind = f"{item.path.stem} {parameters.get('kind', '')}" if item.get_closest_marker("exhaustive") else None
    item.add_marker(pytest.mark.xdist_group(network or kind or item.path.stem))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, then the laws, network by network, then the rest."""

    def position(item: pytest.Item) -> tuple[int, str]:
        group = next(item.iter_markers("xdist_group")).args[0]
        name = item.path.stem.removeprefix("test_")
        if name in LONGEST:
            return LONGEST.index(name), ""
        return len(LONGEST) + (item.path.parent.name != "laws"), group

    items.sort(key=position)


def pytest_collection_finish() -> None:
    """Garbage collections leave out what the imports made, and are rarer: they took a seventh of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases the tests ran that count them, by what they ran them on."""
    reports = [each for kind in ("passed", "failed", "error") for each in terminalreporter.stats.get(kind, ())]
    told = sorted({tuple(value) for each in reports for name, value in each.user_properties if name == "cases"})
    for what, cases, bad in told:
        terminalreporter.write_line(f"{what}: {cases:,} cases, {bad} bad")
    if told:
        cases, bad = sum(each[1] for each in told), sum(each[2] for each in told)
        terminalreporter.write_line(f"all: {cases:,} cases, {bad} bad")


@pytest.fixture(scope="session", autouse=True)
def operators_listed_once() -> None:
    list_operators_once()


@pytest.fixture
def tell_cases(record_property: Callable[[str, object], None]) -> TellCases:
    """Have the summary say how many cases of something were run, and fail with what went wrong in them."""

    def tell(what: str, cases: int, bad: Sequence[str]) -> None:
        record_property("cases", (what, cases, len(bad)))
        assert not bad, "\n".join(bad)

    return tell


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
