"""What the README, the LINAS page and the examples show is run as it stands there, on a tiny model and data."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from conftest import Command
from tiny import write_model, write_reviews

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_python(*args: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = forked.run(args, cwd=folder, env=environment)
    assert done.status == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    write_model(path / "model")
    write_reviews(path / "reviews.csv")
    return path


@pytest.mark.slow
def test_command_lines_of_the_readme(folder: Path, nas_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines() if line.startswith("nas ")]
    assert {line.split()[1] for line in lines} == {"finetune", "search", "report", "export"}
    for line in lines:
        answer = nas_command(*shlex.split(line, comments=True)[1:])
        assert answer.status == 0, (line, answer.err)
    assert (folder / "subnetwork" / "model.onnx").is_file()


def commands_of(page: str) -> Iterator[list[str]]:
    """The commands of a page in their order, in blocks and in running text, but for those of placeholders (`RUN`)."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for line, inline in re.findall(r"^(nas [a-z-]+ .*)$|`(nas [a-z-]+ [^`]+)`", text, re.MULTILINE):
        words = shlex.split(line or inline, comments=True)[1:]
        if not words[1].startswith("-") and not any(re.fullmatch(r"[A-Z]+|\.\.\.", word) for word in words):
            yield words


def value_of(words: list[str], flag: str, default: str = "") -> str:
    return words[words.index(flag) + 1] if flag in words else default


def test_commands_of_the_pages_do_not_collide() -> None:
    """One after another, none finds that what it writes is another's, and all find the search that they read."""
    written: dict[tuple[str, ...], list[str]] = {}
    commands = [words for page in ("README.md", "docs/guide.md", "docs/profiling.md") for words in commands_of(page)]
    assert len(commands) > 15
    for words in commands:
        search = ("search", words[1], value_of(words, "--name", "default"))
        if words[0] in ("report", "export", "refine"):
            assert search in written, (words, "reads a search that no command made")
        out = search if words[0] == "search" else ("out", value_of(words, "--out"))
        if words[0] != "report":
            assert written.setdefault(out, words) == words, (words, written[out])


@pytest.mark.slow
def test_python_of_the_readme(folder: Path) -> None:
    for block in blocks("README.md", "python"):
        run_python("-c", block, folder=folder)
    assert (folder / "from_python" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["linas", "profiling"])
def test_python_of_the_page(page: str, tmp_path: Path) -> None:
    found = blocks(f"docs/{page}.md", "python")
    assert found
    for block in found:
        # Any latency will do here, however busy the machine is.
        assert "Candidate" in run_python(
            "-c", block.replace("budget=20,", "budget=20, tolerance=1.0,"), folder=tmp_path
        )


@pytest.mark.slow
def test_example(folder: Path) -> None:
    flags = ["--steps", "6", "--budget", "6", "--speedup", "1.01"]
    out = run_python(
        str(ROOT / "examples" / "sentiment.py"), "model", "reviews.csv", "from_example", *flags, folder=folder
    )
    assert "difference" in out
    assert (folder / "from_example" / "export" / "README.md").is_file()


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("name", ["demo", "test", "fast", "check"])
def test_make_knows_its_targets(name: str) -> None:
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_part_is_on_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = [path for path in (ROOT / "nas").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert len(parts) > 8
    for path in parts:
        assert (path.name if path.is_file() else f"{path.name}/") in text, path.name
