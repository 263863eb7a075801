"""Connects to an MLflow store, and converts the store's exceptions to TrackingError.

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

from runner.core.deferred_imports import defer_imports
from runner.render.notes import format_note
from runner.tracking import empty_database, moved_folders, run_table, store_probes
from runner.tracking.stores import DATABASES, Store, is_server
from runner.tracking.waiting_client import WaitingClient
from runner_base import (
    ConfigError,
    TrackingError,
    convert_write_error,
    lock_file,
    process_role,
    redact_secrets,
)
from runner_base.garbage_collection import pause_garbage_collection
from runner_base.notes import Note, note
from runner_base.uris import format_sqlite_uri, parse_sqlite_path

# their exceptions mean that a store has failed
STORE_MODULES = ("mlflow", "sqlalchemy", "alembic", "requests", "sqlite3")


def set_mlflow_environment() -> None:
    """Disable MLflow's telemetry and output, and shorten its timeouts. Call this before MLflow is
    imported.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # a trace that fails is then seen at once
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(store_probes.ANSWER_S))


# What MLflow imports and a job's run needs seldom or never: a third of the time that its modules
# take.
UNUSED = (
    "fastapi",
    "mako",
    "mlflow.genai",
    "mlflow.models",
    "mlflow.projects",
    "mlflow.store._unity_catalog",
    "pandas",
    "scipy",
)


def import_mlflow(store: Store) -> None:
    """Import the parts of MLflow that a job needs. Does not open the store.

    A process that only runs our commands imports the other parts when they are first used.
    """
    set_mlflow_environment()
    with pause_garbage_collection(), defer_imports(*(UNUSED if process_role.is_command() else ())):
        importlib.import_module("mlflow")
        if not store.uri.startswith("http"):
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    _silence_database_loggers()


def _silence_database_loggers() -> None:
    """Keep MLflow from printing the steps of a new database, and errors that the runner reports itself."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


class Experiment(NamedTuple):
    """MLflow client and experiment id of an open store."""

    client: Any  # MLflow's
    id: str


_opened: dict[Store, Experiment] = {}  # a worker runs many jobs with one store


@contextmanager
def connect_to_store(store: Store) -> Iterator[Experiment]:
    """Connect to the store, and create its experiment if missing. Converts store errors to TrackingError."""
    with require_reachable_store(store):
        yield _get_or_open_experiment(store)


@contextmanager
def connect_for_reading(store: Store) -> Iterator[Experiment | None]:
    """Open a store read-only. Yields None if the experiment does not exist.

    Store errors in the block are converted to TrackingError.
    """
    with convert_store_errors_to_tracking_error(store):
        yield _find_experiment(store)


@contextmanager
def require_reachable_store(store: Store, result_folder: Path | None = None) -> Iterator[None]:
    """Check that the store still responds, before an already open client is used.

    Store errors become TrackingError.

    result_folder: the folder that has the result if the store cannot be written.
    """
    with convert_store_errors_to_tracking_error(store, result_folder):
        _probe_store(store)
        yield


def _get_or_open_experiment(store: Store) -> Experiment:
    """Open the store's experiment. If this process has already opened the experiment, return the cached
    connection.
    """
    key = replace(store, parent_run_id=None)
    if key not in _opened or (
        store.sqlite_file is not None and not store.sqlite_file.stat().st_size
    ):  # the database was deleted, and the probe has created an empty file
        _opened[key] = _open_store_under_lock(key)
    return _opened[key]


def get_cached_experiment_id(store: Store) -> str | None:
    """Return the experiment's id if this process has already opened the store; otherwise None."""
    experiment = _opened.get(replace(store, parent_run_id=None))
    return None if experiment is None else experiment.id


def _find_experiment(store: Store) -> Experiment | None:
    if store.sqlite_file is not None and not (
        store.sqlite_file.exists() and store.sqlite_file.stat().st_size
    ):
        return None
    _probe_store(store)
    import_mlflow(store)
    client = open_client(store.uri, "tracking.uri")
    experiment = client.get_experiment_by_name(store.experiment)
    is_missing = experiment is None or experiment.lifecycle_stage != "active"
    return None if is_missing else Experiment(client, experiment.experiment_id)


def _open_store_under_lock(store: Store) -> Experiment:
    """Open the store under a lock, so that only one process creates its database."""
    uri, output_dir, name = store.uri, store.output_dir, store.experiment
    try:
        lock = lock_file(output_dir / ".mlflow.lock")
    except OSError as error:
        raise convert_write_error(output_dir / ".mlflow.lock", error) from error
    with lock:
        import_mlflow(store)
        _create_sqlite_atomically(store.sqlite_file)
        if store.is_default_database:
            moved_folders.repair_paths_after_folder_move(output_dir)
        client = open_client(uri, "tracking.uri")
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":  # its name stays in use
                raise ConfigError(
                    (
                        f"this experiment was deleted in MLflow at {store.redacted_uri}. Restore "
                        "it with `mlflow experiments restore --experiment-id "
                        f"{experiment.experiment_id}`, or use another name"
                    ),
                    key="tracking.experiment",
                    value=name,
                    code="not_found",
                )
            run_table.store_run_table_view(client, experiment)
            return Experiment(client, experiment.experiment_id)
        # A server keeps files itself; for a database, MLflow would put them in the working
        # directory.
        artifacts = (output_dir.resolve() / "mlartifacts").as_uri() if uri.startswith(DATABASES) else None
        return Experiment(client, _create_experiment(client, name, artifacts))


def open_client(uri: str, config_key: str) -> Any:
    """Return an MLflow client for a store. Error messages name `config_key`."""
    from mlflow import MlflowClient

    _silence_database_loggers()
    try:
        if parse_sqlite_path(uri) is None and uri.startswith(DATABASES):
            return WaitingClient(lambda: MlflowClient(uri), redact_secrets(uri))
        return MlflowClient(uri)
    except ModuleNotFoundError as missing:  # SQLAlchemy's driver for this kind of database
        extra = " (pip install 'runner-llm[postgres]')" if missing.name == "psycopg" else ""
        raise ConfigError(
            f"this needs the package {missing.name}{extra}",
            key=config_key,
            value=redact_secrets(uri),
            code="needs_package",
        ) from missing


def _create_experiment(client: Any, name: str, location: str | None) -> str:
    """Create the experiment and return its id.

    If another machine has just created the experiment, return that experiment's id.
    """
    from mlflow.exceptions import MlflowException

    try:
        return str(
            client.create_experiment(name, location, {run_table.TAG: run_table.build_run_table_view_json()})
        )
    except MlflowException:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def _probe_store(store: Store) -> None:
    """Check that the store is reachable before MLflow uses it.

    MLflow itself takes minutes to fail, and its errors are long.
    """
    if store.sqlite_file is not None:
        store_probes.probe_sqlite(store.sqlite_file, store.redacted_uri)
        return
    set_mlflow_environment()
    if is_server(store.uri):
        store_probes.probe_server(store.uri, store.redacted_uri)
    elif store.uri.startswith(DATABASES):
        store_probes.probe_database(store.uri, store.redacted_uri)


def _create_sqlite_atomically(database_path: Path | None) -> None:
    """Create a database under a temporary name, so that an interrupted migration leaves no damaged
    database behind.
    """
    if database_path is None or database_path.stat().st_size:
        return
    from mlflow import MlflowClient

    with lock_file(database_path):  # jobs with other output folders may be creating it, too
        if database_path.stat().st_size:
            return
        fresh = database_path.with_name(f".{database_path.name}.new")
        for leftover in (fresh, fresh.with_name(f"{fresh.name}-journal")):
            leftover.unlink(missing_ok=True)
        was_kept = empty_database.copy_cached_empty_database(fresh)
        MlflowClient(format_sqlite_uri(fresh)).search_experiments(max_results=1)
        if not was_kept:
            empty_database.cache_new_database(fresh)
        fresh.replace(database_path)


# ------------------------------------------------------------------------------------------- errors


@contextmanager
def convert_store_errors(build_message: Callable[[str], str]) -> Iterator[None]:
    """Convert store errors to TrackingError. `build_message` builds the new error's message."""
    try:
        yield
    except Exception as error:
        # MLflow's and SQLAlchemy's exceptions are recognized by module, so that neither has to be
        # imported
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in STORE_MODULES:
            raise
        text = str(error).partition("(Background on this error")[0]  # SQLAlchemy adds paragraphs
        # the error itself may hold a URI with its token: not as the cause, which tracebacks show
        raise TrackingError(
            build_message(redact_secrets(" ".join(text.split()))[:300]), code="failed"
        ) from None


def convert_store_errors_to_tracking_error(
    store: Store, result_folder: Path | None = None
) -> AbstractContextManager[None]:
    """Convert store errors to TrackingError with a suggested fix.

    The message names `result_folder` as the location of saved results.
    """

    def build_store_error_message(text: str) -> str:
        reason: Note | str = text
        if "locked" in text:
            reason = note("database_locked")
        elif "readonly" in text or "unable to open" in text or "Permission" in text:
            reason = note("store_not_writable", reason=text)
        return format_note(note("store_failed", store=store.redacted_uri, reason=reason, kept=result_folder))

    return convert_store_errors(build_store_error_message)
