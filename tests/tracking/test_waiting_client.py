"""A real PostgreSQL that falls silent between two calls, with its connections open: each call has a
limit of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raising import raises
from servers import postgres_server

from runner.tracking import connection, stores, waiting_client
from runner.tracking.store_probes import SAY_AFTER_S
from runner_base import signals
from runner_base.errors import TrackingError

# mlflow 3.17 uses an old name of sqlalchemy 2.1
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")]
LIMIT_S = 4.0
SLOW_MACHINE_S = 8.0  # for a thread to be scheduled


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[str, Any, str]]:
    """A database, its client, and a run in it."""
    with postgres_server() as uri:
        connection.set_mlflow_environment()
        client = connection.open_client(uri, "tracking.uri")
        yield uri, client, client.create_run("0").info.run_id


@contextlib.contextmanager
def silent(uri: str) -> Iterator[None]:
    """Stop the processes that serve the connections, as a machine does that hangs."""
    import psycopg

    with psycopg.connect(uri) as connection:
        query = "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        pids = [row[0] for row in connection.execute(query).fetchall()]
    assert pids, "the client keeps its connection"
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def log(opened: tuple[str, Any, str], key: str) -> None:
    """Log a number, as a job does at its end."""
    from mlflow.entities import Metric

    uri, client, run_id = opened
    with connection.convert_store_errors_to_tracking_error(stores.Store(uri, "runner", Path())):
        client.log_batch(run_id, metrics=[Metric(key, 1.0, 1, 0)])


def log_while_a_signal_comes(opened: tuple[str, Any, str]) -> None:
    """Log a number with signals deferred, as at a job's end, and send this process one
    meanwhile."""
    with signals.install_handlers_temporarily(), signals.defer_signals():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        log(opened, "silent")


@pytest.mark.thorough
def test_a_call_ends_with_one_message_and_the_next_one_is_answered(
    opened: tuple[str, Any, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log(opened, "before")
    capsys.readouterr()
    monkeypatch.setattr(waiting_client, "CALL_S", LIMIT_S)
    began = time.monotonic()
    with silent(opened[0]), raises(TrackingError, "failed"):
        log(opened, "silent")
    assert time.monotonic() - began < LIMIT_S + SLOW_MACHINE_S
    err = capsys.readouterr().err
    assert "waiting for MLflow at postgresql://" in err
    assert f"for at most {LIMIT_S:.0f} s" in err
    monkeypatch.undo()
    log(opened, "after")
    assert {"before", "after"} <= set(opened[1].get_run(opened[2]).data.metrics)


def test_the_first_signal_ends_a_wait_that_was_said(opened: tuple[str, Any, str]) -> None:
    log(opened, "before")
    began = time.monotonic()
    with silent(opened[0]), pytest.raises(KeyboardInterrupt):
        log_while_a_signal_comes(opened)
    assert SAY_AFTER_S < time.monotonic() - began < SAY_AFTER_S + SLOW_MACHINE_S


def test_what_mlflow_raises_is_raised_here(opened: tuple[str, Any, str]) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="not found"):
        opened[1].get_run("0" * 32)
