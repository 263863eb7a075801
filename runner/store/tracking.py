"""The writer to MLflow, with logged_models and traces for their parts.

A job is one run: params, batched metrics, evidence as artifacts, a true status.

MLflow is imported inside the functions: that takes more than a second, which a job that is recorded
already or has tracking=none must not spend.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.choices import own_files
from runner.config.model_names import adapter_name
from runner.config.own_notes import flat_notes
from runner.config.root import RunnerConfig
from runner.store import begun_runs, logged_metrics, logged_models, pending_runs, published, traces
from runner.store.jobs import Job
from runner.store.mlflow_store import Store, connected, one_message, reachable
from runner.store.partial import PARTIAL
from runner.store.stored_runs import JOB_ID, PARENT, StoredRuns, read_runs
from runner_base import Inert, Record, Status, TrackingError, short_name, without_secrets
from runner_base.fields import NOTES, choice_of, counts_of, default_of
from runner_compare import Better, described
from runner_engine import adapter_of
from runner_engine.quantization.base import Quantized

MAX_TAG_CHARACTERS = 8000  # likewise
MAX_PARAM_CHARACTERS = 6000  # MLflow cuts longer values with a warning; the whole config is an artifact
PARAMS_A_CALL, METRICS_A_CALL = 100, 1000  # limits of MLflow's log_batch
COMMIT = "git.commit"


@dataclass
class Tracker:
    """One job's run in MLflow, or nothing at all with tracking=none."""

    store: Store | None = None
    client: Any = None
    run_id: str | None = None
    experiment_id: str = ""
    model_id: str | None = None  # of the job's model in MLflow
    problem: TrackingError | None = None  # why the run cannot be logged
    pending: pending_runs.PendingRun | None = None  # the run's entry until it has ended

    @property
    def uri(self) -> str | None:
        """The store's uri without secrets."""
        return self.store.shown if self.store else None

    def wait(self) -> None:
        """Do nothing: the run is started."""


def start(store: Store | None, job: Job, record: Record, goes_on: bool = False) -> Tracker:
    """Open MLflow and start the job's run; raises the store's errors before anything expensive
    happens.

    A job that goes on where it was interrupted has its run again.
    """
    if store is None:
        return Tracker()
    with connected(store) as (client, experiment_id):
        if store.parent_run_id is None:
            end_dead(store, job)
        else:  # the grid has read the runs of all its jobs at once
            pending_runs.end_dead(job.folder / pending_runs.FILE, store.output_dir, Status.KILLED)
        pending = pending_runs.add(job.folder / pending_runs.FILE, store)
        tags = tags_of(job, record) | {
            pending_runs.TAG: pending.tag,
            "mlflow.runName": record.name or job.job_id,
            "mlflow.source.name": "runner",
        }
        if COMMIT in record.versions:
            tags["mlflow.source.git.commit"] = record.versions[COMMIT]
        if store.parent_run_id is not None:
            tags[PARENT] = store.parent_run_id
        params = params_of(record)
        begun = begun_runs.reopen(client, experiment_id, tags, params) if goes_on else None
        run_id = begun_runs.create(client, experiment_id, tags) if begun is None else str(begun.info.run_id)
        there = {} if begun is None else begun.data.params
        log_params(client, run_id, {key: value for key, value in params.items() if key not in there})
        model_id = logged_models.log_model(client, store, experiment_id, run_id, record)
        if begun is None or not (begun.inputs and begun.inputs.dataset_inputs):
            _log_inputs(client, run_id, record.data, model_id)
    return Tracker(store, client, run_id, experiment_id, model_id, pending=pending)


def log_params(client: Any, run_id: str, params: Mapping[str, str]) -> None:
    """Log params of a run, which cannot be changed afterwards."""
    from mlflow.entities import Param  # after opening the store, which sets MLflow's variables

    given = [Param(legal_name(key), value[:MAX_PARAM_CHARACTERS]) for key, value in params.items()]
    for begin in range(0, len(given), PARAMS_A_CALL):
        client.log_batch(run_id, params=given[begin : begin + PARAMS_A_CALL])


def log_facts(client: Any, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Log numbers and texts about a grid's run, in place of earlier ones."""
    from mlflow.entities import Metric, RunTag

    now_ms = int(time.time() * 1000)
    numbers = [
        Metric(legal_name(key), value, now_ms, 0) for key, value in metrics.items() if math.isfinite(value)
    ]
    client.log_batch(
        run_id, metrics=numbers, tags=[RunTag(key, value[:MAX_TAG_CHARACTERS]) for key, value in tags.items()]
    )


def params_of(record: Record) -> dict[str, str]:
    """Return the params of a job's run."""
    return {legal_name(key): value[:MAX_PARAM_CHARACTERS] for key, value in record.params.items()}


def tags_of(job: Job, record: Record) -> dict[str, str]:
    """Return the tags of a job's run that say what the job is, and the facts of its result."""
    facts = {legal_name(f"fact.{key}"): value[:8000] for key, value in record.result.facts.items()}
    return facts | {
        JOB_ID: job.job_id,
        "task": record.task,
        "task_version": str(record.task_version),
        "output_dir": os.path.realpath(job.folder),
    }


def metrics_of(record: Record) -> dict[str, float]:
    """Return the metrics of a job's run as MLflow shows them: of a series, the last point."""
    finite = {
        key: [point for point in points if math.isfinite(point[1])]
        for key, points in record.result.series.items()
    }
    values = record.result.metrics | {key: max(points)[1] for key, points in finite.items() if points}
    return {legal_name(key): float(value) for key, value in values.items() if math.isfinite(value)}


def end_dead(store: Store, job: Job) -> StoredRuns:
    """End the runs that a dead process left RUNNING of a job whose lock the caller holds; return
    the job's runs."""
    pending_runs.end_dead(job.folder / pending_runs.FILE, store.output_dir, Status.KILLED)
    may_know = store.file is not None and store.parent_run_id is None
    if may_know and (noted := published.unchanged(store, job.job_id)) is not None:
        # without MLflow, whose import takes seconds
        return StoredRuns({job.job_id: {noted.mlflow_id: noted.parent}})
    stored = read_runs(store, [job.job_id])
    dead = (run for run, tags in stored.running.items() if pending_runs.is_of_folder(store, tags))
    pending_runs.end_runs(store, dead, Status.KILLED)
    return stored


def move_below_parent(store: Store, run_id: str) -> None:
    """Move a job's run below the store's parent run."""
    with connected(store) as experiment:
        experiment.client.set_tag(run_id, PARENT, store.parent_run_id)


def note_found(store: Store, key: str, run_id: str) -> None:
    """Note that the store has a job's or a grid's run, so that it is not asked again while nothing
    is written there."""
    noted = published.unchanged(store, key)
    if noted is None or noted.mlflow_id != run_id:
        with connected(store) as experiment:
            published.note_run(store, experiment.client, run_id)


def _log_inputs(client: Any, run_id: str, data: dict[str, str], model_id: str | None) -> None:
    """Log the data set and the model as inputs of the run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput
    from mlflow.exceptions import MlflowException

    inputs = []
    if data:
        data_set = Dataset(*_data_key(data), data["source_type"], data["source"])
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


def _data_key(data: dict[str, str]) -> tuple[str, str]:
    """Return the name and the digest of a data set, no longer than MLflow takes them."""
    return data["name"][:500], data["digest"][:36]


def log_missing_traces(store: Store, run_id: str, record: Record, job: Job) -> None:
    """Log the samples of a recorded job as traces, unless its run has traces already."""
    with connected(store) as experiment:
        traces.log_traces(store.uri, experiment.id, run_id, record, job.folder)


def finish(tracker: Tracker, job: Job, record: Record) -> None:
    """Log metrics, evidence and status; if MLflow fails here, the result is already on disk."""
    if tracker.problem is not None:
        raise tracker.problem
    if tracker.store is None:
        return
    from mlflow.entities import Metric, RunTag

    client, run_id, result = tracker.client, tracker.run_id, record.result
    assert run_id is not None
    # MLflow keeps a number once, however often it is logged with the same time
    ended_ms = _ended_ms(record)
    name, digest = _data_key(record.data) if record.data else (None, None)
    about = {"model_id": tracker.model_id, "dataset_name": name, "dataset_digest": digest, "run_id": run_id}
    finite = {key: value for key, value in result.metrics.items() if math.isfinite(value)}
    shown = logged_metrics.logged(finite)
    metrics = [
        Metric(legal_name(key), value, ended_ms, 0, **(about if _is_linked(key) else {}))
        for key, value in shown.items()
    ]
    for key, points in result.series.items():
        metrics += [
            Metric(legal_name(key), value, ended_ms, step) for step, value in points if math.isfinite(value)
        ]
    tags = [RunTag(key, value) for key, value in tags_of(job, record).items()]
    tags += [RunTag("notes", "\n".join(result.notes)[:8000])] if result.notes else []
    if left_out := len(finite) - len(shown):
        tags.append(RunTag(logged_metrics.LEFT_OUT, str(left_out)))
    with reachable(tracker.store, kept=job.folder):
        for begin in range(0, len(metrics), METRICS_A_CALL):
            client.log_batch(run_id, metrics=metrics[begin : begin + METRICS_A_CALL])
        client.log_batch(run_id, tags=tags)
        for file in sorted(job.folder.iterdir()):
            if file.is_file() and not file.name.startswith(".") and file.name != PARTIAL:
                client.log_artifact(run_id, str(file))
        if tracker.store.traces and record.status is Status.FINISHED:
            traces.log_traces(tracker.store.uri, tracker.experiment_id, run_id, record, job.folder)
        client.set_terminated(run_id, record.status.value)
        published.note_run(tracker.store, client, run_id)
    if tracker.pending is not None:
        pending_runs.remove(job.folder / pending_runs.FILE, tracker.pending)


def end(tracker: Tracker, status: Status) -> None:
    """End the run of a job whose folder is gone, and with it the entry from which the next start
    would end it."""
    store = tracker.store
    if store is None or tracker.run_id is None or (store.file is not None and not store.file.exists()):
        return
    with reachable(store):
        tracker.client.set_terminated(tracker.run_id, status.value)


def _ended_ms(record: Record) -> int:
    """Return when a job ended, as its record says; one of an early version does not say when it
    began."""
    if not record.started_at:
        return int(time.time() * 1000)
    return int((datetime.fromisoformat(record.started_at).timestamp() + record.seconds) * 1000)


def log_files(client: Any, run_id: str, folder: Path, names: list[str], target: str) -> None:
    """Copy the files of a comparison to a run's artifacts, and replace those with the same
    names."""
    with one_message(lambda text: f"cannot log the comparison to run {run_id}: {text}"):
        for name in names:
            client.log_artifact(run_id, str(folder / name), target)


def _is_linked(key: str) -> bool:
    """Whether a metric is a quality or a cost of the model on the data, which MLflow then shows
    beside both."""
    return "/" not in key and described(key).better is not Better.neither


def run_name(config: RunnerConfig, adapter: str = "") -> str:
    """Return a run's name: the choices and keys that are not the usual ones, `gsm8k embedded nf4
    hard5 limit=20`.

    adapter: what to call its adapter, where the adapter's own name does not tell it from another.
    """
    plain = ("none", "native", "greedy")
    names = [config.task.name, short_name(config.model.name)]
    called = f"lora={adapter or adapter_name(config.lora)}" if adapter_of(config.lora) else "none"
    choices = [config.quantization.label, called, config.rope.name, config.generation.name]
    names += [choice for choice in choices if choice not in plain]
    names_and_subject = " ".join([*names, config.task.subject]).strip()
    return " ".join(
        [
            names_and_subject,
            *(
                f"{key}={value}"
                for key, value in _unusual_keys(config)
                if value not in names_and_subject.split()
            ),
        ]
    )


def _unusual_keys(config: object, usual: Mapping[str, object] | None = None) -> Iterator[tuple[str, str]]:
    """Yield each key that can change an answer and has not the default value, of its class or of
    its choice's file."""
    assert is_dataclass(config)
    for item in fields(config):
        value = getattr(config, item.name)
        counts = counts_of(item)
        is_inert = isinstance(counts, Inert) and counts.covers(value)
        if is_inert or isinstance(value, Quantized):  # its label is in the name
            continue
        if is_dataclass(value):
            yield from _unusual_keys(value, _of_file(item.name, choice_of(value)))
            continue
        default = default_of(item)
        if value not in (default, (usual or {}).get(item.name, default)):
            yield item.name, as_typed(value)


def _of_file(group: str, choice: str | None) -> dict[str, object]:
    """Return the values in the file of a choice; nothing for those of a plug-in."""
    import yaml

    path = next((file for file in own_files(group) if file.stem == choice), Path())
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def flatten(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every resolved key with its value as text."""
    assert is_dataclass(config)
    if (choice := choice_of(config)) is not None:
        yield f"{prefix}name", choice
    for item in fields(config):
        value = getattr(config, item.name)
        if not prefix and item.name == NOTES:
            yield from ((f"{NOTES}.{key}", text_of(note)) for key, note in flat_notes(value))
        elif is_dataclass(value):
            yield from flatten(value, f"{prefix}{item.name}.")
        else:
            text = as_typed(value) if prefix == "quantization." else text_of(value)
            yield f"{prefix}{item.name}", without_secrets(text) if prefix == "tracking." else text


def as_typed(value: object) -> str:
    """Return a value as on the command line, without the quotes of Python: {down_proj: int8},
    [lm_head]."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_typed(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(map(as_typed, value))}]" if isinstance(value, list) else text_of(value)


def text_of(value: object) -> str:
    """Return a value of a config as a record has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


@cache
def legal_name(key: str) -> str:
    """Replace the characters that MLflow does not allow in a name."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
