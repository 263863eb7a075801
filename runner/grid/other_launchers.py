"""Hydra's other launchers: the same jobs, the same resume, the same outcomes; who starts the processes differs.

A launcher of another package gives its results back all at once and loses them when one process dies. What a job
has done is on disk, so nothing is lost: it is read there, and only what is missing is launched again.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import deque
from contextlib import redirect_stdout
from dataclasses import dataclass, field

from hydra.conf import HydraConf
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from runner.config.hydra import to_config
from runner.config.root import RunnerConfig
from runner.core import progress
from runner.core.errors import ConfigError, EvidenceError, JobHeld, RunnerError
from runner.core.result import Record, Status
from runner.grid.outcome import Outcome, attempt
from runner.grid.plan import Planned
from runner.report import brief
from runner.store import ledger
from runner.store.jobs import Job, claim
from runner.tasks.base import task_of

log = logging.getLogger(__name__)

GRACE_S = 2.0  # for jobs to end after Ctrl-C
FOR_US = "tracking.parent_run_id="  # the override that we add to each job


def run_launched(composed: DictConfig, hydra: HydraConf) -> Outcome:
    """Run one job in the launcher's process and print how it ended; the launcher itself reports at its own end only."""
    if not str(hydra.launcher.get("_target_")).endswith("BasicLauncher"):  # that one has the terminal to itself
        progress.report_to(lambda _: None)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for the grid's result
            outcome = attempt(to_config(composed), OmegaConf.to_yaml(composed))
    except SystemExit as error:  # most launchers would take it for their own end
        outcome = Outcome(Status.FAILED, message=f"the job called sys.exit({error.code!r})", exit_code=1)
    name = " ".join(text for text in hydra.overrides.task if not text.startswith(FOR_US))
    how = brief(outcome.record) if outcome.record else f"{outcome.status.value} {outcome.message}"
    print(f"{name}: {how}", file=sys.stderr, flush=True)
    return outcome


def check_settings(name: str, settings: RunnerConfig) -> None:
    """Refuse what only our own launcher can keep, instead of forgetting it."""
    if settings.job_timeout_s is not None:
        own = "hydra.launcher.timeout_min=..." if name.startswith("submitit") else "hydra/launcher=workers"
        raise ConfigError(f"job_timeout_s={settings.job_timeout_s:g}: hydra/launcher={name} cannot keep it, use {own}")
    if settings.workers != "auto":
        keys = {"joblib": "n_jobs", "submitit_local": "array_parallelism", "submitit_slurm": "array_parallelism"}
        own = f"hydra.launcher.{keys[name]}={settings.workers}" if name in keys else "hydra/launcher=workers"
        raise ConfigError(f"workers={settings.workers}: hydra/launcher={name} decides that itself, use {own}")


@dataclass
class Elsewhere:
    """Jobs of a plan under a launcher that is not ours."""

    launcher: Launcher
    name: str  # as in hydra/launcher=NAME
    plan: list[Planned]
    parent_run_id: str | None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    interrupted: bool = False
    _before: dict[int, tuple[Record | None, int]] = field(default_factory=dict)
    _again: set[int] = field(default_factory=set)

    def run(self, numbers: list[int]) -> None:
        """Launch the jobs; when that breaks, those under way one by one, so that only the guilty one fails."""
        with redirect_stdout(sys.stderr):  # Ray talks to stdout, and does so until it is shut down
            try:
                self._run(numbers)
            finally:
                _shut_down_ray()

    def _run(self, numbers: list[int]) -> None:
        self._before = {number: (_record(self._job(number)), _claimed_at(self._job(number))) for number in numbers}
        batches = deque([numbers])
        while batches:
            batch = batches.popleft()
            if self.outcomes:  # others of a broken launch may have ended meanwhile
                self._collect(batch)
                batch = [number for number in batch if number not in self.outcomes]
            if not batch:
                continue
            try:
                self._launch(batch)
            except KeyboardInterrupt:
                self.interrupted = True
                self._stop(batch)
                return
            except Exception as error:  # noqa: BLE001  # a process that died takes a launcher down in its own way
                batches.extendleft(reversed(self._after_break(batch, error)))

    def _launch(self, batch: list[int]) -> None:
        parent = [f"{FOR_US}{self.parent_run_id}"] if self.parent_run_id else []
        overrides = [[*self.plan[number].overrides, *parent] for number in batch]
        returns = self.launcher.launch(overrides, initial_job_idx=batch[0])
        for number, job_return in zip(batch, returns, strict=True):
            outcome = self.outcomes[number] = _outcome(job_return)
            if number in self._again and outcome.record is not None:
                outcome.record.from_ledger = False  # it had gone on after the launch that broke: this grid's work

    def _stop(self, batch: list[int]) -> None:
        """Say how the jobs stand after Ctrl-C; those that the launcher does not end are not touched."""
        _shut_down_ray()  # it would end its jobs when this process leaves, too late to write that down
        give_up_at = time.monotonic() + GRACE_S
        begun = self._begun(batch)
        while (living := [n for n in begun if _is_held(self._job(n))]) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        self._collect(batch)
        begun = self._begun(batch)
        living = [number for number in living if number in begun]
        for number in begun:
            if number not in living:
                self._bury(number, Status.KILLED, "interrupted")
        if living:
            log.warning(
                "%d jobs go on without this grid, as hydra/launcher=%s does not end them: "
                "their results are kept, and the same command waits for them",
                len(living), self.name,
            )  # fmt: skip

    def _after_break(self, batch: list[int], error: Exception) -> list[list[int]]:
        """Keep what is done, and return what to launch next."""
        cause = " ".join(re.sub(r"-{4,}", "", str(error)).split())[:400] or type(error).__name__
        progressed = self._collect(batch)
        begun = self._begun(batch)
        left = [number for number in batch if number not in self.outcomes and number not in begun]
        if len(batch) == 1 and begun:
            self._bury(begun[0], Status.FAILED, f"its process died under hydra/launcher={self.name}: {cause}")
            return []
        if not begun and not progressed:
            if not self.outcomes:
                raise ConfigError(f"hydra/launcher={self.name} could not start the jobs: {cause}") from error
            for number in left:
                self.outcomes[number] = Outcome(Status.FAILED, message=f"could not be started: {cause}", exit_code=1)
            return []
        log.warning("hydra/launcher=%s broke: %s", self.name, cause)
        log.warning("%d jobs were under way and run again one by one; %d follow", len(begun), len(left))
        self._again |= {*begun, *left}  # one that had not begun a moment ago may do so before the launcher is down
        return [*([number] for number in begun), *([left] if left else [])]

    def _collect(self, batch: list[int]) -> bool:
        """Read from disk how jobs ended whose launcher cannot tell; returns whether any did."""
        ended = False
        for number in batch:
            record = _record(self._job(number))
            if number in self.outcomes or record is None or record == self._before[number][0]:
                continue
            if record.status is not Status.KILLED:
                code = 0 if record.status is Status.FINISHED else 1
                kept = record if code == 0 else None
                self.outcomes[number] = Outcome(record.status, kept, record.error or "", code)
                ended = True
        return ended

    def _begun(self, batch: list[int]) -> list[int]:
        """Return the jobs that some process has taken and that have not ended."""
        return [n for n in batch if n not in self.outcomes and _claimed_at(self._job(n)) != self._before[n][1]]

    def _bury(self, number: int, status: Status, message: str) -> None:
        config = self.plan[number].config
        assert config is not None
        ledger.write_death(config, self._job(number), task_of(config).VERSION, status, message)
        self.outcomes[number] = Outcome(status, message=message, exit_code=130 if status is Status.KILLED else 1)

    def _job(self, number: int) -> Job:
        job = self.plan[number].job
        assert job is not None
        return job


def _outcome(job_return: JobReturn) -> Outcome:
    """Return what the job returned; what broke it outside of the runner is that job's failure."""
    try:
        value = job_return.return_value
    except RunnerError as error:
        return Outcome(Status.FAILED, message=str(error), exit_code=error.exit_code)
    except Exception as error:  # noqa: BLE001
        return Outcome(Status.FAILED, message=f"{type(error).__name__}: {error}", exit_code=1)
    assert isinstance(value, Outcome)
    return value


def _shut_down_ray() -> None:
    if (ray := sys.modules.get("ray")) is not None:
        ray.shutdown()


def _record(job: Job) -> Record | None:
    try:
        return job.last_record()
    except EvidenceError:  # rerun=all replaces it
        return None


def _is_held(job: Job) -> bool:
    """Whether a living process is doing the job."""
    try:
        with claim(job, wait=False):
            return False
    except JobHeld:
        return True


def _claimed_at(job: Job) -> int:
    """Return when the job was last taken, by the clock of the file system; 0: never."""
    lock = job.folder / ".lock"
    return lock.stat().st_mtime_ns if lock.exists() else 0
