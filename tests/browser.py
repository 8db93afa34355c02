"""A headless Chromium that tests drive through its debugging pipe: no network, no library, a new profile each time."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe"
)


def chromium() -> str:
    """The browser; the test is skipped where there is none, and fails there in continuous integration."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "no Chromium on the PATH (on Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get("TESTS_NEED_BROWSER") else pytest.skip)(reason)
    return found


class Tab:
    """One page that is open."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._left, self._count, self._session = send, receive, b"", 0, ""
        self.complaints: list[str] = []

    def open(self, path: Path, width: int) -> None:
        """Load a file and wait until it is complete and its scripts have run."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self._call(f"{domain}.enable")
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        self._call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + 60
        while self.value("document.readyState") != "complete" or self.value("location.href") == "about:blank":
            assert time.monotonic() < end, "the page does not load"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; of a promise, what it resolves to."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": parameters, **session}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            self._note(answer)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._receive, 1 << 16)
            assert part, "the browser has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what a console would show in red or yellow, and dialogs."""
        kind, parameters = message.get("method"), message.get("params", {})
        shown = kind == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert")
        logged = kind == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning")
        if shown or logged or kind in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
            self.complaints.append(json.dumps(parameters)[:500])


@contextmanager
def opened(path: Path, folder: Path, width: int = 1200) -> Iterator[Tab]:
    """A page in a browser of its own, whose profile is in `folder`."""
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()
    command = f'exec "$0" {_FLAGS} --user-data-dir="$1" 3<&{to_browser} 4>&{from_browser}'
    process = subprocess.Popen(
        ["bash", "-c", command, chromium(), str(folder / "profile")],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        tab = Tab(send, receive)
        tab.open(path, width)
        yield tab
    finally:
        os.close(send)
        os.close(receive)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
