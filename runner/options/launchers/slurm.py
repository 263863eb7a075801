"""Runs a grid's jobs with Slurm: submitit submits job arrays, squeue reports job states, and Slurm
restarts jobs.

submitit's own launcher queries sacct, which needs an accounting database. It also stops at
the first job that dies, ignores scancel's SIGTERM, and requeues by `sys.exit` in a signal
handler, which a job would record as its failure. Here each job ends separately. At its time
limit a job ends as after Ctrl-C and is requeued, where it resumes from its samples. Slurm
requeues a job whose node fails.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as SubmititLauncher
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.slurm.slurm import SlurmJobEnvironment

from runner.grid.other_launchers import JobDeath, format_job_outcome_line
from runner.options.launchers.render.notes import NOTES
from runner_base import INTERRUPTED, Status, format_count, print_message, signals
from runner_base.notes import note
from runner_base.render.notes import render_note

POLL_S = 1.0  # between two looks for results
SQUEUE_S = 5.0  # between two calls of squeue, each about all jobs
SETTLE_S = 15.0  # for a result to become visible on a shared disk after Slurm has reported the end of its job
CANCEL_S = 60.0  # for jobs to end after scancel
WAITING = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT",
           "RESIZING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")  # fmt: skip
GONE = "GONE"  # Slurm has forgotten the job
REASONS = {
    "CANCELLED": (Status.KILLED, "cancelled in Slurm"),
    "TIMEOUT": (
        Status.KILLED,
        (
            "the job exceeded its time limit (hydra.launcher.timeout_min) and did not stop "
            "within hydra.launcher.signal_delay_s"
        ),
    ),
    "OUT_OF_MEMORY": (Status.FAILED, "over its memory (hydra.launcher.mem_gb)"),
}


@dataclass
class SlurmQueue:
    """States of submitted Slurm jobs, read from squeue. No accounting database is needed."""

    arrays: set[str]
    states: dict[str, str] = field(default_factory=dict)
    _asked: float = float("-inf")
    _missing: dict[str, int] = field(default_factory=dict)  # answers in a row that lacked a job
    _is_silent: bool = False

    def refresh(self, max_age_s: float = SQUEUE_S) -> None:
        """Query squeue for job states, unless the last query is recent.

        If Slurm does not answer, the previous states remain.
        """
        if time.monotonic() - self._asked < max_age_s:
            return
        self._asked = time.monotonic()
        command = ["squeue", "--array", "--noheader", "--states=all", "--format=%i|%T"]
        command.append(f"--jobs={','.join(self.arrays)}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "Invalid job id" not in done.stderr:
            if not self._is_silent:
                print_message(render_note(note("squeue_fails", "warning", error=done.stderr.strip()), NOTES))
            self._is_silent = True
            return
        self._is_silent = False
        answer = dict(line.split("|", 1) for line in done.stdout.splitlines())
        for job_id in {*self.states, *answer}:
            self._missing[job_id] = 0 if job_id in answer else self._missing.get(job_id, 0) + 1
            if self._missing[job_id] != 1:  # an answer may lack a job that is being put back into the queue
                self.states[job_id] = answer.get(job_id, GONE)

    def add_job(self, job_id: str) -> None:
        self.states[job_id] = "PENDING"

    def has_ended(self, job_id: str) -> bool:
        return self.states[job_id] not in WAITING


class SlurmLauncher(SubmititLauncher):  # type: ignore[misc]
    """Hydra launcher that submits jobs as Slurm arrays, with the settings of submitit's launcher."""

    # ------------------------------------------------------------------------------------- in a
    # job's process

    def __call__(self, *arguments: Any, **named: Any) -> JobReturn:
        """Run one job. At Slurm's time limit, the job ends as after Ctrl-C and is requeued."""
        at_limit = getattr(signal, f"SIG{SlurmJobEnvironment.USR_SIG}")
        # submitit's: it counts the restarts that are left
        put_back: Any = signal.getsignal(at_limit)
        reached: list[bool] = []

        def interrupt_at_limit(*_: Any) -> None:
            reached.append(True)
            signals.handle_signal()

        signal.signal(at_limit, interrupt_at_limit)
        # scancel; submitit would ignore it until SIGKILL
        signal.signal(signal.SIGTERM, signals.handle_signal)
        try:
            returned: JobReturn = super().__call__(*arguments, **named)
            return returned
        except KeyboardInterrupt:
            for number in (at_limit, signal.SIGTERM):  # Slurm also sends them to a job that it puts back
                signal.signal(number, signal.SIG_IGN)
            if not reached:
                raise SystemExit(INTERRUPTED) from None
            with suppress(UncompletedJobError):  # no restart is left
                put_back(at_limit, None)  # ends this process
            minutes, restarts = self.params["timeout_min"], self.params["max_num_timeout"]
            return JobDeath(
                how=Status.KILLED,
                message=(
                    f"the job exceeded its time limit (hydra.launcher.timeout_min={minutes}) after "
                    f"hydra.launcher.max_num_timeout={restarts} restarts. Run the same command to resume"
                ),
            )

    # ------------------------------------------------------------------------------------- in the
    # grid's process

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the jobs as one or more Slurm arrays, each within Slurm's size limit. Returns each job's
        outcome.
        """
        executor = self.make_executor()
        returns: list[JobReturn] = []
        total, largest = len(job_overrides), query_max_array_size()
        for before in range(0, total, largest):
            part = [list(job_override) for job_override in job_overrides[before : before + largest]]
            returns += self.submit_array_and_wait(executor, part, initial_job_idx + before, before, total)
        return returns

    def make_executor(self) -> submitit.AutoExecutor:
        """Return a submitit executor with this launcher's settings. Raises an error if Slurm is not
        installed.
        """
        settings = dict(self.params)
        executor = submitit.AutoExecutor(
            folder=settings.pop("submitit_folder"),
            cluster="slurm",
            slurm_max_num_timeout=settings.pop("max_num_timeout"),
        )
        common = {*BaseQueueConf.__dataclass_fields__}
        executor.update_parameters(
            **{key if key in common else f"slurm_{key}": value for key, value in settings.items()}
        )
        return executor

    def submit_array_and_wait(
        self,
        executor: submitit.AutoExecutor,
        overrides: list[list[str]],
        first_index: int,
        num_jobs_submitted: int,
        num_jobs: int,
    ) -> list[JobReturn]:
        """Submit jobs as one Slurm array and wait for them. A signal to the grid cancels the jobs."""
        assert self.config is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        numbers = range(first_index, first_index + len(overrides))
        names = [f"job_id_for_{number}" for number in numbers]
        rest = (["hydra.sweep.dir"] * len(names), numbers, names, [Singleton.get_state()] * len(names))
        jobs: list[submitit.Job[JobReturn]] = []
        try:
            with signals.defer_signals():  # no job is submitted without being known here
                jobs = executor.map_array(self, overrides, *rest)
            return wait_for_jobs(jobs, overrides, num_jobs_submitted, num_jobs)
        except KeyboardInterrupt:
            cancel_slurm_jobs(jobs)
            raise


def query_max_array_size() -> int:
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    return max(1, int(limit[1])) if limit else 1000


def wait_for_jobs(
    jobs: Sequence[submitit.Job[JobReturn]],
    overrides: list[list[str]],
    num_jobs_submitted: int,
    num_jobs: int,
) -> list[JobReturn]:
    """Wait for Slurm jobs and return their outcomes. Prints one line per finished job."""
    queue = make_slurm_queue(jobs)
    returns: dict[int, JobReturn] = {}
    ended_at: dict[int, float] = {}  # when Slurm was found to have ended a job
    while len(returns) < len(jobs):
        queue.refresh()
        for number, job in enumerate(jobs):
            if number in returns:
                continue
            if job.paths.result_pickle.exists():
                returns[number] = read_slurm_result(job)
            elif queue.has_ended(job.job_id):
                refresh_folder_cache(job.paths.folder)
                if time.monotonic() - ended_at.setdefault(number, time.monotonic()) < SETTLE_S:
                    continue
                returns[number] = describe_slurm_job_failure(job, queue.states[job.job_id])
            else:
                ended_at.pop(number, None)  # it was put back into the queue
                continue
            print_message(
                f"[{num_jobs_submitted + len(returns)}/{num_jobs}] "
                f"{format_job_outcome_line(overrides[number], get_value_or_failure(returns[number]))}"
            )
        time.sleep(POLL_S)
    return [returns[number] for number in range(len(jobs))]


def get_value_or_failure(job_return: JobReturn) -> object:
    is_known = isinstance(job_return, JobDeath) or job_return.status is not JobStatus.COMPLETED
    return job_return if is_known else job_return.return_value


def make_slurm_queue(jobs: Sequence[submitit.Job[JobReturn]]) -> SlurmQueue:
    """Return an object that tracks the states of these jobs in Slurm's queue."""
    queue = SlurmQueue({job.job_id.partition("_")[0] for job in jobs})
    for job in jobs:
        queue.add_job(job.job_id)
    return queue


def refresh_folder_cache(folder: Path) -> None:
    """Make a network file system refresh its cached listing of a folder.

    Rewrites the folder's mode, which invalidates the cache.
    """
    if folder.exists():
        folder.chmod(folder.stat().st_mode)


def read_slurm_result(job: submitit.Job[JobReturn]) -> JobReturn:
    """Return the result that a Slurm job has written. If the submitit process crashed, return a failure."""
    try:
        return job.results()[0]
    except FailedJobError as error:
        last = [line for line in str(error).splitlines() if line.strip() and not line.startswith("---")]
        return JobDeath(how=Status.FAILED, message=f"{' '.join(last[1:])[-400:]} (see {job.paths.stderr})")


def describe_slurm_job_failure(job: submitit.Job[JobReturn], slurm_state: str) -> JobDeath:
    """Return the failure of a Slurm job without a result, with the reason and the path of its log."""
    status, reason = REASONS.get(
        slurm_state,
        (Status.FAILED, f"Slurm ended the job with state {slurm_state} (hydra/launcher=submitit_slurm)"),
    )
    return JobDeath(how=status, message=f"{reason} (see {job.paths.stderr})")


def cancel_slurm_jobs(jobs: Sequence[submitit.Job[JobReturn]]) -> None:
    """Remove jobs from Slurm's queue and wait until they have ended."""
    if not jobs:
        return
    queue = make_slurm_queue(jobs)
    print_message(f"cancelling {format_count(len(jobs), 'job')} in Slurm")
    subprocess.run(["scancel", *sorted(queue.arrays)], check=False)
    give_up_at = time.monotonic() + CANCEL_S
    while time.monotonic() < give_up_at:
        queue.refresh(POLL_S)
        if all(queue.has_ended(job.job_id) for job in jobs):
            return
        time.sleep(POLL_S)
