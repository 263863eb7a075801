"""A server of vLLM on this machine's loopback: started, waited for, watched, ended, and its last
error quoted."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob
from runner.options.remote.server import KEPT, started_keys
from runner.options.remote.vllm import keeper
from runner.options.remote.vllm.command import name_of, options_of, variables_of
from runner.options.remote.vllm.environment import environment_of
from runner.options.remote.vllm.keys import vllm_model
from runner_base import ConfigError, JobFailed, Progress, RunnerError, child, one_line, tell

LOOPBACK = "127.0.0.1"
LOG = "vllm.log"
POLL_S = 0.3
END_S = 30.0  # until a keeper that was told to end is killed
PORTS = 3  # tries, where another program may take a port that was free
PREFIX = re.compile(
    r"^(?:\(\S+ pid=\d+\) )?(?:ERROR|INFO|WARNING|CRITICAL)? ?(?:\d\d-\d\d [\d:]+ )?(?:\[[^\]]*\] )?"
)
ERROR = re.compile(r"^(?:[\w.]*(?:Error|Exception|Exit)\b.*|.*error: .*)")
SECONDHAND = (
    "See root cause above",
    "Engine core initialization failed",
    "EngineDeadError",
    "EngineCore encountered",
)
NO_MEMORY = (
    "out of memory", "No available memory for the cache blocks", "on startup is less than desired",
    "larger than the available KV cache memory", "is less than requested memory for kv", "annot allocate memory",
    "MemoryError", "is needed, which is larger than", "No memory is available",
    "memory for the KV cache", "Free memory on device",
)  # fmt: skip
BAD_WORDS = (
    "unrecognized arguments",
    "invalid choice",
    "error: argument",
    "expected one argument",
    "ambiguous option",
)
TAKEN = ("address already in use", "Address already in use", "EADDRINUSE")


class VllmServer:
    """A running server; it ends with `close`, and with this process."""

    def __init__(self, resolved: ResolvedJob, folder: Path) -> None:
        """Start it, and wait until it answers."""
        self.model = vllm_model(resolved.config.model)
        self.environment = environment_of(self.model)
        self.log, self.compared = folder / LOG, ""
        self._options = [
            "--model",
            str(resolved.files.path),
            "--served-model-name",
            name_of(self.model),
        ]
        self._options += options_of(resolved)
        self._key = secrets.token_urlsafe(24)
        self._variables = variables_of(resolved, self._key)
        self._ended: RunnerError | None = None
        started = time.monotonic()
        for last in (False,) * (PORTS - 1) + (True,):
            self.port = self._free_port()
            self.url = f"http://{LOOPBACK}:{self.port}/v1"
            started_keys[self.url] = self._key
            self.log_from = self.log.stat().st_size if self.log.exists() else 0
            self._keeper = self._start()
            try:
                self._wait()
            except _PortTaken as taken:
                self.close()
                if last or self.model.port is not None:
                    raise ConfigError(str(taken)) from None
                continue
            except BaseException:
                self.close()
                raise
            break
        self.start_s = time.monotonic() - started

    def failure(self) -> RunnerError | None:
        """Return why the server is gone; None while it runs."""
        if self._ended is None and (code := self._keeper.poll()) is not None:
            self._ended = JobFailed(self._words(code, after=f". {KEPT}"))
        return self._ended

    def close(self) -> None:
        """End it, and wait until nothing of it runs."""
        started_keys.pop(self.url, None)
        self._ended = self._ended or JobFailed(f"the server of {self.environment.label} was ended")
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
            with self.log.open("rb") as whole, (folder / LOG).open("wb") as part:
                whole.seek(offset)
                shutil.copyfileobj(whole, part)

    # ---------------------------------------------------------------------------------------- start

    def _free_port(self) -> int:
        """Return model.port, or a free one; ConfigError if another program has it."""
        wanted = self.model.port
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, wanted or 0))
                return int(probe.getsockname()[1])
            except OSError as error:
                raise ConfigError(
                    f"model.port={wanted}: {one_line(error.strerror or error)} on {LOOPBACK}: end the program that "
                    "uses it, or use model.port=null, which takes any that is free"
                ) from None

    def _start(self) -> subprocess.Popen[bytes]:
        options = [
            *self._options,
            "--disable-uvicorn-access-log",
            "--host",
            LOOPBACK,
            "--port",
            str(self.port),
        ]
        order: dict[str, Any] = {
            "command": self.environment.server + options,
            "environment": self._variables,
            "log": str(self.log),
            "parent": os.getpid(),
        }
        tell(f"starting {self.environment.label} for {self.model.name}: its log is {self.log}")
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
        until = time.monotonic() + self.model.start_s
        with Progress(None, f"{self.environment.label} starts") as bar:
            while not self._answers():
                if (code := self._keeper.poll()) is not None:
                    raise self._start_error(code)
                if time.monotonic() > until:
                    late = f"{self.environment.label} was not ready within model.start_s={self.model.start_s:g}"
                    raise JobFailed(f"{late}{self._quote()}")
                if lines := child.last_lines(self.log, 1, self.log_from):
                    bar.show(0, log=PREFIX.sub("", lines[0])[:60])
                time.sleep(POLL_S)

    def _answers(self) -> bool:
        """Whether the server lists its model for our key; another program at its port would not
        know it."""
        request = urllib.request.Request(
            f"{self.url}/models", headers={"Authorization": f"Bearer {self._key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                listed = json.loads(answer.read(2**20)).get("data", [])
        except (OSError, ValueError, AttributeError):
            return False
        return any(entry.get("id") == name_of(self.model) for entry in listed)

    def _start_error(self, code: int) -> RunnerError:
        quoted = self._quote()
        if any(sign in quoted for sign in TAKEN):
            return _PortTaken(f"model.port={self.port}: another program listens there{quoted}")
        if any(sign in quoted for sign in BAD_WORDS):
            return ConfigError(
                f"model.args={self.model.args}: {self.environment.label} rejects its command line{quoted}"
            )
        return JobFailed(self._words(code, " while it started"))

    # ---------------------------------------------------------------------------------------- words

    def _words(self, code: int, when: str = "", after: str = "") -> str:
        """Say how the server ended, with its last error."""
        how = child.describe_exit(keeper.KILLED - code if code > keeper.KILLED else code)
        quoted = self._quote(has_spoken="SIG" not in how)
        how_it_ended = f"{self.environment.label} {how}{when}"
        if any(sign in how_it_ended + quoted for sign in NO_MEMORY) and "SIGKILL" not in how:
            cpu = (
                "model.memory_share (of main memory)"
                if self.environment.on_cpu
                else "model.tensor_parallel"
            )
            how_it_ended += (
                ": it has not enough memory. Use a smaller model.max_positions, "
                f"another {cpu}, or free some"
            )
        return how_it_ended + after + quoted

    def _quote(self, has_spoken: bool = True) -> str:
        """Return the server's last error, or what it has said last, and where its log is."""
        lines = [
            PREFIX.sub("", line).strip() for line in child.last_lines(self.log, 400, self.log_from)
        ]
        errors = [
            line
            for line in lines
            if ERROR.match(line) and not any(sign in line for sign in SECONDHAND)
        ]
        last = errors[-1:] or [line for line in lines if line and has_spoken][-3:]
        return "".join(f"\n    | {line[:400]}" for line in last) + f"\n    log: {self.log}"


class _PortTaken(JobFailed):
    """Another program took the port before the server could."""
