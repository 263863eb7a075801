"""MLflow's runs: open the store, list finished runs and grids, fetch and log files. MLflow is imported late."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.compare.data import JOB_ID, Run
from runner.core.errors import ConfigError, TrackingError, no_driver, refuse_password, unknown

if TYPE_CHECKING:
    from mlflow import MlflowClient

    Client = MlflowClient


PARENT = "mlflow.parentRunId"
PAGE = 50_000  # runs asked for at once: the most that MLflow allows
LAST = "last"
FOLDER = "comparison"  # among the artifacts of the grid's run


def tracking_uri(output_dir: Path, given: str | None, environment: dict[str, str]) -> str:
    """Return the store to read: the one given, else the database in output_dir, else MLflow's own setting."""
    database = output_dir / "mlflow.db"
    uri = given or (f"sqlite:///{database}" if database.exists() else environment.get("MLFLOW_TRACKING_URI"))
    if not uri:
        raise ConfigError(
            f"no MLflow database at {database}: run something first, or say where it is with --output-dir or "
            "--tracking-uri"
        )
    refuse_password("--tracking-uri", uri)
    file = uri.removeprefix("sqlite:///").partition("?")[0]
    if uri.startswith("sqlite:///") and not Path(file).exists():  # MLflow would create an empty one
        raise ConfigError(f"tracking uri {uri}: there is no such file")
    return uri


def open_store(uri: str) -> Client:
    """Return a client for the store, with MLflow's own output and calls home turned off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a wrong address must not take minutes
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return MlflowClient(uri)
    except ModuleNotFoundError as error:
        raise no_driver("--tracking-uri", uri, error) from error
    except (MlflowException, SQLAlchemyError) as error:  # the latter where a file is no database at all
        raise TrackingError(f"cannot open {uri}: {brief(error)}") from error


def brief(error: Exception) -> str:
    """Return an error of MLflow or SQLAlchemy on one line: theirs run to whole paragraphs."""
    return " ".join(str(error).partition("(Background on")[0].split())[:300]


def load_runs(client: Client, experiment: str) -> list[Run]:
    """Return the finished runs, the newest first; a job that ran twice is there twice."""
    found = search(client, experiment, "attributes.status = 'FINISHED'")
    runs = [_run(item) for item in found if JOB_ID in item.data.tags]  # a grid's parent run has none
    if not runs:
        raise ConfigError(f"--experiment {experiment}: no finished run in it yet")
    return runs


def search(client: Client, experiment: str, query: str) -> list[Any]:
    """Return the runs of an experiment that MLflow finds, the newest first."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = [item.name for item in client.search_experiments()]
            raise ConfigError(f"--experiment {experiment}: {unknown('experiment', experiment, names)}")
        runs: list[Any] = []
        token = None
        while True:
            page = client.search_runs(
                [found.experiment_id],
                query,
                max_results=PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs
    except MlflowException as error:
        raise TrackingError(f"cannot read the MLflow store: {brief(error)}") from error


def _run(item: Any) -> Run:
    tags = item.data.tags
    return Run(
        run_id=item.info.run_id,
        job_id=tags[JOB_ID],
        task=tags.get("task", "unknown"),
        task_version=tags.get("task_version", ""),
        folder=tags.get("output_dir", ""),
        params=item.data.params,
        metrics=item.data.metrics,
        grid=tags.get(PARENT, ""),
        artifacts=item.info.artifact_uri or "",
    )


def download(client: Client, run_id: str, name: str, target: Path) -> Path | None:
    """Fetch one artifact of a run into a folder; None where the run has no such artifact."""
    from mlflow.exceptions import MlflowException

    target.mkdir(parents=True, exist_ok=True)
    try:
        return Path(client.download_artifacts(run_id, name, str(target)))
    except (MlflowException, OSError) as error:
        absent = isinstance(error, FileNotFoundError) or getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"
        if absent:
            return None
        raise TrackingError(f"cannot fetch {name} of run {run_id}: {brief(error)}") from error


def log(client: Client, run_id: str, folder: Path, names: list[str], target: str) -> None:
    """Copy files to a run's artifacts; what stood there under the same names is replaced."""
    from mlflow.exceptions import MlflowException

    try:
        for name in names:
            client.log_artifact(run_id, str(folder / name), target)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"cannot log the comparison to run {run_id}: {brief(error)}") from error


@dataclass
class Grid:
    """The MLflow run that is the parent of a grid's jobs."""

    run_id: str
    name: str  # the tag that the grid's process is known by
    title: str


def find_grid(client: Client, experiment: str, wanted: str) -> Grid:
    """Return the grid with this id, or the last one that was begun."""
    found = [
        Grid(item.info.run_id, item.data.tags["grid"], item.info.run_name)
        for item in search(client, experiment, "tags.grid LIKE '%'")
    ]
    if not found:
        raise ConfigError(f"--grid {wanted}: no grid in experiment {experiment} yet")
    fitting = [grid for grid in found if wanted and (grid.run_id.startswith(wanted) or grid.name.startswith(wanted))]
    if wanted == LAST:
        return found[0]
    if len(fitting) != 1:
        count = "several grids begin like that" if fitting else "no grid has this run id"
        there = ", ".join(f"{grid.run_id} ({grid.title})" for grid in (fitting or found)[:6])
        raise ConfigError(f"--grid {wanted}: {count}. Newest first: {there}")
    return fitting[0]


def runs_of(client: Client, grid: Grid, runs: list[Run], scratch: Path) -> list[Run]:
    """Return a grid's runs: those that it ran, and earlier runs of jobs that were done already."""
    mine = [run for run in runs if run.grid == grid.run_id]
    plan = download(client, grid.run_id, "plan.json", scratch / grid.run_id)
    jobs = json.loads(plan.read_text(encoding="utf-8"))["jobs"] if plan is not None else []
    earlier = {job["job_id"] for job in jobs} - {run.job_id for run in mine}
    chosen = mine + [run for run in runs if run.job_id in earlier]
    if not chosen:
        raise ConfigError(f"--grid {grid.run_id}: none of its jobs has finished")
    return chosen


def grid_to_log_to(runs: list[Run]) -> str:
    """Return the one grid that all these runs belong to."""
    found = sorted({run.grid for run in runs if run.grid})
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError("--log: these runs belong to no grid; --save FOLDER keeps the comparison in a folder")
    raise ConfigError(f"--log: these runs are of {len(found)} grids ({', '.join(found[:4])}): choose one with --grid")
