"""The only writer to MLflow. A job is one run: params, batched metrics, evidence as artifacts, a true status.

MLflow is imported inside the functions: it costs more than a second, and a job answered from the ledger or run
with tracking=none must not pay for it.
"""

from __future__ import annotations

import logging
import math
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO

from runner.config.root import RunnerConfig
from runner.core import machine
from runner.core.errors import TrackingError
from runner.core.result import Record, Status
from runner.store.jobs import Job, hold
from runner.store.mlflow_store import Store, clear_errors, open_store, store_of

log = logging.getLogger(__name__)

MAX_PARAM_CHARACTERS = 6000  # MLflow cuts longer values with a warning; the whole config is an artifact
GRIDS = ".grids"  # in output_dir: a file for each running grid
PARAMS_A_CALL, METRICS_A_CALL = 100, 1000  # limits of MLflow's log_batch


@dataclass
class Tracker:
    """One job's run in MLflow, or nothing at all with tracking=none."""

    uri: str | None = None
    client: Any = None
    run_id: str | None = None
    problem: TrackingError | None = None  # why nothing can be logged, though something should be
    alive: TextIO | None = None  # held while a grid's process lives


def start(store: Store | None, job: Job, record: Record) -> Tracker:
    """Open MLflow and start the job's run; says what is wrong before anything expensive happens."""
    if store is None:
        return Tracker()
    with clear_errors(store.uri):
        client, experiment_id = open_store(store)
        from mlflow.entities import Param  # after its settings, which opening the store has made

        begun = job.folder / ".begun"
        if begun.exists():  # and whoever began it is gone, perhaps before it wrote anything else
            _end_running(store, "job_id", job.job_id, Status.KILLED, job.folder)
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
        params = [Param(_legal(key), value[:MAX_PARAM_CHARACTERS]) for key, value in record.params.items()]
        for begin in range(0, len(params), PARAMS_A_CALL):
            client.log_batch(run_id, params=params[begin : begin + PARAMS_A_CALL])
    return Tracker(store.uri, client, run_id)


def finish(tracker: Tracker, job: Job, record: Record) -> None:
    """Log metrics, evidence and status; when MLflow fails here, the result is on disk and stays there."""
    if tracker.problem is not None:
        raise tracker.problem
    if tracker.client is None:
        return
    from mlflow.entities import Metric, RunTag

    client, run_id, result = tracker.client, tracker.run_id, record.result
    now_ms = int(time.time() * 1000)
    metrics = [Metric(_legal(key), value, now_ms, 0) for key, value in result.metrics.items() if math.isfinite(value)]
    tags = [RunTag(_legal(f"fact.{key}"), value[:8000]) for key, value in result.facts.items()]
    tags += [RunTag("notes", "\n".join(result.notes)[:8000])] if result.notes else []
    with clear_errors(tracker.uri, kept=job.folder):
        for begin in range(0, len(metrics), METRICS_A_CALL):
            client.log_batch(run_id, metrics=metrics[begin : begin + METRICS_A_CALL])
        client.log_batch(run_id, tags=tags)
        for file in sorted(job.folder.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                client.log_artifact(run_id, str(file))
        client.set_terminated(run_id, record.status.value)


def start_grid(config: RunnerConfig, overrides: list[str], plan: list[dict[str, Any]]) -> Tracker:
    """Open the run that a grid's jobs stand below: the plan, the overrides, what it runs on."""
    store = store_of(config)
    if store is None:
        return Tracker()
    with clear_errors(store.uri):
        end_dead_grids(config)
        client, experiment_id = open_store(store)
        alive = hold(store.output_dir / GRIDS / uuid.uuid4().hex)
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
        with clear_errors(tracker.uri):
            tracker.client.log_dict(tracker.run_id, {"jobs": plan}, "plan.json")
            tracker.client.set_terminated(tracker.run_id, status.value)
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
            with suppress(OSError), hold(file, wait=False):  # refused while its process lives
                _end_running(store, "grid", file.name, Status.KILLED)
                file.unlink(missing_ok=True)
        except TrackingError as error:
            log.warning("%s", error)


def _end_running(store: Store, tag: str, value: str, status: Status, folder: Path | None = None) -> None:
    """End the runs with this tag that a dead process left RUNNING; of a job's, those of this folder only."""
    with clear_errors(store.uri):
        client, experiment_id = open_store(store)
        for run in client.search_runs([experiment_id], f"tags.{tag} = '{value}' and attributes.status = 'RUNNING'"):
            if folder is None or run.data.tags.get("output_dir") == str(folder):
                client.set_terminated(run.info.run_id, status.value)


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
    with clear_errors(store.uri):
        client, experiment_id = open_store(store)
        query = f"attributes.run_id = '{run_id}' and attributes.status = 'FINISHED'"
        return bool(client.search_runs([experiment_id], query))


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
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def end_dead_runs(config: RunnerConfig, job: Job, status: Status) -> None:
    """End the runs of this job that a dead process left RUNNING; the caller holds the job, so nobody is running it."""
    store = store_of(config)
    if store is not None:
        _end_running(store, "job_id", job.job_id, status, job.folder)


def _legal(key: str) -> str:
    """Keep to the characters that MLflow allows in a name."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
