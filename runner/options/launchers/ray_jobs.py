"""Code that runs on Ray nodes: runs one job and reports its progress to the grid.

A node that shares the output folder with the grid works there. Any other node gets the
job's samples so far, works in its own folder, logs nothing, and sends the job's files back:
some during the job, all at its end. So MLflow has one writer, and a dead node leaves no run
behind.
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

from runner.config.resolved import resolve_job
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.grid.outcomes import JobOutcome, make_outcome_from_error, run_grid_job
from runner.records.job_archives import pack_job_folder, unpack_job_folder
from runner.records.jobs import RESULT, Job
from runner.run import read_inputs_and_identify_job
from runner.tasks.base import Uses, import_task_module
from runner_base import INTERRUPTED, ConfigError, ProgressState, RunnerError, Status, progress, signals
from runner_base.files import get_user_cache_folder
from runner_base.loggers import use_info_logging
from runner_base.temp_folders import create_temporary_folder

TELL_EVERY_S = 0.5  # progress, and whether to stop
SEND_EVERY_S = 10.0  # the samples of a running job
MAIN_THREAD = threading.main_thread().ident or 0  # runs the jobs


@dataclass(frozen=True)
class SharedFile:
    """File in the grid's output folder. A node that can read it shares this folder with the grid."""

    path: str
    text: str

    @property
    def shares_disk_with_grid(self) -> bool:
        """Whether this process can read the file, that is, whether it shares a disk with the grid."""
        with suppress(OSError):
            return Path(self.path).read_text(encoding="utf-8") == self.text
        return False


@dataclass(frozen=True)
class RayJobRequest:
    """A job and all data that a Ray node needs to run it."""

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
class RayJobResult:
    """Outcome and result files of a job that ran on a Ray node."""

    outcome: JobOutcome
    host: str
    job_id: str  # that of a measurement names the node's machine, too
    files: bytes | None = None  # None: they are in the folder that the node shares with the grid


class Mailbox:
    """Ray actor on the grid's node that stores the progress of running jobs and requests to stop them."""

    def __init__(self) -> None:
        self.states: dict[int, ProgressState | None] = {}
        self.files: dict[int, bytes] = {}
        self.told_to_stop = False

    def report_job_state(self, job_index: int, state: ProgressState | None, files: bytes | None) -> bool:
        """Store a job's latest progress and files. Returns True if the job has to stop."""
        self.states[job_index] = state
        if files is not None:
            self.files[job_index] = files
        return self.told_to_stop

    def drain_job_progress_and_files(self) -> tuple[dict[int, ProgressState | None], dict[int, bytes]]:
        """Return the progress and files that jobs have reported since the last call."""
        news = self.states, self.files
        self.states, self.files = {}, {}
        return news

    def request_stop(self) -> None:
        """Ask every running job to end as it would after Ctrl-C."""
        self.told_to_stop = True


@dataclass
class ProgressReporter:
    """Thread that reports a job's progress to the grid, and interrupts the job if the grid requests a
    stop.
    """

    number: int
    mailbox: Any
    samples: Job | None  # whose samples are sent while it runs
    state: ProgressState | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _sent_bytes: int = 0
    _sent_at: float = field(default_factory=time.monotonic)

    def report_progress_until_job_ends(self) -> None:
        """Report the job's progress repeatedly until the job has ended."""
        import ray

        while True:
            try:
                if ray.get(
                    self.mailbox.report_job_state.remote(self.number, self.state, self.pack_new_files())
                ):
                    signal.pthread_kill(MAIN_THREAD, signal.SIGINT)
                    return
            except ray.exceptions.RayError:  # the grid has ended, and Ray ends this process
                return
            if self._ended.wait(TELL_EVERY_S):
                return

    def pack_new_files(self) -> bytes | None:
        """Pack the job's output files for transfer. Returns None if a transfer is not due yet.

        They are sent if there are new samples and the last transfer is over 10 s ago.
        """
        if self.samples is None or time.monotonic() - self._sent_at < SEND_EVERY_S:
            return None
        path = self.samples.samples_path
        if not path.exists() or path.stat().st_size == self._sent_bytes:
            return None
        self._sent_at, self._sent_bytes = time.monotonic(), path.stat().st_size
        return pack_job_folder(self.samples, is_running=True)

    def set_state(self, state: ProgressState) -> None:
        self.state = state

    @contextmanager
    def report_progress_in_background(self) -> Iterator[None]:
        thread = threading.Thread(target=self.report_progress_until_job_ends, daemon=True)
        progress.set_progress_sink(self.set_state)
        thread.start()
        try:
            yield
        finally:
            progress.set_progress_sink(None)
            self._ended.set()
            thread.join()


def run_ray_job(request: RayJobRequest, mailbox: Any) -> RayJobResult:
    host = platform.node()
    with suppress(OSError):  # the paths of the user's command; another host may not have this folder
        os.chdir(request.working_directory)
    with signals.install_handlers_temporarily(), use_info_logging():
        if request.shared.shares_disk_with_grid:
            return RayJobResult(
                run_and_report_job(request, request.config, mailbox, None), host, request.job_id
            )
        with create_temporary_job_folder() as folder:
            job = Job(request.job_id, folder / "jobs" / request.job_id)
            config = replace(request.config, output_dir=str(folder), tracking=NoTrackingConfig())
            try:
                check_no_local_output(config)
                for job_id, files in request.evidence.items():
                    unpack_job_folder(files, Job(job_id, folder / "jobs" / job_id))
                job = resolve_job_requiring_same_files(config, job)
            except RunnerError as error:
                on_host = type(error)(f"{error} (on {host})", code=error.code)
                return RayJobResult(make_outcome_from_error(on_host), host, job.job_id)
            outcome = run_and_report_job(request, config, mailbox, job if request.sends_samples else None)
            has_run = outcome.record is not None or (job.folder / RESULT).exists()
            return RayJobResult(outcome, host, job.job_id, pack_job_folder(job) if has_run else None)


def run_and_report_job(
    request: RayJobRequest, config: RunnerConfig, mailbox: Any, samples_job: Job | None
) -> JobOutcome:
    reporter = ProgressReporter(request.number, mailbox, samples_job)
    try:
        with reporter.report_progress_in_background():
            return run_grid_job(config, request.config_yaml)
    except KeyboardInterrupt as stop:
        return JobOutcome(
            Status.KILLED, message=signals.format_interruption_message(stop), exit_code=INTERRUPTED
        )


@contextmanager
def create_temporary_job_folder() -> Iterator[Path]:
    """Yield a temporary output folder for one job. Later jobs reuse the cached hashes of its model files."""
    cache = get_user_cache_folder()
    if cache is None:  # anybody can write hashes into a shared folder for temporary files
        with create_temporary_folder(Path(tempfile.gettempdir()), "runner-job-") as folder:
            yield folder
        return
    kept = cache / "ray"
    kept.mkdir(exist_ok=True, mode=0o700)
    hashes = kept / "hashes.json"
    with create_temporary_folder(kept, "job-") as folder:
        with suppress(FileNotFoundError):
            shutil.copy2(hashes, folder / ".hashes.json")
        yield folder
        with suppress(FileNotFoundError):
            (folder / ".hashes.json").replace(hashes)


def check_no_local_output(config: RunnerConfig) -> None:
    """Raise ConfigError for a job whose output files would exist only on its Ray node."""
    if config.task.output_file is not None or hasattr(config.task, "output_dir"):
        raise ConfigError(
            (
                f"task={config.task.name} writes its files only to this Ray node. Put "
                "output_dir on a shared disk, or use hydra/launcher=workers"
            ),
            code="unsupported",
        )


def resolve_job_requiring_same_files(config: RunnerConfig, expected_job: Job) -> Job:
    """Resolve the job on this node. Raises ConfigError if model or data files differ from those of the
    grid.
    """
    _, here = read_inputs_and_identify_job(resolve_job(config))
    if here.job_id != expected_job.job_id and Uses.machine not in import_task_module(config).USES:
        raise ConfigError(
            f"job {expected_job.job_id} has other model or data files on this Ray node (job {here.job_id})",
            code="mismatch",
        )
    return here
