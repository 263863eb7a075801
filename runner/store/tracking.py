"""The only writer to MLflow. A job is one run: params, batched metrics, evidence as artifacts, a true status.

MLflow is imported inside the functions: it costs more than a second, and a job answered from the ledger or run
with tracking=none must not pay for it.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from runner.config.root import RunnerConfig
from runner.core.errors import TrackingError
from runner.core.fields import choice_of
from runner.core.result import Record, Status
from runner.core.uris import without_secrets
from runner.store import pending_runs
from runner.store.jobs import Job
from runner.store.look import PARENT, StoredRuns, look
from runner.store.mlflow_store import Store, clear_errors, open_store, probe

MAX_PARAM_CHARACTERS = 6000  # MLflow cuts longer values with a warning; the whole config is an artifact
PARAMS_A_CALL, METRICS_A_CALL = 100, 1000  # limits of MLflow's log_batch
COMMIT = "git.commit"


@dataclass
class Tracker:
    """One job's run in MLflow, or nothing at all with tracking=none."""

    store: Store | None = None
    client: Any = None
    run_id: str | None = None
    problem: TrackingError | None = None  # why nothing can be logged, though something should be
    mark: pending_runs.PendingRun | None = None  # of the run, until it has ended

    @property
    def uri(self) -> str | None:
        """The store's uri, as it may be written down."""
        return self.store.shown if self.store else None


def start(store: Store | None, job: Job, record: Record) -> Tracker:
    """Open MLflow and start the job's run; says what is wrong before anything expensive happens."""
    if store is None:
        return Tracker()
    with clear_errors(store.uri):
        if store.parent_run_id is None:
            end_dead(store, job)
        else:  # a grid has asked the store for all of its jobs at once
            pending_runs.end_dead(job.folder / pending_runs.FILE, store.output_dir, Status.KILLED)
        client, experiment_id = open_store(store)
        from mlflow.entities import Param  # after its settings, which opening the store has made

        mark = pending_runs.add(job.folder / pending_runs.FILE, store)
        tags = {
            "job_id": job.job_id,
            "task": record.task,
            "task_version": str(record.task_version),
            "output_dir": os.path.realpath(job.folder),
            pending_runs.TAG: mark.tag,
            "mlflow.runName": record.name or job.job_id,
            "mlflow.source.name": "runner",
        }
        if COMMIT in record.versions:
            tags["mlflow.source.git.commit"] = record.versions[COMMIT]
        if store.parent_run_id is not None:
            tags[PARENT] = store.parent_run_id
        run_id = client.create_run(experiment_id, tags=tags).info.run_id
        params = [Param(_legal(key), value[:MAX_PARAM_CHARACTERS]) for key, value in record.params.items()]
        for begin in range(0, len(params), PARAMS_A_CALL):
            client.log_batch(run_id, params=params[begin : begin + PARAMS_A_CALL])
        _log_data(client, run_id, record.data)
    return Tracker(store, client, run_id, mark=mark)


def end_dead(store: Store, job: Job) -> StoredRuns:
    """End what a dead process has left RUNNING of a job that the caller holds; return what the store has of it."""
    pending_runs.end_dead(job.folder / pending_runs.FILE, store.output_dir, Status.KILLED)
    held = look(store, job.job_id)
    dead = (run for run, tags in held.running.items() if pending_runs.is_here(store, tags))
    pending_runs.end_runs(store, dead, Status.KILLED)
    return held


def adopt(store: Store, run_id: str) -> None:
    """Let a job's run stand below the store's parent."""
    with clear_errors(store.uri):
        client, _ = open_store(store)
        client.set_tag(run_id, PARENT, store.parent_run_id)


def _log_data(client: Any, run_id: str, data: dict[str, str]) -> None:
    """Log what the questions are as MLflow's dataset input."""
    if not data:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    described = Dataset(data["name"][:500], data["digest"][:36], data["source_type"], data["source"])
    inputs = [DatasetInput(described, [InputTag("mlflow.data.context", "eval")])]
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
            raise
        # MLflow looks for the data set and then inserts it: of two processes that do so at once one is refused,
        # and finds the other's when it asks again.
        client.log_inputs(run_id, inputs)


def finish(tracker: Tracker, job: Job, record: Record) -> None:
    """Log metrics, evidence and status; when MLflow fails here, the result is on disk and stays there."""
    if tracker.problem is not None:
        raise tracker.problem
    if tracker.store is None:
        return
    from mlflow.entities import Metric, RunTag

    client, run_id, result = tracker.client, tracker.run_id, record.result
    now_ms = int(time.time() * 1000)
    metrics = [Metric(_legal(key), value, now_ms, 0) for key, value in result.metrics.items() if math.isfinite(value)]
    for key, points in result.series.items():
        metrics += [Metric(_legal(key), value, now_ms, step) for step, value in points if math.isfinite(value)]
    tags = [RunTag(_legal(f"fact.{key}"), value[:8000]) for key, value in result.facts.items()]
    tags += [RunTag("notes", "\n".join(result.notes)[:8000])] if result.notes else []
    with clear_errors(tracker.store.uri, kept=job.folder):
        probe(tracker.store.uri)
        for begin in range(0, len(metrics), METRICS_A_CALL):
            client.log_batch(run_id, metrics=metrics[begin : begin + METRICS_A_CALL])
        client.log_batch(run_id, tags=tags)
        for file in sorted(job.folder.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                client.log_artifact(run_id, str(file))
        client.set_terminated(run_id, record.status.value)
    if tracker.mark is not None:
        pending_runs.drop(job.folder / pending_runs.FILE, tracker.mark)


def run_name(config: RunnerConfig) -> str:
    """Name a run by what people pick, plain choices left out: `gsm8k embedded nf4 hard5`."""
    plain = ("none", "native", "greedy")
    names = [config.task.name, Path(config.model.name).name]
    groups = (config.quantization, config.lora, config.rope, config.generation)
    names += [group.name for group in groups if group.name not in plain]
    return " ".join([*names, config.task.subject]).strip()


def flatten(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every resolved key with its value as text."""
    assert is_dataclass(config)
    if (choice := choice_of(config)) is not None:
        yield f"{prefix}name", choice
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from flatten(value, f"{prefix}{item.name}.")
        else:
            text = _text(value)
            yield f"{prefix}{item.name}", without_secrets(text) if prefix == "tracking." else text


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _legal(key: str) -> str:
    """Keep to the characters that MLflow allows in a name."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
