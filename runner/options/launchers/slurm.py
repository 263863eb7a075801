"""The jobs of a grid under Slurm: submitit submits them as arrays, squeue tells how they are, Slurm
starts them again.

submitit's own launcher asks sacct, which needs an accounting database, breaks off at the first job
that dies, ignores scancel's SIGTERM, and requeues by `sys.exit` in a signal handler, which a job
would record as its failure. Here each job ends for itself. At its time limit a job ends as after
Ctrl-C and goes back into the queue, where it resumes from its samples; a job whose node fails is
put back by Slurm.
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

from runner.grid.other_launchers import Death, job_line
from runner.options.launchers.render.notes import NOTES
from runner_base import INTERRUPTED, Status, counted, say, signals
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
        "over its time limit (hydra.launcher.timeout_min), which it did not notice in the time "
        "that hydra.launcher.signal_delay_s gives",
    ),
    "OUT_OF_MEMORY": (Status.FAILED, "over its memory (hydra.launcher.mem_gb)"),
}


@dataclass
class Queue:
    """What squeue says about some jobs; it needs no accounting database."""

    arrays: set[str]
    states: dict[str, str] = field(default_factory=dict)
    _asked: float = float("-inf")
    _missing: dict[str, int] = field(default_factory=dict)  # answers in a row that lacked a job
    _is_silent: bool = False

    def look(self, at_least_every_s: float = SQUEUE_S) -> None:
        """Ask for the states, unless the last answer is fresh; where the controller is silent, the
        last ones hold."""
        if time.monotonic() - self._asked < at_least_every_s:
            return
        self._asked = time.monotonic()
        command = ["squeue", "--array", "--noheader", "--states=all", "--format=%i|%T"]
        command.append(f"--jobs={','.join(self.arrays)}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "Invalid job id" not in done.stderr:
            if not self._is_silent:
                say(render_note(note("squeue_fails", "warning", error=done.stderr.strip()), NOTES))
            self._is_silent = True
            return
        self._is_silent = False
        answer = dict(line.split("|", 1) for line in done.stdout.splitlines())
        for job_id in {*self.states, *answer}:
            self._missing[job_id] = 0 if job_id in answer else self._missing.get(job_id, 0) + 1
            if self._missing[job_id] != 1:  # an answer may lack a job that is being put back into the queue
                self.states[job_id] = answer.get(job_id, GONE)

    def expect(self, job_id: str) -> None:
        """Wait for a job that was submitted just now."""
        self.states[job_id] = "PENDING"

    def has_ended(self, job_id: str) -> bool:
        """Whether Slurm neither runs a job nor will run it."""
        return self.states[job_id] not in WAITING


class SlurmLauncher(SubmititLauncher):  # type: ignore[misc]
    """Submits jobs as arrays; takes the settings of submitit's launcher."""

    # ------------------------------------------------------------------------------------- in a
    # job's process

    def __call__(self, *arguments: Any, **named: Any) -> JobReturn:
        """Run one job; at its time limit it ends as after Ctrl-C, and then goes back into Slurm's
        queue."""
        at_limit = getattr(signal, f"SIG{SlurmJobEnvironment.USR_SIG}")
        # submitit's: it counts the restarts that are left
        put_back: Any = signal.getsignal(at_limit)
        reached: list[bool] = []

        def end_at_limit(*_: Any) -> None:
            reached.append(True)
            signals.interrupt()

        signal.signal(at_limit, end_at_limit)
        # scancel; submitit would ignore it until SIGKILL
        signal.signal(signal.SIGTERM, signals.interrupt)
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
            return Death(
                how=Status.KILLED,
                message=f"over its time limit after {restarts} restarts (hydra.launcher.timeout_min={minutes}, "
                f"hydra.launcher.max_num_timeout={restarts}): the same command resumes it",
            )

    # ------------------------------------------------------------------------------------- in the
    # grid's process

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the jobs in arrays as large as Slurm takes them, and return how each ended."""
        executor = self.executor()
        returns: list[JobReturn] = []
        total, largest = len(job_overrides), largest_array()
        for before in range(0, total, largest):
            part = [list(job_override) for job_override in job_overrides[before : before + largest]]
            returns += self.run_array(executor, part, initial_job_idx + before, before, total)
        return returns

    def executor(self) -> submitit.AutoExecutor:
        """Return what submits jobs with these settings; where there is no Slurm, it says so."""
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

    def run_array(
        self, executor: submitit.AutoExecutor, overrides: list[list[str]], first: int, before: int, total: int
    ) -> list[JobReturn]:
        """Submit jobs as one array and wait for each; a signal to the grid cancels them."""
        assert self.config is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        numbers = range(first, first + len(overrides))
        names = [f"job_id_for_{number}" for number in numbers]
        rest = (["hydra.sweep.dir"] * len(names), numbers, names, [Singleton.get_state()] * len(names))
        jobs: list[submitit.Job[JobReturn]] = []
        try:
            with signals.deferred():  # no job is submitted without being known here
                jobs = executor.map_array(self, overrides, *rest)
            return wait_for(jobs, overrides, before, total)
        except KeyboardInterrupt:
            cancel(jobs)
            raise


def largest_array() -> int:
    """Return how many jobs an array may have."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    return max(1, int(limit[1])) if limit else 1000


def wait_for(
    jobs: Sequence[submitit.Job[JobReturn]], overrides: list[list[str]], before: int, total: int
) -> list[JobReturn]:
    """Wait for the jobs and return how each ended; a line says so at once, and counts those of
    earlier arrays, too."""
    queue = queue_of(jobs)
    returns: dict[int, JobReturn] = {}
    ended_at: dict[int, float] = {}  # when Slurm was found to have ended a job
    while len(returns) < len(jobs):
        queue.look()
        for number, job in enumerate(jobs):
            if number in returns:
                continue
            if job.paths.result_pickle.exists():
                returns[number] = result_of(job)
            elif queue.has_ended(job.job_id):
                see_new_files(job.paths.folder)
                if time.monotonic() - ended_at.setdefault(number, time.monotonic()) < SETTLE_S:
                    continue
                returns[number] = death_of(job, queue.states[job.job_id])
            else:
                ended_at.pop(number, None)  # it was put back into the queue
                continue
            say(
                f"[{before + len(returns)}/{total}] {job_line(overrides[number], ended_how(returns[number]))}"
            )
        time.sleep(POLL_S)
    return [returns[number] for number in range(len(jobs))]


def ended_how(returned: JobReturn) -> object:
    """Return how a job ended, in a form that can be shown."""
    is_known = isinstance(returned, Death) or returned.status is not JobStatus.COMPLETED
    return returned if is_known else returned.return_value


def queue_of(jobs: Sequence[submitit.Job[JobReturn]]) -> Queue:
    """Return the queue of some jobs."""
    queue = Queue({job.job_id.partition("_")[0] for job in jobs})
    for job in jobs:
        queue.expect(job.job_id)
    return queue


def see_new_files(folder: Path) -> None:
    """Make a network's file system look at a folder again, which it may know from its cache."""
    if folder.exists():
        folder.chmod(folder.stat().st_mode)


def result_of(job: submitit.Job[JobReturn]) -> JobReturn:
    """Return what a job has written; an error outside of the job makes it fail."""
    try:
        return job.results()[0]
    except FailedJobError as error:
        last = [line for line in str(error).splitlines() if line.strip() and not line.startswith("---")]
        return Death(how=Status.FAILED, message=f"{' '.join(last[1:])[-400:]} (see {job.paths.stderr})")


def death_of(job: submitit.Job[JobReturn], state: str) -> Death:
    """Return the death of a job that has written nothing: why it was, and where its log is."""
    status, reason = REASONS.get(
        state, (Status.FAILED, f"its process died under hydra/launcher=submitit_slurm: {state}")
    )
    return Death(how=status, message=f"{reason} (see {job.paths.stderr})")


def cancel(jobs: Sequence[submitit.Job[JobReturn]]) -> None:
    """Take the jobs out of Slurm's queue and wait until they have ended."""
    if not jobs:
        return
    queue = queue_of(jobs)
    say(f"cancelling {counted(len(jobs), 'job')} in Slurm")
    subprocess.run(["scancel", *sorted(queue.arrays)], check=False)
    give_up_at = time.monotonic() + CANCEL_S
    while time.monotonic() < give_up_at:
        queue.look(POLL_S)
        if all(queue.has_ended(job.job_id) for job in jobs):
            return
        time.sleep(POLL_S)
