"""The story on one page: config → job → engine → task → result → MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from runner import jobs, machine, tracking
from runner.config import (
    Gsm8kConfig,
    MemoryConfig,
    MergeConfig,
    RunnerConfig,
    SplitConfig,
    SweepConfig,
)
from runner.engine import open_engine
from runner.errors import RunnerError
from runner.model import source
from runner.result import Record, Result, Status
from runner.tasks.base import Task

log = logging.getLogger(__name__)


def run(config: RunnerConfig, config_yaml: str = "") -> Record:
    """Do one job, or return what is recorded of it."""
    task = task_of(config)
    job = identify(config, task)
    with jobs.claim(job):
        if config.rerun:
            job.forget()
        done = job.recorded()
        if done is not None:
            return logged(config, task, job, done)
        return execute(config, task, job, config_yaml)


def identify(config: RunnerConfig, task: Task) -> jobs.Job:
    """Name the job by content; every file it reads is checked and hashed here, before anything is loaded."""
    hashes = Path(config.output_dir).expanduser() / ".hashes.json"
    read = source.evidence(config.model, config.lora, hashes) if task.READS_MODEL else {}
    return jobs.identify(config, task.VERSION, read | task.evidence(config), task.MEASURES)


def execute(config: RunnerConfig, task: Task, job: jobs.Job, config_yaml: str) -> Record:
    """Run the task with its engine, and record how it ended whatever happens."""
    record = Record(job.job_id, Status.FAILED, str(job.folder), Result(metrics={}), versions=machine.versions())
    record.started_at = datetime.now(UTC).isoformat(timespec="seconds")
    recorder = jobs.Recorder(job)  # reads what an interrupted run left, and refuses it when it is damaged
    tracker = tracking.start(config, job, task.VERSION)
    engine, started = open_engine(config), time.perf_counter()
    try:
        with log_file(job.folder / "log.txt"):
            jobs.write_atomically(job.folder / "config.yaml", config_yaml)
            record.result = task.execute(config, engine, recorder)
        record.status = Status.FINISHED
    except KeyboardInterrupt:
        record.status, record.error = Status.KILLED, "interrupted"
        raise
    except BaseException as error:
        record.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        recorder.close()
        engine.close()
        record.seconds = time.perf_counter() - started
        record.result.metrics["seconds"] = record.seconds
        close(tracker, job, record)
    return record


def close(tracker: tracking.Tracker, job: jobs.Job, record: Record) -> None:
    """Put the record on disk first, then into MLflow: a store that fails costs nothing that was computed."""
    try:
        job.write_record(record)
        tracking.finish(tracker, job, record)
    except RunnerError as error:
        if record.status is Status.FINISHED:
            raise
        log.error("%s", error)  # what ended the job is on its way to the user and matters more
        return
    record.mlflow_run_id, record.mlflow_uri = tracker.run_id, tracker.uri
    if record.status is Status.FINISHED:
        job.write_record(record)


def logged(config: RunnerConfig, task: Task, job: jobs.Job, record: Record) -> Record:
    """Return a recorded result, after logging it where it is not logged yet."""
    log.info("%s is already done: this is the recorded result (rerun=true does it again)", job.job_id)
    uri = tracking.tracking_uri(config)
    if uri is not None and record.mlflow_uri != uri:
        close(tracking.start(config, job, task.VERSION), job, record)
    record.from_ledger = True
    return record


def task_of(config: RunnerConfig) -> Task:
    """Pick the module that does the work; imported here, so that a job pays only for its own task."""
    match config.task:
        case Gsm8kConfig():
            from runner.tasks import gsm8k

            return gsm8k
        case SweepConfig():
            from runner.tasks import sweep

            return sweep
        case MemoryConfig():
            from runner.tasks import memory

            return memory
        case SplitConfig():
            from runner.tasks import split

            return split
        case MergeConfig():
            from runner.tasks import merge

            return merge
    raise AssertionError(f"no task for {config.task}")


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Keep what is logged during the job in its folder, too."""
    try:
        handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise jobs.cannot_write(path, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
