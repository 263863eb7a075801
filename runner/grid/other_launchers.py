"""Jobs under Hydra's other launchers, such as joblib or submitit.

A launcher of another package returns all results together, and none of them when one process dies.
But each job records its result on disk: the results are read from there, and only jobs without a
result are launched again.
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

from runner.config.hydra import as_yaml, to_config
from runner.config.root import AUTO, RunnerConfig
from runner.grid.outcomes import Outcome, outcome_of_error, run_job
from runner.grid.plan import PlannedJob
from runner.records.jobs import Job, claim
from runner.report import brief
from runner.tracking import pending_runs
from runner_base import ConfigError, EvidenceError, JobFailed, JobHeld, Record, Status, progress, say, signals
from runner_base.console import keep_streams

log = logging.getLogger(__name__)

GRACE_S = 2.0  # for jobs to end by themselves after Ctrl-C
PARENT_KEY = "tracking.parent_run_id="  # the override that is added to each job


@dataclass
class Death(JobReturn):
    """What a launcher returns for a job whose process ended without a result."""

    how: Status = Status.FAILED
    message: str = ""

    def __post_init__(self) -> None:
        self.status, self.return_value = JobStatus.FAILED, JobFailed(self.message, code="failed")


def job_line(overrides: Sequence[str], ended: object) -> str:
    """Return a line that names a job and says how it ended; what a job of a search returns is its
    objective."""
    name = " ".join(text for text in overrides if not text.startswith(PARENT_KEY))
    if isinstance(ended, Outcome):
        return f"{name}: {brief(ended.record) if ended.record else f'{ended.status.value} {ended.message}'}"
    return f"{name}: {f'{ended.how.value} {ended.message}' if isinstance(ended, Death) else ended}"


def run_launched(composed: DictConfig, hydra: HydraConf) -> Outcome:
    """Run one job in the launcher's process and print its outcome; the launcher reports only when
    all have ended."""
    keep_streams()
    if not str(hydra.launcher.get("_target_")).endswith(
        "BasicLauncher"
    ):  # that one runs jobs in this terminal
        progress.report_to(lambda _: None)
    with redirect_stdout(sys.stderr):  # stdout is for the grid's result
        outcome = run_job(to_config(composed, hydra.runtime.choices), as_yaml(composed))
    say(job_line(hydra.overrides.task, outcome))
    return outcome


def check_settings(name: str, settings: RunnerConfig) -> None:
    """Reject settings that only hydra/launcher=workers supports."""
    if settings.job_timeout_s is not None:
        own = "hydra.launcher.timeout_min=..." if name.startswith("submitit") else "hydra/launcher=workers"
        raise ConfigError(
            f"hydra/launcher={name} cannot keep it, use {own}",
            key="job_timeout_s",
            value=f"{settings.job_timeout_s:g}",
            code="unsupported",
        )
    if settings.workers != AUTO:
        keys = {
            "joblib": "n_jobs",
            "submitit_local": "array_parallelism",
            "submitit_slurm": "array_parallelism",
        }
        own = f"hydra.launcher.{keys[name]}={settings.workers}" if name in keys else "hydra/launcher=workers"
        raise ConfigError(
            f"hydra/launcher={name} decides that itself, use {own}",
            key="workers",
            value=settings.workers,
            code="unsupported",
        )


def in_turn(plan: Sequence[PlannedJob], numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the jobs that may start at once, and those that need one of these first: a launcher
    runs all it gets."""
    there = {plan[number].job_id for number in numbers}
    first: list[int] = []
    later: list[int] = []
    for number in numbers:
        (later if plan[number].after in there else first).append(number)
    return first, later


@dataclass
class ForeignLaunch:
    """Runs the jobs of a plan under another package's launcher."""

    launcher: Launcher
    name: str  # as in hydra/launcher=NAME
    plan: list[PlannedJob]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    _jobs: dict[int, Job] = field(default_factory=dict)
    _before: dict[int, tuple[Record | None, int]] = field(default_factory=dict)
    _relaunched: set[int] = field(default_factory=set)

    def run(self, numbers: list[int]) -> bool:
        """Run the jobs; return whether the user stopped them.

        After a broken launch, the running ones are launched again one by one, so that only one
        fails.
        """
        self._jobs = {number: job for number in numbers if (job := self.plan[number].job) is not None}
        self._before = {number: (_record(job), _started_ns(job)) for number, job in self._jobs.items()}
        batches = deque(filter(None, in_turn(self.plan, numbers)))
        with redirect_stdout(sys.stderr):
            while batches:
                batch = batches.popleft()
                if self.outcomes:  # jobs of a broken launch may have ended in the meantime
                    self._collect(batch)
                    batch = [number for number in batch if number not in self.outcomes]
                if not batch:
                    continue
                try:
                    self._launch(batch)
                except KeyboardInterrupt:
                    signals.answer()
                    self._stop(batch)
                    return True
                except Exception as error:  # noqa: BLE001  # each launcher raises its own error when a process dies
                    batches.extendleft(reversed(self._batches_after_break(batch, error)))
        return False

    def _launch(self, batch: list[int]) -> None:
        jobs = [self.plan[number] for number in batch]
        overrides = [[*job.overrides, *job.filled_in, *self._parent_of(job)] for job in jobs]
        returns = self.launcher.launch(overrides, initial_job_idx=batch[0])
        for number, job_return in zip(batch, returns, strict=True):
            if isinstance(job_return, Death):
                self._take_death(number, job_return)
                continue
            try:
                outcome = job_return.return_value
            except Exception as error:  # noqa: BLE001  # an error outside of the runner makes that job fail
                outcome = outcome_of_error(error)
            assert isinstance(outcome, Outcome)
            self.outcomes[number] = outcome
            if number in self._relaunched and outcome.record is not None:
                outcome.record.from_ledger = (
                    False  # it ended after its launch had broken, and this grid did it
                )

    def _take_death(self, number: int, death: Death) -> None:
        """Record how a job ended whose launcher tells so for each job; it may have finished before
        its process died."""
        self._collect([number])
        if number not in self.outcomes:
            self.outcomes[number] = self.plan[number].record_death(death.how, death.message)
            self.outcomes[number].exit_code = 1  # also of a cancelled job: nobody has interrupted the grid

    def _parent_of(self, planned: PlannedJob) -> list[str]:
        parent = planned.config.tracking.parent_run_id if planned.config is not None else None
        return [f"{PARENT_KEY}{parent}"] if parent else []

    def _stop(self, batch: list[int]) -> None:
        """Record how the jobs ended after Ctrl-C; jobs that the launcher leaves running are not
        touched."""
        give_up_at = time.monotonic() + GRACE_S
        started = self._started(batch)
        while (
            running := [n for n in started if _is_running(self._jobs[n])]
        ) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        self._collect(batch)
        started = self._started(batch)
        running = [number for number in running if number in started]
        for number in started:
            if number not in running:
                self.outcomes[number] = self.plan[number].record_death(Status.KILLED, "interrupted")
        if running:
            log.warning(
                "%d jobs keep running without this grid, because hydra/launcher=%s does not end them: "
                "their results are kept, and the same command waits for them",
                len(running),
                self.name,
            )

    def _batches_after_break(self, batch: list[int], error: Exception) -> list[list[int]]:
        """Record what is done, and return the batches to launch next."""
        cause = " ".join(re.sub(r"-{4,}", "", str(error)).split())[:400] or type(error).__name__
        progressed = self._collect(batch)
        started = self._started(batch)
        waiting = [number for number in batch if number not in self.outcomes and number not in started]
        if len(batch) == 1 and started:
            message = f"its process died under hydra/launcher={self.name}: {cause}"
            self.outcomes[started[0]] = self.plan[started[0]].record_death(Status.FAILED, message)
            return []
        if not started and not progressed:
            if not self.outcomes:
                raise ConfigError(
                    f"hydra/launcher={self.name} could not start the jobs: {cause}", code="failed"
                ) from error
            for number in waiting:
                self.outcomes[number] = Outcome(
                    Status.FAILED, message=f"could not be started: {cause}", exit_code=1
                )
            return []
        log.warning("hydra/launcher=%s broke: %s", self.name, cause)
        log.warning("%d jobs were running and run again one by one; %d follow", len(started), len(waiting))
        # a waiting job may still start before the launcher is down
        self._relaunched |= {*started, *waiting}
        return [*([number] for number in started), *([waiting] if waiting else [])]

    def _collect(self, batch: list[int]) -> bool:
        """Read from disk how jobs of a broken launch ended; return whether any did."""
        ended = False
        for number in batch:
            record = _record(self._jobs[number])
            if number in self.outcomes or record is None or record == self._before[number][0]:
                continue
            if pending_runs.any_left(self._jobs[number].folder / pending_runs.FILE):
                continue  # its process died after writing to disk and before MLflow: the next start updates MLflow
            if record.status is not Status.KILLED:
                is_finished = record.status is Status.FINISHED
                self.outcomes[number] = Outcome(
                    record.status, record if is_finished else None, record.error or "", int(not is_finished)
                )
                ended = True
        return ended

    def _started(self, batch: list[int]) -> list[int]:
        """Return the jobs that a process has started and that have not ended."""
        return [
            n for n in batch if n not in self.outcomes and _started_ns(self._jobs[n]) != self._before[n][1]
        ]


def _record(job: Job) -> Record | None:
    try:
        return job.last_record()
    except EvidenceError:  # a damaged record; rerun=all replaces it
        return None


def _is_running(job: Job) -> bool:
    """Return whether a live process is doing the job."""
    try:
        with claim(job, wait=False):
            return False
    except JobHeld:
        return True


def _started_ns(job: Job) -> int:
    """Return when the job was last started, by the clock of the file system; 0: never."""
    lock = job.folder / ".lock"
    return lock.stat().st_mtime_ns if lock.exists() else 0
