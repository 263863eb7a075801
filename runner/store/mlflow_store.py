"""The MLflow store: which one is used, how it is opened or created, and its errors in one message.

MLflow is imported inside the functions: it costs more than a second.
"""

from __future__ import annotations

import importlib
import logging
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.config.root import RunnerConfig
from runner.core.later import uncollected
from runner.store import answering, empty_database, moved, run_table
from runner.store.waiting_client import WaitingClient
from runner_base import ConfigError, TrackingError, cannot_write, hold, without_secrets
from runner_base.environment import variable
from runner_base.errors import refuse_password
from runner_base.uris import sqlite_path, sqlite_uri

URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "runner"
# their exceptions mean that a store has failed
STORE_MODULES = ("mlflow", "sqlalchemy", "alembic", "requests", "sqlite3")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # the beginnings of uris of databases


@dataclass(frozen=True)
class Store:
    """Where runs are logged: an MLflow store, an experiment in it, and the parent run of a grid's
    jobs."""

    uri: str
    experiment: str
    output_dir: Path
    parent_run_id: str | None = None
    traces: bool = False  # whether each sample is logged as a trace

    def __post_init__(self) -> None:
        refuse_password("tracking.uri", self.uri)

    @property
    def shown(self) -> str:
        """The uri without secrets, as it may be printed and recorded."""
        return without_secrets(self.uri)

    @cached_property
    def file(self) -> Path | None:
        """The file of a sqlite database; None for other stores."""
        return sqlite_path(self.uri)

    @cached_property
    def is_own(self) -> bool:
        """Whether it is the output folder's own database, which moves with the folder."""
        file, own = self.file, self.output_dir / "mlflow.db"
        return file is not None and file.name == own.name and file.parent.resolve() == own.parent.resolve()


def store_of(config: RunnerConfig) -> Store | None:
    """Return where results are logged; None with tracking=none."""
    tracking = config.tracking  # its defaults are MLflow's variables, see conf/tracking/sqlite.yaml
    if tracking.name == "none":
        return None
    output_dir = Path(config.output_dir).expanduser().absolute()
    uri = _absolute(tracking.uri or default_uri(output_dir))
    return Store(uri, tracking.experiment, output_dir, tracking.parent_run_id, tracking.traces)


def store_from_options(output_dir: Path, uri: str | None, experiment: str | None) -> Store:
    """Return a command's store: from its options, else from MLflow's variables, else sqlite in
    output_dir."""
    uri = uri or variable(URI_VARIABLE) or default_uri(output_dir)
    return Store(_absolute(uri), experiment or variable(EXPERIMENT_VARIABLE) or EXPERIMENT, output_dir)


def default_uri(output_dir: Path) -> str:
    """Return the sqlite store of an output folder."""
    return sqlite_uri(output_dir / "mlflow.db")


def see_all(uri: str) -> str:
    """Return where the runs of a store can be seen: the address of a server, or a command."""
    shown = without_secrets(uri)
    if shown.startswith(("http://", "https://")):
        return shown
    file = sqlite_path(shown)
    backend = shown if file is None else sqlite_uri(relative_path(file))
    return shlex.join(["mlflow", "ui", "--backend-store-uri", backend])


def compare_command(store: Store) -> str:
    """Return the command that compares the runs of a store."""
    arguments = ["runner-compare"]
    if (folder := os.path.relpath(store.output_dir)) != "outputs":
        arguments += ["--output-dir", folder]
    if not store.is_own or variable(URI_VARIABLE):
        arguments += ["--tracking-uri", store.shown]
    if store.experiment != EXPERIMENT or variable(EXPERIMENT_VARIABLE):
        arguments += ["--experiment", store.experiment]
    return shlex.join(arguments)


def relative_path(path: Path) -> Path:
    """Return a path relative to the working directory if it is below that."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative)


def _absolute(uri: str) -> str:
    """Return the uri of an sqlite store with an absolute path; other uris are unchanged."""
    file = sqlite_path(uri)
    return uri if file is None or file.is_absolute() else sqlite_uri(Path.cwd() / file)


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


_opened: dict[Store, tuple[Any, str]] = {}  # a worker runs many jobs with one store


def open_store(store: Store) -> tuple[Any, str]:
    """Return a client and the experiment's id, both created if missing; a process opens each store
    once."""
    key = replace(store, parent_run_id=None)
    probe(store)
    if key not in _opened or (
        store.file is not None and not store.file.stat().st_size
    ):  # the database was deleted, and the probe has created an empty file
        _opened[key] = _open_first(key)
    return _opened[key]


def opened_experiment(store: Store) -> str | None:
    """Return the number of the experiment if this process has opened the store."""
    client_and_number = _opened.get(replace(store, parent_run_id=None))
    return None if client_and_number is None else client_and_number[1]


def find_store(store: Store) -> tuple[Any, str] | None:
    """Return a client and the experiment's id; None if there is no such experiment. Creates
    nothing."""
    if store.file is not None and not (store.file.exists() and store.file.stat().st_size):
        return None
    probe(store)
    import_mlflow(store)
    client = open_client(store.uri, "tracking.uri")
    experiment = client.get_experiment_by_name(store.experiment)
    is_missing = experiment is None or experiment.lifecycle_stage != "active"
    return None if is_missing else (client, experiment.experiment_id)


def _open_first(store: Store) -> tuple[Any, str]:
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
            return client, experiment.experiment_id
        # A server keeps files itself; for a database, MLflow would put them in the working
        # directory.
        artifacts = (output_dir.resolve() / "mlartifacts").as_uri() if uri.startswith(DATABASES) else None
        return client, _create_experiment(client, name, artifacts)


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


def probe(store: Store) -> None:
    """Check that the store is reachable: MLflow's own errors are long, and take minutes.

    The caller puts the error into words, because only the caller knows which results are safe.
    """
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


def clear_errors(uri: str | None, kept: Path | None = None) -> AbstractContextManager[None]:
    """Turn an error of the store into one message that says how to fix it and what is safe."""

    def compose(text: str) -> str:
        if "locked" in text:
            text = "the database is locked by another program: close it, or wait, and run again"
        elif "readonly" in text or "unable to open" in text or "Permission" in text:
            text += ". Give a store you may write: tracking.uri=sqlite:////PATH.db, or tracking=none"
        safe = (
            f" The result is kept in {kept}; the same command logs it without running it again"
            if kept
            else ""
        )
        return f"MLflow at {without_secrets(uri or '')} cannot be reached or written: {text}.{safe}"

    return one_message(compose)
