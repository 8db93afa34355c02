"""Machines as people have them: no home folder, long paths, a cluster that is away, processes that die."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Command
from test_bad_input import COMMAND, refused

from hardware.files import replacing_file, sweep
from hardware.registry import runtime
from nas.command.demo_files import cache_folder
from nas.command.home import home
from nas.errors import UserError
from nas.files import expanded
from nas.ray_address import check_answers
from nas.ray_session import ray_session
from nas.searching.storage_address import resolved


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """The address of a server that says `answer` to whoever connects, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            # Until whoever connected hangs up, or the server is shut down.
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(answer)
                    while connection.recv(64):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)


def refused_within(address: str, words: str, seconds: float) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=words):
        check_answers(address)
    assert time.monotonic() - began < seconds


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_cluster_where_nobody_answers() -> None:
    port = free_port()
    refused_within(f"127.0.0.1:{port}", f"no Ray cluster answers at 127.0.0.1:{port} .*refused", 2)
    refused_within(f"ray://localhost:{port}", "no Ray cluster answers", 2)
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as address:
        refused_within(address, "what answers is another program", 2)
    with listening(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00") as address:
        check_answers(address)


def test_a_cluster_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.ray_address._WAIT_S", 0.2)
    with listening(b"") as address:
        refused_within(address, "no answer", 2)
    monkeypatch.setattr("nas.ray_address._LONGEST_S", 0.2)

    def slow(*_: object, **__: object) -> None:
        time.sleep(1.0)
        raise TimeoutError

    monkeypatch.setattr("nas.ray_address.socket.create_connection", slow)
    refused_within("a.name.that.no.server.knows:6379", "no answer", 0.9)


def test_what_is_no_address() -> None:
    for wrong in ("somewhere", "host:", ":6379", "host:port", "host:70000"):
        with pytest.raises(UserError, match="must be auto or host:port"):
            check_answers(wrong)


def test_the_session_on_this_machine_that_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda _: f"127.0.0.1:{free_port()}")
    refused_within("auto", "no Ray cluster answers at auto", 2)

    def nothing(address: str) -> None:
        raise ConnectionError(f"no session at {address}")

    for absent in (nothing, lambda _: None):
        monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", absent)
        with pytest.raises(UserError, match="there is none"):
            check_answers("auto")


def test_a_search_says_it_before_it_begins(nas_command: Command, run: Path) -> None:
    before = sorted(run.rglob("*"))
    flags = ["--name", "new", "--objectives", "macs", "--ray-address", f"127.0.0.1:{free_port()}"]
    for also in ([], ["--dry-run"]):
        refused(nas_command("search", run, *flags, *also), "no Ray cluster answers at 127.0.0.1")
        assert sorted(run.rglob("*")) == before


def told_to_ray(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What Ray would be started with."""
    told: dict[str, object] = {}
    monkeypatch.setattr("ray.init", lambda **settings: told.update(settings))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    return told


def test_a_folder_of_a_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_to_ray(monkeypatch)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with ray_session(2, None, 0):
        assert "_temp_dir" not in told
    long = tmp_path / ("a" * 74)
    monkeypatch.setenv("TMPDIR", str(long))
    with ray_session(2, None, 0):
        short = Path(str(told["_temp_dir"]))
        assert short.is_dir() and len(str(short)) < 40 and short.stat().st_mode & 0o77 == 0
    assert not short.exists()
    monkeypatch.setattr("nas.ray_session._SHORT_FOLDERS", ())
    with pytest.raises(UserError, match="set TMPDIR to a shorter one"), ray_session(2, None, 0):
        pass


@pytest.mark.slow
def test_workers_start_under_a_long_path(tmp_path: Path, run: Path) -> None:
    long = tmp_path / ("a" * 74)
    long.mkdir()
    flags = ["--name", "new", "--objectives", "macs", "--budget", "4", "--workers", "2"]
    done = subprocess.run(
        [*COMMAND, "search", str(run), *flags],
        env={**os.environ, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a name and a home folder, as in a container."""
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "SUPERSIEVE_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: object) -> object:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with home():
        folder = Path.home()
        assert folder.is_dir() and cache_folder().is_relative_to(folder)
        assert os.environ["LOGNAME"].startswith("user-")
    assert not folder.exists() and "HOME" not in os.environ
    assert "set HOME" in capsys.readouterr().err

    def broken(_: str) -> object:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("hardware.runtimes.import_module", broken)
    assert runtime("openvino").notes["all"].endswith("; set HOME to a folder")


@pytest.mark.usefixtures("nobody")
def test_the_demo_and_its_plan_without_a_home(nas_command: Command, tmp_path: Path) -> None:
    answer = nas_command("demo", "--dry-run", "--out", tmp_path / "demo")
    assert answer.status == 0, answer.err


def test_a_path_in_the_home_of_nobody(nas_command: Command, tmp_path: Path, inputs: Path) -> None:
    with pytest.raises(UserError, match="~nosuchuser/model must begin with the home folder of a user"):
        expanded("~nosuchuser/model")
    out = ["--out", tmp_path / "run"]
    refused(nas_command("finetune", "~nosuchuser/m", "--data", inputs / "reviews.csv", *out), "there is none")
    refused(nas_command("finetune", inputs / "model", "--data", "~nosuchuser/d.csv", *out), "there is none")


def test_the_path_of_a_database_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolved("sqlite:///studies.db") == f"sqlite:///{tmp_path}/studies.db"
    assert resolved("sqlite:///a/../b.db?timeout=5#mine") == f"sqlite:///{tmp_path}/b.db?timeout=5#mine"
    assert resolved("sqlite+pysqlite:///b.db") == f"sqlite+pysqlite:///{tmp_path}/b.db"
    assert resolved("sqlite:///file:b.db?uri=true") == f"sqlite:///file:{tmp_path}/b.db?uri=true"
    for same in ("sqlite:////tmp/b.db", "postgresql://me:secret@host/a", "://", "mysql://me:a/b@1@h/a#b"):
        assert resolved(same) == same
    for gone in ("sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"):
        with pytest.raises(UserError, match="must be a database that lasts"):
            resolved(gone)


def test_a_database_from_another_folder(
    nas_command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    flags = ["--name", "stored", "--objectives", "macs", "--budget", 3]
    monkeypatch.chdir(here)
    assert nas_command("search", run, *flags, "--storage", "sqlite:///studies.db").status == 0
    monkeypatch.chdir(there)
    refused(nas_command("search", run, *flags, "--storage", "sqlite:///studies.db"), "was begun with storage")
    assert list(there.iterdir()) == []
    answer = nas_command("search", run, *flags, "--storage", "sqlite:///../here/studies.db", "--json")
    assert answer.status == 0 and json.loads(answer.out)["measured"] == 3


EXITS = """
import os, sys
left = [2]
def of(module):
    left[0] -= 1
    if left[0] == 0:
        {what}
    return float(sum(p.numel() for p in module.parameters()))
"""


def exiting(tmp_path: Path, what: str) -> None:
    (tmp_path / "exits.py").write_text(EXITS.format(what=what), encoding="utf-8")


def test_an_objective_that_exits(
    nas_command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exiting(tmp_path, "sys.exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "exits", raising=False)
    answer = nas_command("search", run, "--name", "new", "--objectives", "exits:of", "--budget", 5, "--json")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["failed"] == 1
    journal = (run / "searches" / "new" / "study.journal").read_text(encoding="utf-8")
    assert "SystemExit: 7" in journal


def test_own_code_that_exits_while_it_is_imported(
    nas_command: Command, inputs: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    (tmp_path / "makes.py").write_text("import sys\ndef none(outputs):\n    sys.exit(0)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    refused(nas_command("search", run, "--name", "new", "--objectives", "leaves:of"), "cannot be imported: SystemExit")
    data = ["--data", inputs / "reviews.csv", "--out", tmp_path / "own"]
    for factory in ("leaves:of", "makes:none"):
        refused(nas_command("finetune", factory, *data), f"{factory} cannot make a network: SystemExit")


def test_a_process_that_dies_is_told_of(nas_command: Command, run: Path, tmp_path: Path) -> None:
    exiting(tmp_path, "os._exit(7)")
    args = ["search", str(run), "--name", "new", "--objectives", "exits:of", "--budget", "5"]
    done = subprocess.run([*COMMAND, *args], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 7
    lock = (run / ".lock").read_bytes()
    for _ in range(2):
        answer = nas_command("report", run)
        assert answer.status == 0 and "did not end by itself" in answer.err and "--workers" not in answer.err
        assert (run / ".lock").read_bytes() == lock, "a report leaves the trace to the next search"
    done = subprocess.run([*COMMAND, *args], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "If exits:of ends its process, --workers 2 keeps that from ending the command" in done.stderr


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    profile = tmp_path / "laptop.json"
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = tmp_path / f".laptop.json.{int(dead.stdout)}.part"
    alive = tmp_path / f".laptop.json.{os.getppid()}.part"
    others = [tmp_path / ".laptop.json.x.part", tmp_path / f".other.json.{int(dead.stdout)}.part"]
    for path in (left, alive, *others):
        path.write_text("{", encoding="utf-8")
    sweep(profile)
    assert not left.exists() and alive.exists() and all(path.exists() for path in others)
    left.write_text("{", encoding="utf-8")
    with replacing_file(profile) as part:
        part.write_text("{}", encoding="utf-8")
    assert not left.exists() and profile.read_text(encoding="utf-8") == "{}"


def test_the_next_start_of_a_profile_sweeps(nas_command: Command, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "laptop.json"
    flags = ["--budget", 1, "--tolerance", 100, "--tokens", 16]
    assert nas_command("profile", run, "--out", out, *flags).status == 0
    left = tmp_path / ".laptop.json.999999999.part"
    left.write_text("{", encoding="utf-8")
    assert nas_command("profile", run, "--out", out, *flags).status == 0
    assert not left.exists()
