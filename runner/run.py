"""The story on one page: config → job → engine → task → result → MLflow."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from runner.checkpoints import resolve
from runner.config.root import RunnerConfig
from runner.config.task import (
    ArchiveConfig,
    GenerateConfig,
    Gsm8kConfig,
    MemoryConfig,
    MergeConfig,
    PipelineConfig,
    SplitConfig,
    SweepConfig,
    VerifyConfig,
)
from runner.core import machine
from runner.core.errors import ConfigError, JobHeld, RunnerError, TrackingError, cannot_write
from runner.core.result import Record, Result, Status
from runner.engines import open_engine
from runner.engines.local.base_cache import Shelf
from runner.models import capability
from runner.store import jobs, tracking
from runner.tasks.base import Delivers, Task

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a job of a grid ended, in a form that crosses processes."""

    status: Status
    record: Record | None = None
    message: str = ""
    exit_code: int = 0
    held: bool = False  # another process is doing it


def run(config: RunnerConfig, config_yaml: str = "", shelf: Shelf | None = None, wait: bool = True) -> Record:
    """Do one job, or return what is recorded of it; a shelf keeps the loaded base for the next job."""
    task = task_of(config)
    job = identify(config, task)
    with jobs.claim(job, wait):
        if must_start_anew(config, job):
            job.forget()
        done = job.recorded()
        if done is not None:
            if isinstance(task, Delivers):
                task.deliver(config, job, done.result)
            return logged(config, job, done)
        if shelf is None:  # the jobs of a grid were checked when it was planned, with nothing loaded yet
            capability.check(config)
        return execute(config, task, job, config_yaml, shelf)


def serves(config: RunnerConfig) -> int | None:
    """Serve the process that has the job and return the exit code; None in that one, and without torchrun."""
    if not (isinstance(config.task, PipelineConfig) and {"RANK", "WORLD_SIZE"} <= os.environ.keys()):
        return None
    from runner.engines.pipeline import torchrun

    return torchrun.joins(config)


def attempt(config: RunnerConfig, config_yaml: str = "", shelf: Shelf | None = None, wait: bool = True) -> Outcome:
    """Do one job of a grid: an error ends this job and no other."""
    try:
        record = run(config, config_yaml, shelf, wait)
        return Outcome(record.status, record, record.error or "", exit_code=1 if record.error else 0)
    except JobHeld as error:
        return Outcome(Status.FAILED, message=str(error), exit_code=error.exit_code, held=True)
    except NotLogged as error:
        return Outcome(Status.FINISHED, error.record, str(error))
    except RunnerError as error:
        return Outcome(Status.FAILED, message=str(error), exit_code=error.exit_code)
    except Exception as error:  # noqa: BLE001  # whatever breaks in one job must not end the grid
        return Outcome(Status.FAILED, message=f"{type(error).__name__}: {error}", exit_code=1)


def objective(record: Record) -> float:
    """Return the one number that a search maximises: accuracy, else the speed of decoding."""
    for name in ("accuracy", "best_decode_tok_per_s", "decode_tok_per_s"):
        if name in record.result.metrics:
            return record.result.metrics[name]
    raise ConfigError("this task has no number to search for: use task=gsm8k or task=sweep")


def must_start_anew(config: RunnerConfig, job: jobs.Job) -> bool:
    """Whether rerun=... asks to drop what an earlier run of this job left."""
    if isinstance(config.task, VerifyConfig):
        return True  # what was whole yesterday may be damaged today
    if config.rerun == "failed":
        last = job.last_record()
        return last is not None and last.status is Status.FAILED
    return bool(config.rerun)


def identify(config: RunnerConfig, task: Task) -> jobs.Job:
    """Name the job by content; every file it reads is checked and hashed here, before anything is loaded."""
    hashes = Path(config.output_dir).expanduser() / ".hashes.json"
    read = resolve.evidence(config.model, config.lora, hashes) if task.READS_MODEL else {}
    return jobs.identify(config, task.VERSION, read | task.evidence(config), task.MEASURES)


def execute(config: RunnerConfig, task: Task, job: jobs.Job, config_yaml: str, shelf: Shelf | None = None) -> Record:
    """Run the task with its engine, and record how it ended whatever happens."""
    record = new_record(config, job, task)
    recorder = jobs.Recorder(job)  # reads what an interrupted run left, and refuses it when it is damaged
    tracker = start_tracking(config, job, record)
    engine, started = open_engine(config, shelf), time.perf_counter()
    try:
        with log_file(job.folder / "log.txt"):
            jobs.write_atomically(job.folder / "config.yaml", config_yaml)
            record.result = task.execute(config, engine, recorder)
        record.status = Status.FAILED if record.result.problems else Status.FINISHED
        record.error = record.result.complaint
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


def new_record(config: RunnerConfig, job: jobs.Job, task: Task) -> Record:
    """Begin a job's record: FAILED until it has ended otherwise."""
    return Record(
        job.job_id,
        Status.FAILED,
        str(job.folder),
        Result(metrics={}),
        task=config.task.name,
        task_version=task.VERSION,
        name=tracking.run_name(config),
        params=dict(tracking.flatten(config)),
        versions=machine.versions(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def start_tracking(config: RunnerConfig, job: jobs.Job, record: Record) -> tracking.Tracker:
    """Start the job's run in MLflow; a grid whose store has gone away meanwhile goes on and is logged later."""
    try:
        return tracking.start(tracking.store_of(config), job, record)
    except TrackingError as error:
        if config.tracking.parent_run_id is None:
            raise
        return tracking.Tracker(None, problem=error)


def close(tracker: tracking.Tracker, job: jobs.Job, record: Record) -> None:
    """Put the record on disk first, then into MLflow: a store that fails costs nothing that was computed."""
    record.mlflow_run_id = tracker.run_id  # on disk before it is true, for who finds the run and not its mark
    try:
        job.write_record(record)
        tracking.finish(tracker, job, record)
    except RunnerError as error:
        record.mlflow_run_id = None
        if record.status is Status.FINISHED:
            raise NotLogged(error, record) if isinstance(error, TrackingError) else error from None
        log.error("%s", error)  # what ended the job is on its way to the user and matters more
        return
    record.mlflow_uri = tracker.uri
    if record.status is Status.FINISHED:
        job.write_record(record)


def bury(config: RunnerConfig, job: jobs.Job, status: Status, message: str) -> None:
    """Write down how a job ended whose process died before it could."""
    try:
        with jobs.claim(job, wait=False):
            record = job.last_record()
            if record is None or record.status is not Status.FINISHED:
                dead = new_record(config, job, task_of(config))
                job.write_record(replace(dead, status=status, error=message))
            tracking.bury(config, job, status)
    except RunnerError as error:
        log.warning("%s", error)  # someone else has the job already, or the store is gone: the next start mends it


class NotLogged(TrackingError):
    """The job is done and on disk, but MLflow could not be written."""

    def __init__(self, error: TrackingError, record: Record) -> None:
        super().__init__(str(error))
        self.record = record


def logged(config: RunnerConfig, job: jobs.Job, record: Record) -> Record:
    """Return a recorded result, after logging it where it is not logged yet."""
    log.info("%s is already done: this is the recorded result (rerun=true does it again)", job.job_id)
    store = tracking.store_of(config)
    if store is not None and record.mlflow_uri != store.uri:
        log_late(store, job, record)
    record.from_ledger = True
    return record


def log_late(store: tracking.Store, job: jobs.Job, record: Record) -> None:
    """Log a recorded result; one whose process died between the store's yes and its own note stands there already."""
    if tracking.has(store, record.mlflow_run_id):
        record.mlflow_uri = store.uri
        job.write_record(record)
    else:
        close(tracking.start(store, job, record), job, record)


def is_logged(config: RunnerConfig, record: Record) -> bool:
    """Whether a recorded result stands in the store that the config names."""
    store = tracking.store_of(config)
    return store is None or record.mlflow_uri == store.uri


def task_of(config: RunnerConfig) -> Task:
    """Pick the module that does the work; imported here, so that a job pays only for its own task."""
    match config.task:
        case Gsm8kConfig():
            from runner.tasks import gsm8k

            return gsm8k
        case GenerateConfig():
            from runner.tasks import generate

            return generate
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
        case VerifyConfig():
            from runner.tasks import verify

            return verify
        case ArchiveConfig():
            from runner.tasks import archive

            return archive
        case PipelineConfig():
            from runner.tasks import pipeline

            return pipeline
    raise AssertionError(f"no task for {config.task}")


class LogFile(logging.FileHandler):
    """A log is a help, not the evidence: on a full disk it falls silent, and the job says what is wrong."""

    def handleError(self, record: logging.LogRecord) -> None:  # logging's own name
        """Say nothing."""


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Keep what is logged during the job in its folder, too."""
    try:
        handler = LogFile(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error
    root = logging.getLogger()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    try:
        yield
    except Exception:
        about = {"name": __name__, "levelname": "ERROR", "msg": "the job failed", "exc_info": sys.exc_info()}
        handler.handle(logging.makeLogRecord(about))  # the trace goes to the file only: stderr gets one message
        raise
    finally:
        root.removeHandler(handler)
        with suppress(OSError):
            handler.close()
