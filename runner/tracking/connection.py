"""The connection to an MLflow store: it is probed, opened or created, and its errors become one message.

MLflow is imported inside the functions: it costs more than a second.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from runner.core.later import uncollected
from runner.render.notes import note_text
from runner.tracking import answering, empty_database, moved, run_table
from runner.tracking.stores import DATABASES, Store
from runner.tracking.waiting_client import WaitingClient
from runner_base import ConfigError, TrackingError, cannot_write, hold, without_secrets
from runner_base.notes import Note, note
from runner_base.uris import sqlite_path, sqlite_uri

# their exceptions mean that a store has failed
STORE_MODULES = ("mlflow", "sqlalchemy", "alembic", "requests", "sqlite3")


def set_mlflow_variables() -> None:
    """Set MLflow's variables before it is imported: no telemetry, nothing on stdout, short
    timeouts."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # a trace that fails is then seen at once
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(answering.ANSWER_S))


def import_mlflow(store: Store) -> None:
    """Import what a job needs of MLflow, and open nothing."""
    set_mlflow_variables()
    with uncollected():
        importlib.import_module("mlflow")
        if not store.uri.startswith("http"):
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # the runner reports such errors itself, without a traceback
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


class Experiment(NamedTuple):
    """An experiment of an open store."""

    client: Any  # MLflow's
    id: str


_opened: dict[Store, Experiment] = {}  # a worker runs many jobs with one store


@contextmanager
def connected(store: Store) -> Iterator[Experiment]:
    """Connect to the store and create its experiment if missing; any error becomes one message."""
    with reachable(store):
        yield _open(store)


@contextmanager
def connected_to_read(store: Store) -> Iterator[Experiment | None]:
    """Connect to the store and create nothing: None if it lacks the experiment; any error becomes one
    message."""
    with clear_errors(store):
        yield _find(store)


@contextmanager
def reachable(store: Store, kept: Path | None = None) -> Iterator[None]:
    """Probe the store before a client that is already open is used; any error becomes one message.

    kept: the folder that has the result if the store cannot be written.
    """
    with clear_errors(store, kept):
        _check_reachable(store)
        yield


def _open(store: Store) -> Experiment:
    """Open the experiment; a process opens each store once."""
    key = replace(store, parent_run_id=None)
    if key not in _opened or (
        store.file is not None and not store.file.stat().st_size
    ):  # the database was deleted, and the probe has created an empty file
        _opened[key] = _open_first(key)
    return _opened[key]


def opened_experiment(store: Store) -> str | None:
    """Return the number of the experiment if this process has opened the store."""
    experiment = _opened.get(replace(store, parent_run_id=None))
    return None if experiment is None else experiment.id


def _find(store: Store) -> Experiment | None:
    if store.file is not None and not (store.file.exists() and store.file.stat().st_size):
        return None
    _check_reachable(store)
    import_mlflow(store)
    client = open_client(store.uri, "tracking.uri")
    experiment = client.get_experiment_by_name(store.experiment)
    is_missing = experiment is None or experiment.lifecycle_stage != "active"
    return None if is_missing else Experiment(client, experiment.experiment_id)


def _open_first(store: Store) -> Experiment:
    """Open the store; only one process at a time, so that only one creates the database."""
    uri, output_dir, name = store.uri, store.output_dir, store.experiment
    try:
        lock = hold(output_dir / ".mlflow.lock")
    except OSError as error:
        raise cannot_write(output_dir / ".mlflow.lock", error) from error
    with lock:
        import_mlflow(store)
        _create_sqlite(store.file)
        if store.is_own:
            moved.mend(output_dir)
        client = open_client(uri, "tracking.uri")
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":  # its name stays in use
                raise ConfigError(
                    f"it was deleted in MLflow at {store.shown}. Restore it with "
                    f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`, or use another name",
                    key="tracking.experiment",
                    value=name,
                    code="not_found",
                )
            run_table.keep(client, experiment)
            return Experiment(client, experiment.experiment_id)
        # A server keeps files itself; for a database, MLflow would put them in the working
        # directory.
        artifacts = (output_dir.resolve() / "mlartifacts").as_uri() if uri.startswith(DATABASES) else None
        return Experiment(client, _create_experiment(client, name, artifacts))


def open_client(uri: str, key: str) -> Any:
    """Return MLflow's client for a store; `key` is the key with which the user named it."""
    from mlflow import MlflowClient

    try:
        if sqlite_path(uri) is None and uri.startswith(DATABASES):
            return WaitingClient(lambda: MlflowClient(uri), without_secrets(uri))
        return MlflowClient(uri)
    except ModuleNotFoundError as missing:  # SQLAlchemy's driver for this kind of database
        extra = " (pip install 'runner-llm[postgres]')" if missing.name == "psycopg" else ""
        raise ConfigError(
            f"this needs the package {missing.name}{extra}",
            key=key,
            value=without_secrets(uri),
            code="needs_package",
        ) from missing


def _create_experiment(client: Any, name: str, location: str | None) -> str:
    """Create the experiment, or return the one that another machine has created in the meantime."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, location, {run_table.TAG: run_table.view()}))
    except MlflowException:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def _check_reachable(store: Store) -> None:
    """Check that the store is reachable: MLflow's own errors are long, and take minutes."""
    if store.file is not None:
        answering.probe_sqlite(store.file, store.shown)
        return
    set_mlflow_variables()
    if store.uri.startswith(("http://", "https://")):
        answering.probe_server(store.uri, store.shown)
    elif store.uri.startswith(DATABASES):
        answering.probe_database(store.uri, store.shown)


def _create_sqlite(path: Path | None) -> None:
    """Create a new database under another name and rename it: a kill during MLflow's migrations
    would damage it."""
    if path is None or path.stat().st_size:
        return
    from mlflow import MlflowClient

    with hold(path):  # jobs with other output folders may be creating it, too
        if path.stat().st_size:
            return
        fresh = path.with_name(f".{path.name}.new")
        for leftover in (fresh, fresh.with_name(f"{fresh.name}-journal")):
            leftover.unlink(missing_ok=True)
        was_kept = empty_database.begin(fresh)
        MlflowClient(sqlite_uri(fresh)).search_experiments(max_results=1)
        if not was_kept:
            empty_database.keep(fresh)
        fresh.replace(path)


# ------------------------------------------------------------------------------------------- errors


@contextmanager
def one_message(compose: Callable[[str], str]) -> Iterator[None]:
    """Turn any error of a store into a TrackingError; `compose` makes the message from the error's
    text."""
    try:
        yield
    except Exception as error:
        # MLflow's and SQLAlchemy's exceptions are recognized by module, so that neither has to be
        # imported
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in STORE_MODULES:
            raise
        text = str(error).partition("(Background on this error")[0]  # SQLAlchemy adds paragraphs
        # the error itself may hold a URI with its token: not as the cause, which tracebacks show
        raise TrackingError(compose(without_secrets(" ".join(text.split()))[:300]), code="failed") from None


def clear_errors(store: Store, kept: Path | None = None) -> AbstractContextManager[None]:
    """Turn an error of the store into one message that says how to fix it and what is safe."""

    def compose(text: str) -> str:
        reason: Note | str = text
        if "locked" in text:
            reason = note("database_locked")
        elif "readonly" in text or "unable to open" in text or "Permission" in text:
            reason = note("store_not_writable", reason=text)
        return note_text(note("store_failed", store=store.shown, reason=reason, kept=kept))

    return one_message(compose)
