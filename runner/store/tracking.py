"""The only writer to MLflow. A job is one run: params, batched metrics, evidence as artifacts, a true status.

MLflow is imported inside the functions: it costs more than a second, and a job answered from the ledger or run
with tracking=none must not pay for it.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from runner.config.root import RunnerConfig
from runner.core import machine
from runner.core.errors import TrackingError, cannot_write, check, no_driver, refuse_password
from runner.core.result import Record, Result, Status
from runner.store.jobs import Job

log = logging.getLogger(__name__)

MAX_PARAM_CHARACTERS = 6000  # MLflow cuts longer values with a warning; the whole config is an artifact
GRIDS = ".grids"  # in output_dir: a file for each running grid
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")  # how a uri begins that names no server
PARAMS_A_CALL, METRICS_A_CALL = 100, 1000  # limits of MLflow's log_batch


class Tracker:
    """One job's run in MLflow, or nothing at all with tracking=none."""

    def __init__(
        self,
        uri: str | None,
        client: Any = None,
        run_id: str | None = None,
        problem: TrackingError | None = None,
        alive: TextIO | None = None,
    ) -> None:
        self.uri, self.run_id = uri, run_id
        self.client = client
        self.problem = problem  # why nothing can be logged, though something should be
        self.alive = alive  # held while a grid's process lives

    def log(self, job: Job, result: Result) -> None:
        """Write metrics and evidence."""
        if self.client is None:
            return
        from mlflow.entities import Metric, RunTag

        now_ms = int(time.time() * 1000)
        metrics = [
            Metric(_legal(key), value, now_ms, 0) for key, value in result.metrics.items() if math.isfinite(value)
        ]
        tags = [RunTag(_legal(f"fact.{key}"), value[:8000]) for key, value in result.facts.items()]
        tags += [RunTag("notes", "\n".join(result.notes)[:8000])] if result.notes else []
        for start in range(0, len(metrics), METRICS_A_CALL):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_A_CALL])
        self.client.log_batch(self.run_id, tags=tags)
        self.log_evidence(job)

    def log_evidence(self, job: Job) -> None:
        """Copy what the job folder holds into the run's artifacts."""
        for file in sorted(job.folder.iterdir()):
            if self.client is not None and file.is_file() and not file.name.startswith("."):
                self.client.log_artifact(self.run_id, str(file))

    def end(self, status: Status) -> None:
        """Give the run its final status."""
        if self.client is not None:
            self.client.set_terminated(self.run_id, status.value)


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
    return f"sqlite:///{output_dir / 'mlflow.db'}"


def start(store: Store | None, job: Job, record: Record) -> Tracker:
    """Open MLflow and start the job's run; says what is wrong before anything expensive happens."""
    if store is None:
        return Tracker(None)
    with _clear_errors(store.uri):
        client, experiment_id = _open(store)
        begun = job.folder / ".begun"
        if begun.exists():  # and whoever began it is gone, perhaps before it wrote anything else
            _end_dead_runs(client, experiment_id, job, Status.KILLED)
        begun.touch()
        tags = {
            "job_id": job.job_id,
            "task": record.task,
            "task_version": str(record.task_version),
            "output_dir": str(job.folder),
            "mlflow.runName": record.name or job.job_id,
            "mlflow.source.name": "runner",
        }
        if store.parent_run_id is not None:
            tags["mlflow.parentRunId"] = store.parent_run_id
        run_id = client.create_run(experiment_id, tags=tags).info.run_id
        _log_params(client, run_id, record.params)
    return Tracker(store.uri, client, run_id)


def start_grid(config: RunnerConfig, overrides: list[str], plan: list[dict[str, Any]]) -> Tracker:
    """Open the run that a grid's jobs stand below: the plan, the overrides, what it runs on."""
    store = store_of(config)
    if store is None:
        return Tracker(None)
    with _clear_errors(store.uri):
        end_dead_grids(config)
        client, experiment_id = _open(store)
        alive = _hold(store.output_dir / GRIDS / uuid.uuid4().hex)
        tags = {
            "grid": Path(alive.name).name,
            "overrides": " ".join(overrides)[:8000],
            "host": socket.gethostname(),
            "mlflow.runName": f"grid of {len(plan)} jobs",
            "mlflow.source.name": "runner",
            **{f"machine.{key}": value for key, value in machine.describe().items()},
            **{f"version.{key}": value for key, value in machine.versions().items()},
            **machine.git_state(),
        }
        run_id = client.create_run(experiment_id, tags=tags).info.run_id
        client.log_dict(run_id, {"jobs": plan}, "plan.json")
    return Tracker(store.uri, client, run_id, alive=alive)


def finish_grid(tracker: Tracker, status: Status, plan: list[dict[str, Any]]) -> None:
    """End the grid's run; a store that fails here costs no result, so it is only said."""
    if tracker.client is None:
        return
    try:
        with _clear_errors(tracker.uri):
            tracker.client.log_dict(tracker.run_id, {"jobs": plan}, "plan.json")
            tracker.end(status)
            if tracker.alive is not None:
                Path(tracker.alive.name).unlink(missing_ok=True)
                tracker.alive.close()
    except TrackingError as error:
        log.warning("%s", error)


def end_dead_grids(config: RunnerConfig) -> None:
    """End the runs of this folder's grids whose process is gone; without such a grid, MLflow is not even imported."""
    store = store_of(config)
    if store is None:
        return
    for file in sorted((store.output_dir / GRIDS).glob("*")):
        try:
            with suppress(OSError), _hold(file, wait=False):  # refused while its process lives
                _end_grid(store, file.name)
                file.unlink(missing_ok=True)
        except TrackingError as error:
            log.warning("%s", error)


def _end_grid(store: Store, name: str) -> None:
    with _clear_errors(store.uri):
        client, experiment_id = _open(store)
        query = f"tags.grid = '{name}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([experiment_id], query):
            client.set_terminated(run.info.run_id, Status.KILLED.value)


def _hold(file: Path, wait: bool = True) -> TextIO:
    """Hold a file as long as this process lives: a lock that dies with it, unlike a process id that is given again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    held = file.open("a")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        held.close()
        raise
    return held


def run_name(config: RunnerConfig) -> str:
    """Name a run by what people pick, plain choices left out: `gsm8k embedded nf4 hard5`."""
    plain = ("none", "native", "greedy")
    names = [config.task.name, Path(config.model.name).name]
    groups = (config.quantization, config.lora, config.rope, config.generation)
    names += [group.name for group in groups if group.name not in plain]
    return " ".join([*names, config.task.subject]).strip()


def has(store: Store, run_id: str | None) -> bool:
    """Whether the store holds this run, FINISHED."""
    if run_id is None:
        return False
    with _clear_errors(store.uri):
        client, experiment_id = _open(store)
        query = f"attributes.run_id = '{run_id}' and attributes.status = 'FINISHED'"
        return bool(client.search_runs([experiment_id], query))


def finish(tracker: Tracker, job: Job, record: Record) -> None:
    """Log the outcome; when MLflow fails here, the result is on disk and stays there."""
    if tracker.problem is not None:
        raise tracker.problem
    with _clear_errors(tracker.uri, kept=job.folder):
        tracker.log(job, record.result)
        tracker.end(record.status)


def flatten(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every resolved key with its value as text."""
    assert is_dataclass(config)
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from flatten(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", _text(value)


def _text(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


_opened: dict[Store, tuple[Any, str]] = {}  # a worker does many jobs with one store


def _open(store: Store) -> tuple[Any, str]:
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
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = (output_dir / ".mlflow.lock").open("w")
    except OSError as error:
        raise cannot_write(output_dir / ".mlflow.lock", error) from error
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no calls out of a benchmark
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # a server that is not there is said in seconds
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _probe_sqlite(uri)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow  # noqa: F401  # it sets up the loggers that are quietened next

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # we say it ourselves, without a trace
        _create_sqlite(uri)
        client = _client(uri)
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


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    try:
        return MlflowClient(uri)
    except ModuleNotFoundError as error:
        raise no_driver("tracking.uri", uri, error) from error


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
    if not uri.startswith("sqlite:///"):
        return
    import sqlite3

    path = Path(uri.removeprefix("sqlite:///"))
    with _clear_errors(uri):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=10)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()


def _create_sqlite(uri: str) -> None:
    """Make a new database elsewhere and move it here whole: a kill amid MLflow's migrations spoils it for good."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.stat().st_size:
        return
    from mlflow import MlflowClient

    with path.open("rb") as place:
        fcntl.flock(place, fcntl.LOCK_EX)  # runners with other output folders may be about to make it, too
        if path.stat().st_size:
            return
        fresh = path.with_name(f".{path.name}.new")
        for leftover in (fresh, fresh.with_name(f"{fresh.name}-journal")):
            leftover.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{fresh}").search_experiments(max_results=1)
        fresh.replace(path)


@contextmanager
def _clear_errors(uri: str | None, kept: Path | None = None) -> Iterator[None]:
    """Turn the many ways in which a store can fail into one message that says what is safe."""
    import sqlite3

    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _failed(uri, error, kept) from error
    except Exception as error:
        # MLflow's and SQLAlchemy's exceptions, named by module so that neither has to be imported for this
        if type(error).__module__.split(".")[0] not in ("mlflow", "sqlalchemy", "alembic", "requests"):
            raise
        raise _failed(uri, error, kept) from error


def _failed(uri: str | None, error: Exception, kept: Path | None) -> TrackingError:
    text = " ".join(re.sub(r"\(Background on this error.*", "", str(error), flags=re.DOTALL).split())[:300]
    if "locked" in text:
        text = "the database is locked by another program: close it, or wait, and run again"
    elif "readonly" in text or "unable to open" in text or "Permission" in text:
        text += ". Give a store you may write: tracking.uri=sqlite:////PATH.db, or tracking=none"
    safe = f" The result is kept in {kept}; the same command logs it without running it again" if kept else ""
    return TrackingError(f"MLflow at {uri} cannot be reached or written: {text}.{safe}")


def end_dead_runs(config: RunnerConfig, job: Job, status: Status) -> None:
    """End the runs of this job that a dead process left RUNNING; the caller holds the job, so nobody is running it."""
    store = store_of(config)
    if store is None:
        return
    with _clear_errors(store.uri):
        client, experiment_id = _open(store)
        _end_dead_runs(client, experiment_id, job, status)


def _end_dead_runs(client: Any, experiment_id: str, job: Job, status: Status) -> None:
    query = f"tags.job_id = '{job.job_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], query):
        if run.data.tags.get("output_dir") == str(job.folder):
            client.set_terminated(run.info.run_id, status.value)


def _log_params(client: Any, run_id: str, params: dict[str, str]) -> None:
    from mlflow.entities import Param

    entities = [Param(_legal(key), value[:MAX_PARAM_CHARACTERS]) for key, value in params.items()]
    for begin in range(0, len(entities), PARAMS_A_CALL):
        client.log_batch(run_id, params=entities[begin : begin + PARAMS_A_CALL])


def _legal(key: str) -> str:
    """Keep to the characters that MLflow allows in a name."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
