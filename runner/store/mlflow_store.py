"""The MLflow store: which one a config names, how it is opened or made, and its errors in one message.

MLflow is imported inside the functions: it costs more than a second.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, TrackingError, cannot_write, check, refuse_password
from runner.core.sqlite_uri import sqlite_path, sqlite_uri
from runner.store.jobs import hold

STORE_MODULES = ("mlflow", "sqlalchemy", "alembic", "requests", "sqlite3")  # whose exceptions say that a store failed
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # how a uri begins that names no server


@dataclass(frozen=True)
class Store:
    """Where runs go: an MLflow store, an experiment in it, and the run that a grid's jobs stand below."""

    uri: str
    experiment: str
    output_dir: Path
    parent_run_id: str | None = None

    def __post_init__(self) -> None:
        refuse_password("tracking.uri", self.uri)


def store_of(config: RunnerConfig) -> Store | None:
    """Return where results are logged: None with tracking=none, else tracking.uri or sqlite in output_dir."""
    if config.tracking.name == "none":
        return None
    output_dir = Path(config.output_dir).expanduser().absolute()
    uri = config.tracking.uri or default_uri(output_dir)
    return Store(uri, config.tracking.experiment, output_dir, config.tracking.parent_run_id)


def default_uri(output_dir: Path) -> str:
    """Return the sqlite store of an output folder."""
    return sqlite_uri(output_dir / "mlflow.db")


_opened: dict[Store, tuple[Any, str]] = {}  # a worker does many jobs with one store


def open_store(store: Store) -> tuple[Any, str]:
    """Return a client and the experiment's id, opened once a process."""
    key = replace(store, parent_run_id=None)
    if key not in _opened:
        _opened[key] = _open_first(key)
    else:
        _probe_sqlite(store.uri)
    return _opened[key]


def _open_first(store: Store) -> tuple[Any, str]:
    """Open the store; one process at a time, because creating a database is a race."""
    uri, output_dir, name = store.uri, store.output_dir, store.experiment
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no calls out of a benchmark
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # a server that is not there is said in seconds
    try:
        lock = hold(output_dir / ".mlflow.lock")
    except OSError as error:
        raise cannot_write(output_dir / ".mlflow.lock", error) from error
    with lock:
        _probe_sqlite(uri)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow  # noqa: F401  # it sets up the loggers that are quietened next

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # we say it ourselves, without a trace
        _create_sqlite(uri)
        client = open_client(uri, "tracking.uri")
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            check(
                experiment.lifecycle_stage == "active",
                "tracking.experiment",
                name,
                "it was deleted in MLflow: restore it there, or use another name",
            )
            return client, experiment.experiment_id
        # A server keeps files itself; for a database of one's own MLflow would put them where the command was given.
        location = (output_dir / "mlartifacts").as_uri() if uri.startswith(DATABASES) else None
        return client, _create_experiment(client, name, location)


def open_client(uri: str, key: str) -> Any:
    """Return MLflow's client for a store; `key` is where the user named it."""
    from mlflow import MlflowClient

    try:
        return MlflowClient(uri)
    except ModuleNotFoundError as missing:  # what SQLAlchemy lacks for this kind of database
        extra = " (pip install 'runner[postgres]')" if missing.name == "psycopg" else ""
        raise ConfigError(f"{key}={uri}: this needs the package {missing.name}{extra}") from missing


def _create_experiment(client: Any, name: str, location: str | None) -> str:
    """Create the experiment, or take the one that another machine has created since it was looked for."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def _probe_sqlite(uri: str) -> None:
    """Ask sqlite itself for a write lock: its errors are short and quick, MLflow's are neither."""
    path = sqlite_path(uri)
    if path is None:
        return
    import sqlite3

    with clear_errors(uri):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=10)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()


def _create_sqlite(uri: str) -> None:
    """Make a new database elsewhere and move it here whole: a kill amid MLflow's migrations spoils it for good."""
    path = sqlite_path(uri)
    if path is None or path.stat().st_size:
        return
    from mlflow import MlflowClient

    with path.open("rb") as place:
        fcntl.flock(place, fcntl.LOCK_EX)  # runners with other output folders may be about to make it, too
        if path.stat().st_size:
            return
        fresh = path.with_name(f".{path.name}.new")
        for leftover in (fresh, fresh.with_name(f"{fresh.name}-journal")):
            leftover.unlink(missing_ok=True)
        MlflowClient(sqlite_uri(fresh)).search_experiments(max_results=1)
        fresh.replace(path)


@contextmanager
def one_message(compose: Callable[[str], str]) -> Iterator[None]:
    """Turn the many ways in which a store can fail into one message, composed of the error's own text on one line."""
    try:
        yield
    except Exception as error:
        # MLflow's and SQLAlchemy's exceptions, named by module so that neither has to be imported for this
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in STORE_MODULES:
            raise
        text = str(error).partition("(Background on this error")[0]  # SQLAlchemy's run to whole paragraphs
        raise TrackingError(compose(" ".join(text.split())[:300])) from error


def clear_errors(uri: str | None, kept: Path | None = None) -> AbstractContextManager[None]:
    """Say of an error of the store what it takes to mend it, and what is safe."""

    def compose(text: str) -> str:
        if "locked" in text:
            text = "the database is locked by another program: close it, or wait, and run again"
        elif "readonly" in text or "unable to open" in text or "Permission" in text:
            text += ". Give a store you may write: tracking.uri=sqlite:////PATH.db, or tracking=none"
        safe = f" The result is kept in {kept}; the same command logs it without running it again" if kept else ""
        return f"MLflow at {uri} cannot be reached or written: {text}.{safe}"

    return one_message(compose)
