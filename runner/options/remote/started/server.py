"""A server on this machine's loopback, of another program: started, waited for, watched, ended, and
its last error quoted."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from runner.options.remote.server import KEPT, started_keys
from runner.options.remote.started import keeper
from runner_base import ConfigError, JobFailed, Progress, RunnerError, child, one_line, tell
from runner_base.notes import Note

LOOPBACK = "127.0.0.1"
POLL_S = 0.3
END_S = 30.0  # until a keeper that was told to end is killed
PORTS = 3  # tries, where another program may take a port that was free
TAKEN = ("address already in use", "Address already in use", "EADDRINUSE")


class StartedServer(ABC):
    """A running server; it ends with `close`, and with this process."""

    LOG: ClassVar[str]  # the name of its log in the job's folder
    BEFORE: ClassVar[re.Pattern[str]]  # what a line of the log has before its message
    ERROR: ClassVar[re.Pattern[str]]  # a message that is an error
    SECONDHAND: ClassVar[tuple[str, ...]] = ()  # signs of errors that only follow from another
    TAKEN: ClassVar[tuple[str, ...]] = TAKEN  # signs of a port that another program has
    BAD_WORDS: ClassVar[tuple[str, ...]]  # signs of a command line that is not understood
    NO_MEMORY: ClassVar[tuple[str, ...]]  # signs of too little memory

    def __init__(self, label: str, name: str, folder: Path, start_s: float, port: int | None) -> None:
        """Start it, and wait until it answers; label: the program and its version, name: the
        model's."""
        self.label, self.name, self.start_limit_s, self.wanted_port = label, name, start_s, port
        self.log = folder / self.LOG
        self.compared: Note | None = None  # with another program
        self.key = secrets.token_urlsafe(24)
        self._ended: RunnerError | None = None
        started = time.monotonic()
        for last in (False,) * (PORTS - 1) + (True,):
            self.port = self._free_port()
            self.url = f"http://{LOOPBACK}:{self.port}/v1"
            started_keys[self.url] = self.key
            self.log_from = self.log.stat().st_size if self.log.exists() else 0
            self._keeper = self._start()
            try:
                self._wait()
            except _PortTaken as taken:
                self.close()
                if last or self.wanted_port is not None:
                    raise ConfigError(
                        taken.reason, key=taken.key, value=taken.value, code=taken.code
                    ) from None
                continue
            except BaseException:
                self.close()
                raise
            break
        self.start_s = time.monotonic() - started

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that serves on `port` of the loopback."""

    @abstractmethod
    def variables(self) -> dict[str, str]:
        """Return the variables of the server, with `key`."""

    @abstractmethod
    def words(self) -> tuple[str, list[str]]:
        """Return the key of the config for words of the command line, and the user's words."""

    @abstractmethod
    def more_room(self) -> str:
        """Return what needs less memory, as a sentence without its full stop."""

    @property
    @abstractmethod
    def served_name(self) -> str:
        """The name under which the server has the model."""

    def failure(self) -> RunnerError | None:
        """Return why the server is gone; None while it runs."""
        if self._ended is None and (code := self._keeper.poll()) is not None:
            self._ended = JobFailed(self._how(code, after=f". {KEPT}"), code="failed")
        return self._ended

    def close(self) -> None:
        """End it, and wait until nothing of it runs."""
        started_keys.pop(self.url, None)
        self._ended = self._ended or JobFailed(f"the server of {self.label} was ended", code="failed")
        pipe = self._keeper.stdin
        if pipe is not None and not pipe.closed:
            with suppress(OSError):  # it has ended already
                pipe.write(b"\n")
                pipe.close()
        try:
            self._keeper.wait(END_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()  # the server has asked the system to be killed with it
            self._keeper.wait()

    def copy_log(self, folder: Path, offset: int) -> None:
        """Write what the server has said since an offset into another job's folder."""
        if folder != self.log.parent and self.log.exists():
            with self.log.open("rb") as whole, (folder / self.LOG).open("wb") as part:
                whole.seek(offset)
                shutil.copyfileobj(whole, part)

    def fetch(self, path: str, body: Mapping[str, Any] | None = None, most_s: float = 10.0) -> Any:
        """Return the server's answer, as JSON; OSError or ValueError if there is none."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        root = self.url.removesuffix("/v1")
        request = urllib.request.Request(f"{root}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=most_s) as answer:
            return json.loads(answer.read(2**25))

    # ---------------------------------------------------------------------------------------- start

    def _free_port(self) -> int:
        """Return model.port, or a free one; ConfigError if another program has it."""
        wanted = self.wanted_port
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, wanted or 0))
                return int(probe.getsockname()[1])
            except OSError as error:
                raise ConfigError(
                    f"{one_line(error.strerror or error)} on {LOOPBACK}: end the program that "
                    "uses it, or use model.port=null, which takes any that is free",
                    key="model.port",
                    value=wanted,
                    code="busy",
                ) from None

    def _start(self) -> subprocess.Popen[bytes]:
        order: dict[str, Any] = {
            "command": self.command(),
            "environment": self.variables(),
            "log": str(self.log),
            "parent": os.getpid(),
        }
        tell(f"starting {self.label} for {self.name}: its log is {self.log}")
        with self.log.open("ab") as log:
            # in a session of its own: the terminal's Ctrl-C is for this process, which ends the
            # server
            process = child.start(
                str(Path(keeper.__file__)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        return process

    def _wait(self) -> None:
        """Wait until the server answers with its models; raise the error that says why it does
        not."""
        until = time.monotonic() + self.start_limit_s
        with Progress(None, f"{self.label} starts") as bar:
            while not self._answers():
                if (code := self._keeper.poll()) is not None:
                    raise self._start_error(code)
                if time.monotonic() > until:
                    late = f"{self.label} was not ready within model.start_s={self.start_limit_s:g}"
                    raise JobFailed(f"{late}{self._quote()}", code="failed")
                if lines := child.last_lines(self.log, 1, self.log_from):
                    bar.show(0, log=self.BEFORE.sub("", lines[0])[:60])
                time.sleep(POLL_S)

    def _answers(self) -> bool:
        """Whether the server lists its model for our key; another program at its port would not
        know it."""
        try:
            listed = self.fetch("v1/models").get("data", [])
            return any(entry.get("id") == self.served_name for entry in listed)
        except (OSError, ValueError, AttributeError):
            return False

    def _start_error(self, code: int) -> RunnerError:
        quoted = self._quote()
        if any(sign in quoted for sign in self.TAKEN):
            return _PortTaken(
                f"another program listens there{quoted}", key="model.port", value=self.port, code="busy"
            )
        if any(sign in quoted for sign in self.BAD_WORDS):
            key, words = self.words()
            return ConfigError(
                f"{self.label} rejects its command line{quoted}", key=key, value=words, code="bad_value"
            )
        return JobFailed(self._how(code, " while it started"), code="failed")

    # ------------------------------------------------------------------------------------- messages

    def _how(self, code: int, when: str = "", after: str = "") -> str:
        """Say how the server ended, with its last error."""
        code = keeper.KILLED - code if code > keeper.KILLED else code  # negative: of a signal
        quoted = self._quote(has_spoken=code >= 0)
        how_it_ended = f"{self.label} {child.describe_exit(code)}{when}"
        if any(sign in quoted for sign in self.NO_MEMORY) and code != -signal.SIGKILL:
            how_it_ended += f": it has not enough memory. {self.more_room()}"
        return how_it_ended + after + quoted

    def _quote(self, has_spoken: bool = True) -> str:
        """Return the server's last error, or what it has said last, and where its log is."""
        lines = [self.BEFORE.sub("", line).strip() for line in child.last_lines(self.log, 400, self.log_from)]
        errors = [
            line
            for line in lines
            if self.ERROR.match(line) and not any(sign in line for sign in self.SECONDHAND)
        ]
        last = errors[-1:] or [line for line in lines if line and has_spoken][-3:]
        return "".join(f"\n    | {line[:400]}" for line in last) + f"\n    log: {self.log}"


class _PortTaken(JobFailed):
    """Another program took the port before the server could."""
