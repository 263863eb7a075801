"""The folder in which the commands of pages are run: one shell command, a conversation at a
terminal, a server."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from runner_base.temp_folders import remove_folder, require_folder_owned_by_user
from tools.check_docs import ROOT

# what commands of a clone find beside them
LINKED = ("Makefile", "pyproject.toml", "constraints.txt", "experiments")
# variables; others could change what a command does
INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR")
SETUP = (
    'make() { command make --no-print-directory -o .venv/.installed "$@"; }\n'  # it is installed: do not look
)
# on stderr, where stdout has nothing
SAID = re.compile(r"^(?:error: |requirement failed: |\d+ results |nothing |[A-Z_]+=).*", re.MULTILINE)
SERVES = re.compile(r"^serving .*", re.MULTILINE)
ASKS = "you> "  # a command that asks for lines gets those that the page shows after it
LIMIT_S, SERVER_S = 1800, 120


class Failed(Exception):
    """A command of a page did not do what the page shows."""


class Machine:
    """A folder in which the commands of pages are run, and the server that a page may need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".venv").symlink_to(sys.prefix)
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.variables = inherited | {
            "PATH": path,
            "HF_HUB_OFFLINE": "1",
            "RUNNER_PROGRESS": "off",  # else pages made on a busy machine would have other lines
            "TERM": "dumb",
            "REPOSITORY": str(ROOT),
        }
        self._server: subprocess.Popen[bytes] | None = None

    def run(
        self, command: str, before: str = "", typed: list[str] | None = None, fails: bool = False
    ) -> list[str]:
        """Run a command after others in a shell; return the lines of its stdout, and of its stderr
        if stdout is empty or the command fails.

        typed: a line for each prompt of the command. fails: whether it must end with an error.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            script = ["bash", "-c", f"{SETUP}{before}\n{command}"]
            if typed is None:
                code = self._wait(
                    subprocess.Popen(script, cwd=self.folder, env=self.variables, stdout=out, stderr=err)
                )
            else:
                code = self._talk(script, typed, out)
            printed, errors = _text(out), _text(err)
        is_verdict = command.startswith("runner-compare gate ") and code in (1, 3)  # NO-GO and ASK
        if bool(code) != fails and not is_verdict:
            raise Failed(f"exit code {code}\n{errors[-2000:]}")
        said = "\n".join(SAID.findall(errors)) if fails or not printed.strip() else ""
        return tidy("\n".join(filter(str.strip, (printed, said))), self.folder)

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"it takes more than {LIMIT_S} s") from None
        finally:
            process.kill()

    def _talk(self, script: list[str], typed: list[str], seen: IO[bytes]) -> int:
        """Run a command at a terminal, type a line when it asks, and record what is shown; return
        the exit code."""
        (ours, its), (said, err), left = pty.openpty(), os.pipe(), list(typed)
        wide = self.variables | {"COLUMNS": "160"}
        process = subprocess.Popen(script, cwd=self.folder, env=wide, stdin=its, stdout=its, stderr=err)
        os.close(its)
        os.close(err)
        open_ones, asked = [said, ours], b""  # output before a question is shown before it
        while open_ones:
            ready = select.select(open_ones, [], [], LIMIT_S)[0]
            more = _read(ready[0]) if ready else b""
            if not more:
                closed = ready[0] if ready else open_ones[0]
                open_ones.remove(closed)
                os.close(closed)
            seen.write(more)
            asked = (asked + more)[-len(ASKS) :] if ready[:1] == [ours] else asked
            while asked == ASKS.encode() and left:
                os.write(ours, f"{left.pop(0)}\n".encode())
                echo = b""
                while b"\n" not in echo and (more := _read(ours)):  # what is typed is shown before the answer
                    echo += more
                seen.write(echo)
                # the answer and the next question may be there already
                asked = echo.partition(b"\n")[2][-len(ASKS) :]
        return self._wait(process)

    def serve(self, command: str) -> list[str]:
        """Start a server and wait until it serves; return its output until then."""
        self.end_server()
        log = self.folder / ".server.err"
        with (self.folder / ".server.out").open("wb") as out, log.open("wb") as err:
            script = ["bash", "-c", f"exec {command}"]
            self._server = subprocess.Popen(
                script, cwd=self.folder, env=self.variables, stdout=out, stderr=err
            )
        deadline = time.monotonic() + SERVER_S
        while not SERVES.search(log.read_text()):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{command} does not serve:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        return tidy(log.read_text(), self.folder)

    def end_server(self) -> list[str]:
        """End the server, if there is one, by a signal that has the effect of Ctrl-C; return what
        it has printed."""
        if self._server is None:
            return []
        self._server.terminate()  # in the background of a shell, Ctrl-C is ignored
        self._wait(self._server)
        self._server = None
        return tidy((self.folder / ".server.out").read_text(), self.folder)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # on Linux: the other end is closed
        return b""


def tidy(text: str, folder: Path) -> list[str]:
    """Return lines as the pages show them: no padding, single empty lines, paths of this machine as
    `...`."""
    for place in (str(folder), str(folder.resolve()), str(ROOT)):
        text = text.replace(place, "...")
    lines = [line.rstrip() for line in text.rstrip().splitlines()]
    return [line for line, before in zip(lines, ["-", *lines], strict=False) if line or before]


@contextlib.contextmanager
def empty_folder(name: str) -> Iterator[Path]:
    """Give an empty folder, always with the same path, on which some jobs' ids depend; wait until
    it is free."""
    place = Path(tempfile.gettempdir()).resolve() / "runner-pages"
    place.mkdir(exist_ok=True)
    require_folder_owned_by_user(place)
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = place / name
        remove_folder(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            remove_folder(folder)
