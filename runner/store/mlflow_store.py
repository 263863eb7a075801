"""The MLflow store: which one is meant, how it is opened or made, and its errors in one message.

MLflow is imported inside the functions: it costs more than a second.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runner.config.root import RunnerConfig
from runner.core.environment import variable
from runner.core.errors import ConfigError, TrackingError, cannot_write, refuse_password
from runner.core.files import hold
from runner.core.uris import sqlite_path, sqlite_uri, without_secrets
from runner.store import moved

URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "runner"
STORE_MODULES = ("mlflow", "sqlalchemy", "alembic", "requests", "sqlite3")  # whose exceptions say that a store failed
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # how a uri begins that names no server
ANSWER_S = 10  # a server that says nothing for so long is not there
AWAY_S = 60.0  # how long it is then taken to be away, before it is asked again


@dataclass(frozen=True)
class Store:
    """Where runs go: an MLflow store, an experiment in it, and the run that a grid's jobs stand below."""

    uri: str
    experiment: str
    output_dir: Path
    parent_run_id: str | None = None

    def __post_init__(self) -> None:
        refuse_password("tracking.uri", self.uri)

    @property
    def shown(self) -> str:
        """The uri as it may be shown and written down."""
        return without_secrets(self.uri)

    @property
    def is_own(self) -> bool:
        """Whether it is the database of the output folder, which moves with it."""
        file = sqlite_path(self.uri)
        own = self.output_dir / "mlflow.db"
        return file is not None and file.name == own.name and file.parent.resolve() == own.parent.resolve()


def store_of(config: RunnerConfig) -> Store | None:
    """Return where results are logged; None with tracking=none."""
    tracking = config.tracking  # whose defaults are MLflow's variables, see conf/tracking/sqlite.yaml
    if tracking.name == "none":
        return None
    output_dir = Path(config.output_dir).expanduser().absolute()
    uri = _absolute(tracking.uri or default_uri(output_dir))
    return Store(uri, tracking.experiment, output_dir, tracking.parent_run_id)


def chosen(output_dir: Path, uri: str | None, experiment: str | None) -> Store:
    """Return the store that a command means: what it says, else MLflow's variables, else sqlite in output_dir."""
    uri = uri or variable(URI_VARIABLE) or default_uri(output_dir)
    return Store(_absolute(uri), experiment or variable(EXPERIMENT_VARIABLE) or EXPERIMENT, output_dir)


def default_uri(output_dir: Path) -> str:
    """Return the sqlite store of an output folder."""
    return sqlite_uri(output_dir / "mlflow.db")


def see_all(uri: str) -> str:
    """Return what shows the runs of a store: the address of a server, or a command to paste."""
    shown = without_secrets(uri)
    if shown.startswith(("http://", "https://")):
        return shown
    file = sqlite_path(shown)
    place = shown if file is None else sqlite_uri(near(file))
    return shlex.join(["mlflow", "ui", "--backend-store-uri", place])


def compare_command(store: Store) -> str:
    """Return the command that compares the runs of a store."""
    words = ["runner-compare"]
    if (folder := os.path.relpath(store.output_dir)) != "outputs":
        words += ["--output-dir", folder]
    if not store.is_own or variable(URI_VARIABLE):
        words += ["--tracking-uri", store.shown]
    if store.experiment != EXPERIMENT or variable(EXPERIMENT_VARIABLE):
        words += ["--experiment", store.experiment]
    return shlex.join(words)


def near(path: Path) -> Path:
    """Write a path relative to the working directory when it lies below it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative)


def _absolute(uri: str) -> str:
    """Write an sqlite store so that it means the same from every folder."""
    file = sqlite_path(uri)
    return uri if file is None or file.is_absolute() else sqlite_uri(Path.cwd() / file)


def calm_mlflow() -> None:
    """Set MLflow's variables before it is imported: no calls home, nothing on stdout, no minutes of waiting."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(ANSWER_S))


_opened: dict[Store, tuple[Any, str]] = {}  # a worker does many jobs with one store


def open_store(store: Store) -> tuple[Any, str]:
    """Return a client and the experiment's id, both made where they are missing; opened once a process."""
    key = replace(store, parent_run_id=None)
    probe(store.uri)
    file = sqlite_path(store.uri)
    if key not in _opened or (file is not None and not file.stat().st_size):  # deleted since, and made by the probe
        _opened[key] = _open_first(key)
    return _opened[key]


def find_store(store: Store) -> tuple[Any, str] | None:
    """Return a client and the experiment's id; None where there is no such experiment (any more). Makes nothing."""
    file = sqlite_path(store.uri)
    if file is not None and not (file.exists() and file.stat().st_size):
        return None
    calm_mlflow()
    probe(store.uri)
    client = open_client(store.uri, "tracking.uri")
    found = client.get_experiment_by_name(store.experiment)
    return None if found is None or found.lifecycle_stage != "active" else (client, found.experiment_id)


def _open_first(store: Store) -> tuple[Any, str]:
    """Open the store; one process at a time, because creating a database is a race."""
    uri, output_dir, name = store.uri, store.output_dir, store.experiment
    calm_mlflow()
    try:
        lock = hold(output_dir / ".mlflow.lock")
    except OSError as error:
        raise cannot_write(output_dir / ".mlflow.lock", error) from error
    with lock:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow  # noqa: F401  # it sets up the loggers that are quietened next

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # we say it ourselves, without a trace
        _create_sqlite(uri)
        if store.is_own:
            moved.mend(output_dir)
        client = open_client(uri, "tracking.uri")
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            refuse_deleted(store, experiment.lifecycle_stage, experiment.experiment_id)
            return client, experiment.experiment_id
        # A server keeps files itself; for a database of one's own MLflow would put them where the command was given.
        artifacts = (output_dir.resolve() / "mlartifacts").as_uri() if uri.startswith(DATABASES) else None
        return client, _create_experiment(client, name, artifacts)


def refuse_deleted(store: Store, stage: str, experiment_id: object) -> None:
    """Raise ConfigError for an experiment that was deleted in MLflow, which keeps its name."""
    if stage != "active":
        raise ConfigError(
            f"tracking.experiment={store.experiment}: it was deleted in MLflow at {store.shown}. Restore it with "
            f"`mlflow experiments restore --experiment-id {experiment_id}`, or use another name"
        )


def open_client(uri: str, key: str) -> Any:
    """Return MLflow's client for a store; `key` is where the user named it."""
    from mlflow import MlflowClient

    try:
        return MlflowClient(uri)
    except ModuleNotFoundError as missing:  # what SQLAlchemy lacks for this kind of database
        extra = " (pip install 'runner[postgres]')" if missing.name == "psycopg" else ""
        text = f"{key}={without_secrets(uri)}: this needs the package {missing.name}{extra}"
        raise ConfigError(text) from missing


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


# ----------------------------------------------------------------------------------------- is it there?


def probe(uri: str) -> None:
    """Ask briefly whether the store is there: what MLflow says of one that is not is neither short nor quick.

    What it raises is put in words by who asks: only they know what is safe.
    """
    if (file := sqlite_path(uri)) is not None:
        _probe_sqlite(file)
    elif uri.startswith(("http://", "https://")):
        _probe_server(uri)


def _probe_sqlite(file: Path) -> None:
    """Ask sqlite itself for a write lock."""
    import sqlite3

    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


_away: dict[str, tuple[float, OSError]] = {}  # servers that did not answer: when, and what was said of it


def _probe_server(uri: str) -> None:
    """Ask the server for anything; one that was away a moment ago is not waited for again by each job."""
    since, error = _away.get(uri, (-AWAY_S, None))
    if error is not None and time.monotonic() - since < AWAY_S:
        raise error
    try:
        _ask_anything(uri)
    except OSError as error:
        _away[uri] = time.monotonic(), error
        raise
    _away.pop(uri, None)


def _ask_anything(uri: str) -> None:
    """Raise OSError where a server does not answer at all; whatever it answers is for MLflow to judge."""
    import http.client  # late: together they take a while, and most stores are files
    import ssl
    import urllib.error
    import urllib.request

    parts = urlsplit(uri)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    address = place.geturl().rstrip("/") + "/health"
    unchecked = ssl._create_unverified_context()  # MLflow has settings of its own for certificates
    try:
        urllib.request.urlopen(address, timeout=ANSWER_S, context=unchecked).close()
    except (urllib.error.HTTPError, http.client.HTTPException):
        return
    except OSError as error:
        reason = getattr(error, "reason", error)  # urllib wraps what goes wrong until it is connected
        if isinstance(reason, TimeoutError):
            raise TimeoutError(f"no answer within {ANSWER_S} s") from error
        if not isinstance(reason, ssl.SSLError):
            raise


def _create_sqlite(uri: str) -> None:
    """Make a new database elsewhere and move it here whole: a kill amid MLflow's migrations spoils it for good."""
    path = sqlite_path(uri)
    if path is None or path.stat().st_size:
        return
    from mlflow import MlflowClient

    with hold(path):  # runners with other output folders may be about to make it, too
        if path.stat().st_size:
            return
        fresh = path.with_name(f".{path.name}.new")
        for leftover in (fresh, fresh.with_name(f"{fresh.name}-journal")):
            leftover.unlink(missing_ok=True)
        MlflowClient(sqlite_uri(fresh)).search_experiments(max_results=1)
        fresh.replace(path)


# ---------------------------------------------------------------------------------------------- errors


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
        raise TrackingError(compose(without_secrets(" ".join(text.split()))[:300])) from error


def clear_errors(uri: str | None, kept: Path | None = None) -> AbstractContextManager[None]:
    """Say of an error of the store what it takes to mend it, and what is safe."""

    def compose(text: str) -> str:
        if "locked" in text:
            text = "the database is locked by another program: close it, or wait, and run again"
        elif "readonly" in text or "unable to open" in text or "Permission" in text:
            text += ". Give a store you may write: tracking.uri=sqlite:////PATH.db, or tracking=none"
        safe = f" The result is kept in {kept}; the same command logs it without running it again" if kept else ""
        return f"MLflow at {without_secrets(uri or '')} cannot be reached or written: {text}.{safe}"

    return one_message(compose)
