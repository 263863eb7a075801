"""Checks whether a store responds. The user can interrupt a long wait.

The probe runs in a thread of its own, because database drivers wait in C, or for minutes, and a
job starts and ends its run with signals deferred.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from runner_base import announce, signals

ANSWER_S = 10  # a store that does not answer for so long is unreachable
LOCK_S = 0.5  # a database that is locked for so long is waited for, as a server is
AWAY_S = 60.0  # how long a server then counts as unreachable before the next try
SAY_AFTER_S = 2.0
# a signal may come twice, or have ended the job whose run is now ended in the store: a store that
# answers is not left
OBEY_AFTER_S = 0.5
LOOK_EVERY_S = 0.05


def run_probe_with_limit(
    store_name: str, probe: Callable[[], None], limit_s: float, signal_delay_s: float = OBEY_AFTER_S
) -> None:
    """Run a probe in another thread, for at most `limit_s` seconds.

    Raises the probe's error, or TimeoutError.

    A signal ends the wait after `signal_delay_s`. Signals, and the message about a long wait, belong
    to the main thread: the user does not wait for another one.
    """
    user_waits = threading.current_thread() is threading.main_thread()
    errors: list[BaseException] = []
    answered = threading.Event()

    def run_probe() -> None:
        try:
            probe()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)
        answered.set()

    threading.Thread(target=run_probe, name="store", daemon=True).start()
    started, has_said = time.monotonic(), False
    while not answered.wait(LOOK_EVERY_S):
        waited_s = time.monotonic() - started
        if user_waits and waited_s > signal_delay_s:
            signals.raise_if_signal_waits()
        if waited_s > limit_s:
            raise TimeoutError(no_answer_message(limit_s))
        if user_waits and waited_s > SAY_AFTER_S and not has_said:
            has_said = True
            announce(f"waiting for MLflow at {store_name} (tracking.uri) for at most {limit_s:.0f} s")
    if errors:
        raise errors[0]


def no_answer_message(limit_s: float) -> str:
    return (
        f"no answer within {limit_s:.0f} s. Start the server, give another store with "
        "tracking.uri=URI, or use tracking=none"
    )


def probe_sqlite(file: Path, store_name: str) -> None:
    """Check that a sqlite database is writable by acquiring its write lock once, without MLflow."""
    import sqlite3

    file.parent.mkdir(parents=True, exist_ok=True)

    def acquire_lock(timeout_s: float) -> None:
        with closing(sqlite3.connect(file, timeout=timeout_s)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")

    try:
        acquire_lock(LOCK_S)
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        run_probe_with_limit(store_name, lambda: acquire_lock(ANSWER_S), ANSWER_S + 1)


def probe_server(uri: str, store_name: str) -> None:
    """Raise OSError if an MLflow server does not answer."""
    _probe_or_raise_cached_error(uri, store_name, _request_health)


def probe_database(uri: str, store_name: str) -> None:
    """Log in to a database server without MLflow, because MLflow would retry ten times with long timeouts."""
    _probe_or_raise_cached_error(uri, store_name, _log_in_to_database)


_away: dict[str, tuple[float, OSError]] = {}  # servers that did not answer: when, and with which error


def _probe_or_raise_cached_error(uri: str, store_name: str, probe: Callable[[str], None]) -> None:
    """Probe a server. If a recent probe failed, raise its cached error instead."""
    since, error = _away.get(uri, (-AWAY_S, None))
    if error is not None and time.monotonic() - since < AWAY_S:
        raise error
    try:
        run_probe_with_limit(store_name, lambda: probe(uri), ANSWER_S)
    except OSError as error:
        _away[uri] = time.monotonic(), error
        raise
    _away.pop(uri, None)


def _request_health(uri: str) -> None:
    """Send a health request to an MLflow server. Raises OSError unless there is an HTTP response, with
    any status.
    """
    import http.client  # late: these imports take a while, and most stores are files
    import ssl
    import urllib.error
    import urllib.request

    parts = urlsplit(uri)
    server = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    address = server.geturl().rstrip("/") + "/health"
    unchecked = ssl._create_unverified_context()  # MLflow has its own settings for certificates
    try:
        urllib.request.urlopen(address, timeout=ANSWER_S, context=unchecked).close()
    except (urllib.error.HTTPError, http.client.HTTPException):
        return
    except OSError as error:
        # urllib wraps errors that occur before it is connected
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise TimeoutError(no_answer_message(ANSWER_S)) from error
        if not isinstance(reason, ssl.SSLError):
            raise


def _log_in_to_database(uri: str) -> None:
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    except ModuleNotFoundError:  # `open_client` says which driver is missing
        return
    engine.connect().close()
