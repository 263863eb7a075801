"""Writes a job to MLflow as one run with params, metrics, artifacts and status.

logged_models and traces write the model and the samples. MLflow is imported inside the
functions: that takes more than a second, which a job that is recorded already or has
tracking=none must not spend.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from runner.records.jobs import Job
from runner.records.partial_answers import PARTIAL
from runner.tracking import logged_metrics, logged_models, pending_runs, published_index, resumed_runs, traces
from runner.tracking.connection import (
    connect_to_store,
    convert_store_errors,
    convert_store_errors_to_tracking_error,
    require_reachable_store,
)
from runner.tracking.job_progress import PREFIX as PROGRESS_PREFIX
from runner.tracking.job_progress import BackgroundSender, ProgressPoint
from runner.tracking.run_table import VERDICT_TAG
from runner.tracking.stored_runs import JOB_ID, PARENT, StoredRuns, read_stored_runs
from runner.tracking.stores import Store
from runner_base import Record, Status, TrackingError
from runner_compare import BetterDirection, find_metric

log = logging.getLogger(__name__)

MAX_TAG_CHARACTERS = 8000  # likewise
MAX_PARAM_CHARACTERS = 6000  # MLflow cuts longer values with a warning; the whole config is an artifact
PARAMS_A_CALL, METRICS_A_CALL = 100, 1000  # limits of MLflow's log_batch
COMMIT = "git.commit"


@dataclass
class JobRun:
    """A job's MLflow run."""

    store: Store
    job: Job
    client: Any
    run_id: str
    experiment_id: str
    model_id: str | None  # of the job's model in MLflow
    pending: pending_runs.PendingRun  # the run's entry until it has ended
    has_warned: bool = False  # that progress could not be logged

    def __post_init__(self) -> None:
        self._sender = BackgroundSender(self.log_progress)

    def wait_until_started(self) -> None:
        """Do nothing, because this run was started synchronously."""

    def send_progress(self, points: Sequence[ProgressPoint]) -> bool:
        """Log points in the background. Returns False if the earlier points are still being logged."""
        return self._sender.send(points)

    def log_progress(self, points: Sequence[ProgressPoint]) -> None:
        """Log points of the job's progress. If the store fails, the points are dropped with one warning."""
        file = self.store.sqlite_file
        if file is not None and not file.exists():  # a write would create an empty database
            return
        try:
            with convert_store_errors_to_tracking_error(self.store):
                self.client.log_batch(self.run_id, metrics=_build_progress_metrics(points))
        except TrackingError as error:
            if not self.has_warned:
                log.warning("progress not logged: %s", error)
            self.has_warned = True

    def log_result(self, record: Record, progress: Sequence[ProgressPoint] = ()) -> None:
        """Log metrics, artifacts and status, with the last points of the job's progress."""
        from mlflow.entities import Metric, RunTag

        client, run_id, job, result = self.client, self.run_id, self.job, record.result
        # MLflow keeps a number once, however often it is logged with the same time
        ended_ms = _get_run_end_time_ms(record)
        name, digest = _dataset_name_and_digest(record.data) if record.data else (None, None)
        about = {"model_id": self.model_id, "dataset_name": name, "dataset_digest": digest, "run_id": run_id}
        finite = {key: value for key, value in result.metrics.items() if math.isfinite(value)}
        shown = logged_metrics.select_logged_metrics(finite)
        metrics = [
            Metric(sanitize_mlflow_name(key), value, ended_ms, 0, **(about if _is_model_metric(key) else {}))
            for key, value in shown.items()
        ]
        for key, points in result.series.items():
            metrics += [
                Metric(sanitize_mlflow_name(key), value, ended_ms, step)
                for step, value in points
                if math.isfinite(value)
            ]
        metrics += _build_progress_metrics(progress)
        tags = [RunTag(key, value) for key, value in build_run_tags(job, record).items()]
        tags += [RunTag("notes", "\n".join(result.notes)[:8000])] if result.notes else []
        if left_out := len(finite) - len(shown):
            tags.append(RunTag(logged_metrics.LEFT_OUT, str(left_out)))
        self._sender.wait()
        with require_reachable_store(self.store, result_folder=job.folder):
            for begin in range(0, len(metrics), METRICS_A_CALL):
                client.log_batch(run_id, metrics=metrics[begin : begin + METRICS_A_CALL])
            client.log_batch(run_id, tags=tags)
            for file in sorted(job.folder.iterdir()):
                if file.is_file() and not file.name.startswith(".") and file.name != PARTIAL:
                    client.log_artifact(run_id, str(file))
            if self.store.traces and record.status is Status.FINISHED:
                traces.log_traces(self.store.uri, self.experiment_id, run_id, record, job.folder)
            client.set_terminated(run_id, record.status.value)
            published_index.add_run_to_index(self.store, client, run_id)
        pending_runs.remove_pending_run(job.folder / pending_runs.FILE, self.pending)

    def end_run_without_record(self, status: Status) -> None:
        """End the MLflow run of a job whose folder was deleted."""
        file = self.store.sqlite_file
        if file is not None and not file.exists():
            return
        with require_reachable_store(self.store):
            self.client.set_terminated(self.run_id, status.value)


def start_job_run(store: Store, job: Job, record: Record, is_resumed: bool = False) -> JobRun:
    """Open MLflow and start the job's run.

    Store errors are raised here, before any expensive work.

    A resumed job continues its earlier run.
    """
    with connect_to_store(store) as (client, experiment_id):
        if store.parent_run_id is None:
            end_runs_of_dead_processes(store, job)
        else:  # the grid has read the runs of all its jobs at once
            pending_runs.end_pending_runs(job.folder / pending_runs.FILE, store.output_dir, Status.KILLED)
        pending = pending_runs.add_pending_run(job.folder / pending_runs.FILE, store)
        tags = build_run_tags(job, record) | {
            pending_runs.TAG: pending.tag,
            "mlflow.runName": record.name or job.job_id,
            "mlflow.source.name": "runner",
        }
        if COMMIT in record.versions:
            tags["mlflow.source.git.commit"] = record.versions[COMMIT]
        if store.parent_run_id is not None:
            tags[PARENT] = store.parent_run_id
        params = build_run_params(record)
        begun = (
            resumed_runs.reopen_interrupted_run(client, experiment_id, tags, params) if is_resumed else None
        )
        run_id = (
            resumed_runs.create_run_once(client, experiment_id, tags)
            if begun is None
            else str(begun.info.run_id)
        )
        there = {} if begun is None else begun.data.params
        log_params(client, run_id, {key: value for key, value in params.items() if key not in there})
        model_id = logged_models.log_model(client, store, experiment_id, run_id, record)
        if begun is None or not (begun.inputs and begun.inputs.dataset_inputs):
            _log_run_inputs(client, run_id, record.data, model_id)
    return JobRun(store, job, client, run_id, experiment_id, model_id, pending)


def log_params(client: Any, run_id: str, params: Mapping[str, str]) -> None:
    """Log the params of a run. MLflow does not allow changes to logged params."""
    from mlflow.entities import Param  # after opening the store, which sets MLflow's variables

    given = [Param(sanitize_mlflow_name(key), value[:MAX_PARAM_CHARACTERS]) for key, value in params.items()]
    for begin in range(0, len(given), PARAMS_A_CALL):
        client.log_batch(run_id, params=given[begin : begin + PARAMS_A_CALL])


def log_metrics_and_tags(
    client: Any, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]
) -> None:
    from mlflow.entities import Metric, RunTag

    now_ms = int(time.time() * 1000)
    numbers = [
        Metric(sanitize_mlflow_name(key), value, now_ms, 0)
        for key, value in metrics.items()
        if math.isfinite(value)
    ]
    client.log_batch(
        run_id, metrics=numbers, tags=[RunTag(key, value[:MAX_TAG_CHARACTERS]) for key, value in tags.items()]
    )


def build_run_params(record: Record) -> dict[str, str]:
    """Return the params of a job's run, with names and lengths that MLflow accepts."""
    return {sanitize_mlflow_name(key): value[:MAX_PARAM_CHARACTERS] for key, value in record.params.items()}


def build_run_tags(job: Job, record: Record) -> dict[str, str]:
    facts = {sanitize_mlflow_name(f"fact.{key}"): value[:8000] for key, value in record.result.facts.items()}
    return facts | {
        JOB_ID: job.job_id,
        "task": record.task,
        "task_version": str(record.task_version),
        "output_dir": os.path.realpath(job.folder),
    }


def build_run_metrics(record: Record) -> dict[str, float]:
    """Return the finite metrics of a job. Of a series of values, the last value is returned."""
    finite = {
        key: [point for point in points if math.isfinite(point[1])]
        for key, points in record.result.series.items()
    }
    values = record.result.metrics | {key: max(points)[1] for key, points in finite.items() if points}
    return {sanitize_mlflow_name(key): float(value) for key, value in values.items() if math.isfinite(value)}


def end_runs_of_dead_processes(store: Store, job: Job) -> StoredRuns:
    """End the MLflow runs that dead processes of a job left RUNNING. Returns all runs of the job.

    The caller holds the job's lock.
    """
    pending_runs.end_pending_runs(job.folder / pending_runs.FILE, store.output_dir, Status.KILLED)
    may_know = store.sqlite_file is not None and store.parent_run_id is None
    if may_know and (noted := published_index.find_current_published_entry(store, job.job_id)) is not None:
        # without MLflow, whose import takes seconds
        return StoredRuns({job.job_id: {noted.mlflow_id: noted.parent}})
    stored = read_stored_runs(store, [job.job_id])
    dead = (run for run, tags in stored.running.items() if pending_runs.belongs_to_output_folder(store, tags))
    pending_runs.end_running_runs(store, dead, Status.KILLED)
    return stored


def move_below_parent(store: Store, run_id: str) -> None:
    with connect_to_store(store) as experiment:
        experiment.client.set_tag(run_id, PARENT, store.parent_run_id)


def cache_run_id(store: Store, job_or_grid_id: str, run_id: str) -> None:
    """Cache the run id of a job or grid. The cached id is valid until the store changes."""
    noted = published_index.find_current_published_entry(store, job_or_grid_id)
    if noted is None or noted.mlflow_id != run_id:
        with connect_to_store(store) as experiment:
            published_index.add_run_to_index(store, experiment.client, run_id)


def _log_run_inputs(client: Any, run_id: str, data: dict[str, str], model_id: str | None) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput
    from mlflow.exceptions import MlflowException

    inputs = []
    if data:
        data_set = Dataset(*_dataset_name_and_digest(data), data["source_type"], data["source"])
        inputs.append(DatasetInput(data_set, [InputTag("mlflow.data.context", "eval")]))
    models = [LoggedModelInput(model_id)] if model_id is not None else None
    if not inputs and not models:
        return
    try:
        client.log_inputs(run_id, inputs, models)
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
            raise
        # MLflow looks for the data set and then inserts it: of two processes that do so at once,
        # one fails, and finds the other's data set when it tries again.
        client.log_inputs(run_id, inputs, models)


def _dataset_name_and_digest(data: dict[str, str]) -> tuple[str, str]:
    """Return the name and digest of a data set, cut to the lengths that MLflow allows."""
    return data["name"][:500], data["digest"][:36]


def log_missing_traces(store: Store, run_id: str, record: Record, job: Job) -> None:
    """Log the samples of a recorded job as traces, unless the run already has traces."""
    with connect_to_store(store) as experiment:
        traces.log_traces(store.uri, experiment.id, run_id, record, job.folder)


def _build_progress_metrics(points: Sequence[ProgressPoint]) -> list[Any]:
    """Return MLflow metrics of which each step is a number of answered questions."""
    from mlflow.entities import Metric

    return [
        Metric(sanitize_mlflow_name(PROGRESS_PREFIX + key), value, point.time_ms, point.num_answered)
        for point in points
        for key, value in point.metrics.items()
        if math.isfinite(value)
    ]


def _get_run_end_time_ms(record: Record) -> int:
    """Return the end time of a job in ms.

    If an old record has no start time, the current time is returned.
    """
    if not record.started_at:
        return int(time.time() * 1000)
    return int((datetime.fromisoformat(record.started_at).timestamp() + record.seconds) * 1000)


def log_comparison_files(
    client: Any, run_id: str, folder: Path, names: list[str], artifact_path: str
) -> None:
    """Copy comparison files to a run's artifacts, replacing files with the same names."""
    with convert_store_errors(lambda text: f"cannot log the comparison to run {run_id}: {text}"):
        for name in names:
            client.log_artifact(run_id, str(folder / name), artifact_path)


def log_verdict(client: Any, run_id: str, verdict: str, numbers: Mapping[str, float]) -> None:
    """Add a gate's verdict to a run as a tag, and its numbers as metrics."""
    with convert_store_errors(lambda text: f"cannot log the verdict to run {run_id}: {text}"):
        client.set_tag(run_id, VERDICT_TAG, verdict)
        for key, value in numbers.items():
            client.log_metric(run_id, key, value)


def _is_model_metric(key: str) -> bool:
    """Return whether MLflow also shows this metric on the model's page and the data set's page."""
    return "/" not in key and find_metric(key).better is not BetterDirection.neither


@cache
def sanitize_mlflow_name(key: str) -> str:
    """Replace all characters in a name that MLflow does not allow."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
