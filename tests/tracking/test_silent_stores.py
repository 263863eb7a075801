"""Stores that accept and never answer: what is waited for is said, the first signal ends it, and so
does the limit."""

from __future__ import annotations

import contextlib
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import warm_process
from raising import raises

from runner.tracking.store_probes import ANSWER_S, SAY_AFTER_S, run_probe_with_limit
from runner_base.errors import TrackingError

JOB = ("model=stub", "task.limit=2", "print=none")
SLOW_MACHINE_S = 3.0  # for a thread to be scheduled


class Silent:
    """A socket of this machine that accepts, or lets callers wait for that, and never says
    anything."""

    def __init__(self, accepts: bool) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port, self.called_at = self.listening.getsockname()[1], 0.0
        self.open: list[socket.socket] = []
        self._accepts = accepts
        if accepts:
            threading.Thread(target=self._accept, daemon=True).start()
        else:
            self._fill()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.open.append(self.listening.accept()[0])
                self.called_at = self.called_at or time.monotonic()

    def _fill(self) -> None:
        """Fill the backlog: the kernel then drops what asks to be connected, as a firewall does."""
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.open.append(filler)

    def close(self) -> None:
        for one in [*self.open, self.listening]:
            one.close()


@pytest.fixture(params=["accepts", "drops"])
def silent(request: pytest.FixtureRequest) -> Iterator[Silent]:
    server = Silent(request.param == "accepts")
    yield server
    server.close()


def address(kind: str, port: int) -> str:
    if kind == "http":
        return f"http://127.0.0.1:{port}"
    pytest.importorskip("psycopg")
    return f"postgresql+psycopg://ann@127.0.0.1:{port}/runs"


def start(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    monkeypatch.setenv("PGPASSWORD", "geheim")
    words = [*JOB, f"tracking.uri='{uri}'"]
    command = [sys.executable, "-m", "runner", *words, f"output_dir={tmp_path}/outputs"]
    process: subprocess.Popen[str] = warm_process.popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("kind", ["postgres", "http"])
def test_what_is_waited_for_is_said_and_the_first_signal_ends_it(
    tmp_path: Path, silent: Silent, kind: str, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(tmp_path, address(kind, silent.port), monkeypatch)
    assert process.stderr is not None
    line = ""
    while f"127.0.0.1:{silent.port}" not in line:
        line = process.stderr.readline()
        assert line, "it ended without a word"
    if silent.called_at:
        assert time.monotonic() - silent.called_at < SAY_AFTER_S + SLOW_MACHINE_S
    assert "waiting for MLflow at " in line
    assert "tracking.uri" in line
    assert "geheim" not in line
    process.send_signal(sent)
    sent_at = time.monotonic()
    _, rest = process.communicate(timeout=100)
    assert time.monotonic() - sent_at < SLOW_MACHINE_S
    assert process.returncode == 130, rest
    assert "Traceback" not in rest


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "http"])
def test_it_ends_by_itself_with_one_message(
    tmp_path: Path, silent: Silent, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(tmp_path, address(kind, silent.port), monkeypatch)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2, err
    [line] = [line for line in err.splitlines() if line.startswith("error")]
    assert f"127.0.0.1:{silent.port}" in line
    assert f"no answer within {ANSWER_S} s" in line
    assert "tracking.uri=" in line
    assert "geheim" not in err
    assert "Traceback" not in err


@pytest.mark.thorough
@pytest.mark.slow
def test_a_locked_database_is_waited_for_aloud(runner: Callable[..., Any], tmp_path: Path) -> None:
    assert runner(*JOB).code == 0
    (path,) = tmp_path.glob("outputs/mlflow.db")
    with contextlib.closing(sqlite3.connect(path)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        done = runner(*JOB, "seed=1")
        holder.execute("ROLLBACK")
    assert done.code == 2, done.err
    assert "waiting for MLflow at sqlite:" in done.err
    assert "the database is locked by another program" in done.err
    assert runner(*JOB, "seed=1").code == 0, "nothing of the wait is left"


def test_an_answer_in_time_is_not_spoken_of(capsys: pytest.CaptureFixture[str]) -> None:
    run_probe_with_limit("here", lambda: time.sleep(0.2), 5)
    with raises(TrackingError, "refused"):
        run_probe_with_limit(
            "here", lambda: (_ for _ in ()).throw(TrackingError("refused", code="refused")), 5
        )
    assert capsys.readouterr().err == ""
