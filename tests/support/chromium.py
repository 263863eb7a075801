"""A real Chromium without a window, driven over a pair of pipes in its own protocol (CDP), without
other software."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


class Page:
    """One page of the browser."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, os.fdopen(read, "rb", buffering=0)
        self._numbers, self._rest = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; meanwhile the browser's events are appended to
        `events`."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._read.read(65536)
            assert more, "the browser has gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        value: dict[str, Any] = json.loads(message)
        return value

    def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def do(self, script: str) -> Any:
        """Run a script in the page, like its console, and return the value."""
        done = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, condition: str, within_s: float = 60) -> None:
        """Wait until a script returns true."""
        end = time.monotonic() + within_s
        while not self.do(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Type a text on the keyboard."""
        self.send("Input.insertText", text=text)

    def press_enter(self) -> None:
        """Press the Enter key."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.send("Input.dispatchKeyEvent", type="keyDown", **key)
        self.send("Input.dispatchKeyEvent", type="keyUp", **key)

    def picture(self, path: Path) -> None:
        """Save a picture of the page."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def requested(self) -> list[str]:
        """Return every address that the page has requested."""
        self.do("1")  # receives the events up to now
        sent = (
            event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"
        )
        return [one["request"]["url"] for one in sent]

    def complaints(self) -> list[str]:
        """Return the browser's errors: those of scripts, and violations of the page's policy."""
        self.do("1")
        errors = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                errors.append(json.dumps(event["params"]))
            if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                errors.append(event["params"]["entry"]["text"])
        return errors


@contextlib.contextmanager
def browser(folder: Path, *flags: str) -> Iterator[Page]:
    """Start a browser with an empty profile."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "--hide-scrollbars",
               "--window-size=900,760", *flags]  # fmt: skip
    # the browser reads from 3 and writes to 4
    shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{from_write}', "-", *command]
    with (folder / "chromium.txt").open("wb") as log:
        process = subprocess.Popen(shell, pass_fds=(to_read, from_write), stdout=log, stderr=log)
    os.close(to_read)
    os.close(from_write)
    page = None
    try:
        page = Page(to_write, from_read)
        yield page
    finally:
        process.kill()
        process.wait()
        os.close(to_write)
        if page is not None:
            page._read.close()
