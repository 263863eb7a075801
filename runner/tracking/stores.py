"""Which MLflow store is used: by the config, a command's options or MLflow's variables."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runner.config.root import RunnerConfig
from runner_base import without_secrets
from runner_base.environment import variable
from runner_base.errors import refuse_password
from runner_base.uris import sqlite_path, sqlite_uri

URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "runner"
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
