"""What runs on Ray's nodes: a job, and what it tells the grid while it runs.

A node that shares the output folder with the grid works there. Any other node gets the job's
samples so far, works in a folder of its own, logs nothing, and sends the job's files back: some
while it runs, all of them when it ends. MLflow then has one writer, and what a dead node had begun
leaves no run behind.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.config.resolved import resolve
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.grid.outcomes import Outcome, outcome_of_error, run_job
from runner.records.jobs import RESULT, Job
from runner.records.sent_jobs import pack, unpack
from runner.run import identify
from runner.tasks.base import Uses, task_of
from runner_base import INTERRUPTED, ConfigError, ProgressState, RunnerError, Status, progress, signals
from runner_base.files import user_cache
from runner_base.loggers import logging_progress
from runner_base.own_folders import temporary_folder

TELL_EVERY_S = 0.5  # progress, and whether to stop
SEND_EVERY_S = 10.0  # the samples of a running job
MAIN_THREAD = threading.main_thread().ident or 0  # runs the jobs


@dataclass(frozen=True)
class SharedFile:
    """A file by which a node finds out whether it shares the output folder with the grid."""

    path: str
    text: str

    @property
    def is_here(self) -> bool:
        """Whether this process sees the file that the grid has written."""
        with suppress(OSError):
            return Path(self.path).read_text(encoding="utf-8") == self.text
        return False


@dataclass(frozen=True)
class Assignment:
    """One job, with all that a node needs to run it."""

    number: int
    job_id: str
    config: RunnerConfig
    config_yaml: str
    working_directory: str
    shared: SharedFile
    # by job id: its own samples, and those of a job it needs
    evidence: dict[str, bytes] = field(default_factory=dict)
    sends_samples: bool = True  # while it runs; not if it begins anew each time


@dataclass(frozen=True)
class Delivery:
    """How a job ended on a node."""

    outcome: Outcome
    host: str
    job_id: str  # that of a measurement names the node's machine, too
    files: bytes | None = None  # None: they are in the folder that the node shares with the grid


class Mailbox:
    """An actor beside the grid: the newest word of each running job, and what the grid tells it."""

    def __init__(self) -> None:
        self.states: dict[int, ProgressState | None] = {}
        self.files: dict[int, bytes] = {}
        self.told_to_stop = False

    def tell(self, number: int, state: ProgressState | None, files: bytes | None) -> bool:
        """Take the news of a job; return whether it is to stop."""
        self.states[number] = state
        if files is not None:
            self.files[number] = files
        return self.told_to_stop

    def take(self) -> tuple[dict[int, ProgressState | None], dict[int, bytes]]:
        """Return the news of all jobs since the last call."""
        news = self.states, self.files
        self.states, self.files = {}, {}
        return news

    def stop(self) -> None:
        """Have every running job end as after Ctrl-C."""
        self.told_to_stop = True


@dataclass
class Reporter:
    """A thread that tells the grid how a job is doing, and interrupts the job when the grid says
    so."""

    number: int
    mailbox: Any
    samples: Job | None  # whose samples are sent while it runs
    state: ProgressState | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _sent_bytes: int = 0
    _sent_at: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Report until the job has ended."""
        import ray

        while True:
            try:
                if ray.get(self.mailbox.tell.remote(self.number, self.state, self.new_files())):
                    signal.pthread_kill(MAIN_THREAD, signal.SIGINT)
                    return
            except ray.exceptions.RayError:  # the grid has ended, and Ray ends this process
                return
            if self._ended.wait(TELL_EVERY_S):
                return

    def new_files(self) -> bytes | None:
        """Return the job's files if it has new samples and the last ones were sent a while ago."""
        if self.samples is None or time.monotonic() - self._sent_at < SEND_EVERY_S:
            return None
        path = self.samples.samples_path
        if not path.exists() or path.stat().st_size == self._sent_bytes:
            return None
        self._sent_at, self._sent_bytes = time.monotonic(), path.stat().st_size
        return pack(self.samples, is_running=True)

    def keep(self, state: ProgressState) -> None:
        """Take the newest progress of the job."""
        self.state = state

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report while this block runs."""
        thread = threading.Thread(target=self.run, daemon=True)
        progress.report_to(self.keep)
        thread.start()
        try:
            yield
        finally:
            progress.report_to(None)
            self._ended.set()
            thread.join()


def do_job(assignment: Assignment, mailbox: Any) -> Delivery:
    host = platform.node()
    with suppress(OSError):  # the paths of the user's command; another host may not have this folder
        os.chdir(assignment.working_directory)
    with signals.handlers_installed(), logging_progress():
        if assignment.shared.is_here:
            return Delivery(
                run_reporting(assignment, assignment.config, mailbox, None), host, assignment.job_id
            )
        with own_folder() as folder:
            job = Job(assignment.job_id, folder / "jobs" / assignment.job_id)
            config = replace(assignment.config, output_dir=str(folder), tracking=NoTrackingConfig())
            try:
                check_alone(config)
                for job_id, files in assignment.evidence.items():
                    unpack(files, Job(job_id, folder / "jobs" / job_id))
                job = same_job(config, job)
            except RunnerError as error:
                on_host = type(error)(f"{error} (on {host})", code=error.code)
                return Delivery(outcome_of_error(on_host), host, job.job_id)
            outcome = run_reporting(assignment, config, mailbox, job if assignment.sends_samples else None)
            has_run = outcome.record is not None or (job.folder / RESULT).exists()
            return Delivery(outcome, host, job.job_id, pack(job) if has_run else None)


def run_reporting(assignment: Assignment, config: RunnerConfig, mailbox: Any, samples: Job | None) -> Outcome:
    """Run the job, and tell the grid how it is doing."""
    reporter = Reporter(assignment.number, mailbox, samples)
    try:
        with reporter.reporting():
            return run_job(config, assignment.config_yaml)
    except KeyboardInterrupt as stop:
        return Outcome(Status.KILLED, message=signals.interruption_text(stop), exit_code=INTERRUPTED)


@contextmanager
def own_folder() -> Iterator[Path]:
    """Make an output folder for one job; the hashes of model files are kept for the next one."""
    cache = user_cache()
    if cache is None:  # anybody can write hashes into a shared folder for temporary files
        with temporary_folder(Path(tempfile.gettempdir()), "runner-job-") as folder:
            yield folder
        return
    kept = cache / "ray"
    kept.mkdir(exist_ok=True, mode=0o700)
    hashes = kept / "hashes.json"
    with temporary_folder(kept, "job-") as folder:
        with suppress(FileNotFoundError):
            shutil.copy2(hashes, folder / ".hashes.json")
        yield folder
        with suppress(FileNotFoundError):
            (folder / ".hashes.json").replace(hashes)


def check_alone(config: RunnerConfig) -> None:
    """Reject a job whose files would stay on this node."""
    if config.task.delivers_to is not None or hasattr(config.task, "output_dir"):
        raise ConfigError(
            f"task={config.task.name} writes files for you, and they would stay on this node: put output_dir on a disk "
            f"that all nodes share, or use hydra/launcher=workers",
            code="unsupported",
        )


def same_job(config: RunnerConfig, wanted: Job) -> Job:
    """Return the job as it is on this node; one whose model or data differ here is another job, and
    is rejected."""
    _, here = identify(resolve(config))
    if here.job_id != wanted.job_id and Uses.machine not in task_of(config).USES:
        raise ConfigError(
            f"{wanted.job_id} would be {here.job_id} on this node: its files of the model or the data are others",
            code="mismatch",
        )
    return here
