"""Runs jobs with Hydra launchers of other packages, such as joblib or submitit.

These launchers return all results together, and none if one process dies. But each job records
its result on disk. So results are read from disk, and only jobs without a result are launched
again.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field

from hydra.conf import HydraConf
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from runner.config.hydra import format_config_as_yaml, to_runner_config
from runner.config.root import AUTO, RunnerConfig
from runner.grid.outcomes import JobOutcome, make_outcome_from_error, run_grid_job
from runner.grid.plan import PlannedJob
from runner.records.jobs import Job, lock_job
from runner.report import format_main_metrics
from runner.tracking import pending_runs
from runner_base import (
    ConfigError,
    JobAlreadyRunning,
    JobFailed,
    Record,
    RunRecordError,
    Status,
    print_message,
    progress,
    signals,
)
from runner_base.console import install_fault_tolerant_streams

log = logging.getLogger(__name__)

GRACE_S = 2.0  # for jobs to end by themselves after Ctrl-C
PARENT_KEY = "tracking.parent_run_id="  # the override that is added to each job


@dataclass
class JobDeath(JobReturn):
    """Hydra JobReturn for a job whose process died without a result."""

    how: Status = Status.FAILED
    message: str = ""

    def __post_init__(self) -> None:
        self.status, self.return_value = JobStatus.FAILED, JobFailed(self.message, code="failed")


def format_job_outcome_line(overrides: Sequence[str], result: object) -> str:
    """Format a job's overrides and outcome as one line. In a search, the line shows the objective."""
    name = " ".join(text for text in overrides if not text.startswith(PARENT_KEY))
    if isinstance(result, JobOutcome):
        failure = f"{result.status.value} {result.message}"
        return f"{name}: {format_main_metrics(result.record) if result.record else failure}"
    return f"{name}: {f'{result.how.value} {result.message}' if isinstance(result, JobDeath) else result}"


def run_launched_job(composed: DictConfig, hydra_config: HydraConf) -> JobOutcome:
    """Run one job and print its outcome at once, because many launchers report only at the end."""
    install_fault_tolerant_streams()
    if not str(hydra_config.launcher.get("_target_")).endswith(
        "BasicLauncher"
    ):  # that one runs jobs in this terminal
        progress.set_progress_sink(lambda _: None)
    with redirect_stdout(sys.stderr):  # stdout is for the grid's result
        outcome = run_grid_job(
            to_runner_config(composed, hydra_config.runtime.choices), format_config_as_yaml(composed)
        )
    print_message(format_job_outcome_line(hydra_config.overrides.task, outcome))
    return outcome


def reject_settings_unsupported_by_launcher(launcher_name: str, config: RunnerConfig) -> None:
    """Raise ConfigError for settings that only hydra/launcher=workers supports."""
    if config.job_timeout_s is not None:
        own = (
            "hydra.launcher.timeout_min=..."
            if launcher_name.startswith("submitit")
            else "hydra/launcher=workers"
        )
        raise ConfigError(
            f"hydra/launcher={launcher_name} cannot enforce this limit. Use {own}",
            key="job_timeout_s",
            value=f"{config.job_timeout_s:g}",
            code="unsupported",
        )
    if config.workers != AUTO:
        keys = {
            "joblib": "n_jobs",
            "submitit_local": "array_parallelism",
            "submitit_slurm": "array_parallelism",
        }
        own = (
            f"hydra.launcher.{keys[launcher_name]}={config.workers}"
            if launcher_name in keys
            else "hydra/launcher=workers"
        )
        raise ConfigError(
            f"hydra/launcher={launcher_name} sets this itself. Use {own}",
            key="workers",
            value=config.workers,
            code="unsupported",
        )


def split_ready_and_dependent_jobs(
    plan: Sequence[PlannedJob], numbers: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Split the jobs into those that can start now and those that wait for other jobs."""
    there = {plan[number].job_id for number in numbers}
    first: list[int] = []
    later: list[int] = []
    for number in numbers:
        (later if plan[number].after in there else first).append(number)
    return first, later


@dataclass
class OtherLauncherRun:
    """Runs the jobs of a plan with a launcher of another package."""

    launcher: Launcher
    name: str  # as in hydra/launcher=NAME
    plan: list[PlannedJob]
    outcomes: dict[int, JobOutcome] = field(default_factory=dict)
    _jobs: dict[int, Job] = field(default_factory=dict)
    _before: dict[int, tuple[Record | None, int]] = field(default_factory=dict)
    _relaunched: set[int] = field(default_factory=set)

    def run(self, job_numbers: list[int]) -> bool:
        """Run the given jobs. Returns True if the user stopped them.

        After a broken launch, jobs that were running are relaunched one by one, so that only the faulty
        job fails.
        """
        self._jobs = {number: job for number in job_numbers if (job := self.plan[number].job) is not None}
        self._before = {
            number: (_last_record(job), _get_job_start_time_ns(job)) for number, job in self._jobs.items()
        }
        batches = deque(filter(None, split_ready_and_dependent_jobs(self.plan, job_numbers)))
        with redirect_stdout(sys.stderr):
            while batches:
                batch = batches.popleft()
                if self.outcomes:  # jobs of a broken launch may have ended in the meantime
                    self._read_job_outcomes_from_disk(batch)
                    batch = [number for number in batch if number not in self.outcomes]
                if not batch:
                    continue
                try:
                    self._launch_jobs_and_record_outcomes(batch)
                except KeyboardInterrupt:
                    signals.mark_interrupt_handled()
                    self._record_job_outcomes_after_interrupt(batch)
                    return True
                except Exception as error:  # noqa: BLE001  # each launcher raises its own error when a process dies
                    batches.extendleft(reversed(self._plan_retry_of_failed_launch(batch, error)))
        return False

    def _launch_jobs_and_record_outcomes(self, batch: list[int]) -> None:
        jobs = [self.plan[number] for number in batch]
        overrides = [[*job.overrides, *job.filled_in, *self._parent_run_override(job)] for job in jobs]
        returns = self.launcher.launch(overrides, initial_job_idx=batch[0])
        for number, job_return in zip(batch, returns, strict=True):
            if isinstance(job_return, JobDeath):
                self._record_dead_job(number, job_return)
                continue
            try:
                outcome = job_return.return_value
            except Exception as error:  # noqa: BLE001  # an error outside of the runner makes that job fail
                outcome = make_outcome_from_error(error)
            assert isinstance(outcome, JobOutcome)
            self.outcomes[number] = outcome
            if number in self._relaunched and outcome.record is not None:
                outcome.record.from_ledger = (
                    False  # it ended after its launch had broken, and this grid did it
                )

    def _record_dead_job(self, number: int, death: JobDeath) -> None:
        """Record the outcome of a job whose process died, unless the job had already finished."""
        self._read_job_outcomes_from_disk([number])
        if number not in self.outcomes:
            self.outcomes[number] = self.plan[number].record_dead_job_process(death.how, death.message)
            self.outcomes[number].exit_code = 1  # also of a cancelled job: nobody has interrupted the grid

    def _parent_run_override(self, planned: PlannedJob) -> list[str]:
        parent = planned.config.tracking.parent_run_id if planned.config is not None else None
        return [f"{PARENT_KEY}{parent}"] if parent else []

    def _record_job_outcomes_after_interrupt(self, batch: list[int]) -> None:
        """Record each job's outcome after Ctrl-C, unless the launcher is still running the job."""
        give_up_at = time.monotonic() + GRACE_S
        started = self._unfinished_started_jobs(batch)
        while (
            running := [n for n in started if _is_job_running(self._jobs[n])]
        ) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        self._read_job_outcomes_from_disk(batch)
        started = self._unfinished_started_jobs(batch)
        running = [number for number in running if number in started]
        for number in started:
            if number not in running:
                self.outcomes[number] = self.plan[number].record_dead_job_process(
                    Status.KILLED, "interrupted"
                )
        if running:
            log.warning(
                (
                    "%d jobs keep running after this grid, because hydra/launcher=%s does not "
                    "end them. Run the same command to wait for their results"
                ),
                len(running),
                self.name,
            )

    def _plan_retry_of_failed_launch(self, batch: list[int], launch_error: Exception) -> list[list[int]]:
        """Record the finished jobs of a failed launch. Returns the batches of jobs to launch
        again.
        """
        cause = " ".join(re.sub(r"-{4,}", "", str(launch_error)).split())[:400] or type(launch_error).__name__
        progressed = self._read_job_outcomes_from_disk(batch)
        started = self._unfinished_started_jobs(batch)
        waiting = [number for number in batch if number not in self.outcomes and number not in started]
        if len(batch) == 1 and started:
            message = f"hydra/launcher={self.name} lost the process of this job: {cause}"
            self.outcomes[started[0]] = self.plan[started[0]].record_dead_job_process(Status.FAILED, message)
            return []
        if not started and not progressed:
            if not self.outcomes:
                raise ConfigError(
                    f"hydra/launcher={self.name} did not start the jobs: {cause}", code="failed"
                ) from launch_error
            for number in waiting:
                self.outcomes[number] = JobOutcome(
                    Status.FAILED, message=f"could not be started: {cause}", exit_code=1
                )
            return []
        log.warning("hydra/launcher=%s broke: %s", self.name, cause)
        log.warning(
            "%d interrupted jobs start again one at a time; %d jobs follow", len(started), len(waiting)
        )
        # a waiting job may still start before the launcher is down
        self._relaunched |= {*started, *waiting}
        return [*([number] for number in started), *([waiting] if waiting else [])]

    def _read_job_outcomes_from_disk(self, batch: list[int]) -> bool:
        """Read the outcomes of a failed launch's jobs from disk. Returns True if any job has ended."""
        ended = False
        for number in batch:
            record = _last_record(self._jobs[number])
            if number in self.outcomes or record is None or record == self._before[number][0]:
                continue
            if pending_runs.has_pending_runs(self._jobs[number].folder / pending_runs.FILE):
                continue  # its process died after writing to disk and before MLflow: the next start updates MLflow
            if record.status is not Status.KILLED:
                is_finished = record.status is Status.FINISHED
                self.outcomes[number] = JobOutcome(
                    record.status, record if is_finished else None, record.error or "", int(not is_finished)
                )
                ended = True
        return ended

    def _unfinished_started_jobs(self, batch: list[int]) -> list[int]:
        """Return the jobs of the batch that have started but not yet ended."""
        return [
            n
            for n in batch
            if n not in self.outcomes and _get_job_start_time_ns(self._jobs[n]) != self._before[n][1]
        ]


def _last_record(job: Job) -> Record | None:
    try:
        return job.read_last_record()
    except RunRecordError:  # a damaged record; rerun=all replaces it
        return None


def _is_job_running(job: Job) -> bool:
    """Return whether a live process holds the job's lock."""
    try:
        with lock_job(job, should_wait=False):
            return False
    except JobAlreadyRunning:
        return True


def _get_job_start_time_ns(job: Job) -> int:
    """Return when the job last started, as file system time in ns, or 0 if it never started."""
    lock = job.folder / ".lock"
    return lock.stat().st_mtime_ns if lock.exists() else 0
