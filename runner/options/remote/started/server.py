"""Starts and stops another program's server on the loopback address, and quotes the last error in its log."""

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

from runner.options.remote.server_connection import KEPT, started_keys
from runner.options.remote.started import server_supervisor
from runner_base import ConfigError, JobFailed, Progress, RunnerError, announce, child_process, to_one_line
from runner_base.notes import Note

LOOPBACK = "127.0.0.1"
POLL_S = 0.3
END_S = 30.0  # until a keeper that was told to end is killed
PORTS = 3  # tries, where another program may take a port that was free
TAKEN = ("address already in use", "Address already in use", "EADDRINUSE")


class StartedServer(ABC):
    """A server process started by the runner. It ends with `close` or when the runner's process ends."""

    LOG: ClassVar[str]  # the name of its log in the job's folder
    BEFORE: ClassVar[re.Pattern[str]]  # what a line of the log has before its message
    ERROR: ClassVar[re.Pattern[str]]  # a message that is an error
    SECONDHAND: ClassVar[tuple[str, ...]] = ()  # signs of errors that only follow from another
    TAKEN: ClassVar[tuple[str, ...]] = TAKEN  # signs of a port that another program has
    BAD_WORDS: ClassVar[tuple[str, ...]]  # signs of a command line that is not understood
    NO_MEMORY: ClassVar[tuple[str, ...]]  # signs of too little memory

    def __init__(
        self, label: str, model_name: str, folder: Path, start_timeout_s: float, port: int | None
    ) -> None:
        """Start the server and wait until it is ready. `label` is the program's name with its version."""
        self.label, self.name, self.start_limit_s, self.wanted_port = label, model_name, start_timeout_s, port
        self.log = folder / self.LOG
        self.compared: Note | None = None  # with another program
        self.key = secrets.token_urlsafe(24)
        self._ended: RunnerError | None = None
        started = time.monotonic()
        for last in (False,) * (PORTS - 1) + (True,):
            self.port = self._find_free_port()
            self.url = f"http://{LOOPBACK}:{self.port}/v1"
            started_keys[self.url] = self.key
            self.log_from = self.log.stat().st_size if self.log.exists() else 0
            self._keeper = self._start_server_supervisor()
            try:
                self._wait_until_ready()
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
    def build_command(self) -> list[str]:
        """Return the command that starts the server on `port` of the loopback address."""

    @abstractmethod
    def variables(self) -> dict[str, str]:
        """Return the server's environment variables, including its API key."""

    @abstractmethod
    def user_flags(self) -> tuple[str, list[str]]:
        """Return the additional server flags that the user has set, preceded by their config key."""

    @abstractmethod
    def make_memory_advice(self) -> str:
        """Return advice on how to reduce memory, as a sentence without a full stop."""

    @property
    @abstractmethod
    def served_name(self) -> str:
        """Name of the model on the server."""

    def get_exit_error(self) -> RunnerError | None:
        if self._ended is None and (code := self._keeper.poll()) is not None:
            self._ended = JobFailed(self._describe_server_exit(code, advice=f". {KEPT}"), code="failed")
        return self._ended

    def close(self) -> None:
        """Stop the server, and wait until all of its processes have ended."""
        started_keys.pop(self.url, None)
        self._ended = self._ended or JobFailed(f"the server of {self.label} ended", code="failed")
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

    def copy_log(self, folder: Path, byte_offset: int) -> None:
        if folder != self.log.parent and self.log.exists():
            with self.log.open("rb") as whole, (folder / self.LOG).open("wb") as part:
                whole.seek(byte_offset)
                shutil.copyfileobj(whole, part)

    def fetch_json(self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = 10.0) -> Any:
        """Fetch a JSON response from the server. Raises OSError or ValueError if that fails."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        root = self.url.removesuffix("/v1")
        request = urllib.request.Request(f"{root}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read(2**25))

    # ---------------------------------------------------------------------------------------- start

    def _find_free_port(self) -> int:
        """Return the port of model.port, or any free port. Raises ConfigError if another program uses the
        configured port.
        """
        wanted = self.wanted_port
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, wanted or 0))
                return int(probe.getsockname()[1])
            except OSError as error:
                raise ConfigError(
                    (
                        f"port not available on {LOOPBACK}: {to_one_line(error.strerror or error)}. "
                        "End the program that uses it, or use any free port with model.port=null"
                    ),
                    key="model.port",
                    value=wanted,
                    code="busy",
                ) from None

    def _start_server_supervisor(self) -> subprocess.Popen[bytes]:
        order: dict[str, Any] = {
            "command": self.build_command(),
            "environment": self.variables(),
            "log": str(self.log),
            "parent": os.getpid(),
        }
        announce(f"starting {self.label} for {self.name}. Its log: {self.log}")
        with self.log.open("ab") as log:
            # in a session of its own: the terminal's Ctrl-C is for this process, which ends the
            # server
            process = child_process.start_python_child_process(
                str(Path(server_supervisor.__file__)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        return process

    def _wait_until_ready(self) -> None:
        """Wait until the server is ready. Raises an error with the reason if it ends or takes too long."""
        until = time.monotonic() + self.start_limit_s
        with Progress(None, f"{self.label} starts") as bar:
            while not self._is_ready():
                if (code := self._keeper.poll()) is not None:
                    raise self._make_start_error(code)
                if time.monotonic() > until:
                    late = f"{self.label} was not ready within model.start_timeout_s={self.start_limit_s:g}"
                    raise JobFailed(f"{late}{self._quote_last_server_error()}", code="failed")
                if lines := child_process.read_last_lines(self.log, 1, self.log_from):
                    bar.set_position(0, log=self.BEFORE.sub("", lines[0])[:60])
                time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        """Return whether the server accepts this API key and lists its model.

        Another program that listens at the port would reject the key.
        """
        try:
            listed = self.fetch_json("v1/models").get("data", [])
            return any(entry.get("id") == self.served_name for entry in listed)
        except (OSError, ValueError, AttributeError):
            return False

    def _make_start_error(self, exit_code: int) -> RunnerError:
        quoted = self._quote_last_server_error()
        if any(sign in quoted for sign in self.TAKEN):
            return _PortTaken(
                f"another program listens there{quoted}", key="model.port", value=self.port, code="busy"
            )
        if any(sign in quoted for sign in self.BAD_WORDS):
            key, words = self.user_flags()
            return ConfigError(
                f"{self.label} rejects its command line{quoted}", key=key, value=words, code="bad_value"
            )
        return JobFailed(self._describe_server_exit(exit_code, " while it started"), code="failed")

    # ------------------------------------------------------------------------------------- messages

    def _describe_server_exit(self, exit_code: int, exit_time: str = "", advice: str = "") -> str:
        # negative: of a signal
        exit_code = (
            server_supervisor.KILLED - exit_code if exit_code > server_supervisor.KILLED else exit_code
        )
        quoted = self._quote_last_server_error(should_quote_other_lines=exit_code >= 0)
        how_it_ended = f"{self.label} {child_process.describe_exit_code(exit_code)}{exit_time}"
        if any(sign in quoted for sign in self.NO_MEMORY) and exit_code != -signal.SIGKILL:
            how_it_ended += f": not enough memory. {self.make_memory_advice()}"
        return how_it_ended + advice + quoted

    def _quote_last_server_error(self, should_quote_other_lines: bool = True) -> str:
        """Quote the last error in the server's log, or the last lines if there is no error."""
        lines = [
            self.BEFORE.sub("", line).strip()
            for line in child_process.read_last_lines(self.log, 400, self.log_from)
        ]
        errors = [
            line
            for line in lines
            if self.ERROR.match(line) and not any(sign in line for sign in self.SECONDHAND)
        ]
        last = errors[-1:] or [line for line in lines if line and should_quote_other_lines][-3:]
        return "".join(f"\n    | {line[:400]}" for line in last) + f"\n    log: {self.log}"


class _PortTaken(JobFailed):
    """Raised if another program took the port before the server could use it."""
