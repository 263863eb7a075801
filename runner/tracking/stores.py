"""Selects the MLflow store from config, command options or MLflow's environment variables."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runner.config.root import RunnerConfig
from runner_base import redact_secrets
from runner_base.environment import get_variable
from runner_base.errors import reject_password_in_uri
from runner_base.uris import sqlite_path, sqlite_uri

URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "runner"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # the beginnings of uris of databases


@dataclass(frozen=True)
class Store:
    """An MLflow store, one of its experiments, and the parent run of a grid's jobs."""

    uri: str
    experiment: str
    output_dir: Path
    parent_run_id: str | None = None
    traces: bool = False  # whether each sample is logged as a trace

    def __post_init__(self) -> None:
        reject_password_in_uri("tracking.uri", self.uri)

    @property
    def redacted_uri(self) -> str:
        """The store's uri without secrets, which may be printed and recorded."""
        return redact_secrets(self.uri)

    @cached_property
    def sqlite_file(self) -> Path | None:
        """The store's sqlite file. None for other stores."""
        return sqlite_path(self.uri)

    @cached_property
    def is_folder_database(self) -> bool:
        """Whether the store is the output folder's own database, which moves with the folder."""
        file, own = self.sqlite_file, self.output_dir / "mlflow.db"
        return file is not None and file.name == own.name and file.parent.resolve() == own.parent.resolve()


def store_from_config(config: RunnerConfig) -> Store | None:
    """Return the MLflow store that a job's config names. None with tracking=none."""
    tracking = config.tracking  # its defaults are MLflow's variables, see conf/tracking/sqlite.yaml
    if tracking.name == "none":
        return None
    output_dir = Path(config.output_dir).expanduser().absolute()
    uri = _with_absolute_sqlite_path(tracking.uri or default_sqlite_uri(output_dir))
    return Store(uri, tracking.experiment, output_dir, tracking.parent_run_id, tracking.traces)


def store_from_options(output_dir: Path, uri: str | None, experiment: str | None) -> Store:
    """Return the MLflow store from a command's options, otherwise from MLflow's variables, otherwise
    sqlite in output_dir.
    """
    uri = uri or get_variable(URI_VARIABLE) or default_sqlite_uri(output_dir)
    return Store(
        _with_absolute_sqlite_path(uri),
        experiment or get_variable(EXPERIMENT_VARIABLE) or EXPERIMENT,
        output_dir,
    )


def default_sqlite_uri(output_dir: Path) -> str:
    """Return the uri of the sqlite store of an output folder."""
    return sqlite_uri(output_dir / "mlflow.db")


def ui_url_or_command(uri: str) -> str:
    """Return a server's URL, or the command that opens MLflow's web interface for the store."""
    shown = redact_secrets(uri)
    if shown.startswith(("http://", "https://")):
        return shown
    file = sqlite_path(shown)
    backend = shown if file is None else sqlite_uri(relative_to_cwd(file))
    return shlex.join(["mlflow", "ui", "--backend-store-uri", backend])


def compare_command(store: Store) -> str:
    arguments = ["runner-compare"]
    if (folder := os.path.relpath(store.output_dir)) != "outputs":
        arguments += ["--output-dir", folder]
    if not store.is_folder_database or get_variable(URI_VARIABLE):
        arguments += ["--tracking-uri", store.redacted_uri]
    if store.experiment != EXPERIMENT or get_variable(EXPERIMENT_VARIABLE):
        arguments += ["--experiment", store.experiment]
    return shlex.join(arguments)


def relative_to_cwd(path: Path) -> Path:
    """Return a path relative to the working directory if the path is inside it. Other paths are
    unchanged.
    """
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative)


def _with_absolute_sqlite_path(uri: str) -> str:
    """Return a sqlite store's uri with an absolute path. Other uris are unchanged."""
    file = sqlite_path(uri)
    return uri if file is None or file.is_absolute() else sqlite_uri(Path.cwd() / file)
