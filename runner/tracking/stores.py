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
from runner_base.uris import format_sqlite_uri, parse_sqlite_path

URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "runner"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # the beginnings of uris of databases


@dataclass(frozen=True)
class Store:
    """An MLflow store, its experiment, and the parent run for a grid's jobs."""

    uri: str
    experiment: str
    output_dir: Path
    parent_run_id: str | None = None
    traces: bool = False  # whether each sample is logged as a trace
    progress: bool = True  # whether metrics are logged while a job runs

    def __post_init__(self) -> None:
        reject_password_in_uri("tracking.uri", self.uri)

    @property
    def redacted_uri(self) -> str:
        """The store's URI without secrets, so that the URI may be printed and recorded."""
        return redact_secrets(self.uri)

    @cached_property
    def sqlite_file(self) -> Path | None:
        """The store's sqlite file. None for other stores."""
        return parse_sqlite_path(self.uri)

    @cached_property
    def is_default_database(self) -> bool:
        """Whether the store is mlflow.db in the output folder."""
        file, own = self.sqlite_file, self.output_dir / "mlflow.db"
        return file is not None and file.name == own.name and file.parent.resolve() == own.parent.resolve()


def create_store_from_config(config: RunnerConfig) -> Store | None:
    tracking = config.tracking  # its defaults are MLflow's variables, see conf/tracking/sqlite.yaml
    if tracking.name == "none":
        return None
    output_dir = Path(config.output_dir).expanduser().absolute()
    uri = _make_sqlite_path_absolute(tracking.uri or default_sqlite_uri(output_dir))
    return Store(
        uri, tracking.experiment, output_dir, tracking.parent_run_id, tracking.traces, tracking.progress
    )


def create_store_from_options(output_dir: Path, uri: str | None, experiment: str | None) -> Store:
    """Return the MLflow store given by the command's options, by MLflow's environment variables, or by
    the output folder.
    """
    uri = uri or get_variable(URI_VARIABLE) or default_sqlite_uri(output_dir)
    return Store(
        _make_sqlite_path_absolute(uri),
        experiment or get_variable(EXPERIMENT_VARIABLE) or EXPERIMENT,
        output_dir,
    )


def default_sqlite_uri(output_dir: Path) -> str:
    return format_sqlite_uri(output_dir / "mlflow.db")


def is_server(uri: str) -> bool:
    """Return whether the address belongs to an MLflow server, and not to a database or folder."""
    return uri.startswith(("http://", "https://"))


def format_mlflow_url_or_command(uri: str) -> str:
    """Return the URL of an MLflow server, or the command that starts MLflow's web interface."""
    shown = redact_secrets(uri)
    if is_server(shown):
        return shown
    file = parse_sqlite_path(shown)
    backend = shown if file is None else format_sqlite_uri(make_relative_to_cwd(file))
    return shlex.join(["mlflow", "ui", "--backend-store-uri", backend])


def build_compare_command(store: Store) -> str:
    arguments = ["runner-compare"]
    if (folder := os.path.relpath(store.output_dir)) != "outputs":
        arguments += ["--output-dir", folder]
    if not store.is_default_database or get_variable(URI_VARIABLE):
        arguments += ["--tracking-uri", store.redacted_uri]
    if store.experiment != EXPERIMENT or get_variable(EXPERIMENT_VARIABLE):
        arguments += ["--experiment", store.experiment]
    return shlex.join(arguments)


def make_relative_to_cwd(path: Path) -> Path:
    """Shorten a path inside the working directory to a relative path. Other paths are unchanged."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative)


def _make_sqlite_path_absolute(uri: str) -> str:
    """Return a sqlite store's uri with an absolute path. Other uris are unchanged."""
    file = parse_sqlite_path(uri)
    return uri if file is None or file.is_absolute() else format_sqlite_uri(Path.cwd() / file)
