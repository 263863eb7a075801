"""Runs a grid's jobs in worker processes, managed by one event loop without threads.

Jobs that share a base model go to one worker, one after another, so that it is loaded once. The
longest group starts first. An idle worker takes jobs of another worker's group and loads its
model too, if the user requested more workers than groups, or if a GPU is free and the jobs take
longer than the load. When a worker dies or hangs, only its current job fails, and a new worker
replaces it. A worker that has lost its GPU ends, and its job is repeated once.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path

from runner.config.hydra import format_config_as_yaml
from runner.engines.kinds import ResourceNeed
from runner.grid import forking
from runner.grid.executor import Executor
from runner.grid.gpu_sets import GpuAllocator, GpuSet, compute_max_resource_need
from runner.grid.outcomes import JobOutcome
from runner.grid.worker_limits import WorkerLimits, group_jobs_by_model
from runner.grid.worker_process import Worker, start_worker_process
from runner.render.notes import format_note
from runner_base import ProgressState, Status, child_process
from runner_base.notes import note
from runner_base.visible_gpus import Gpu

POLL_S = 0.2
LAST_LINES = 5
DIE_S = 2.0  # how long the copy of a killed worker may take to die
LEAVE_S = 10.0  # how long a released worker may take to exit, before it is killed


@dataclass(kw_only=True)
class WorkerPool(Executor):
    """Executor that distributes a grid's jobs to worker processes."""

    limits: WorkerLimits
    log_folder: Path
    fresh: bool = False  # a process for every job, so that no earlier job affects its memory figures
    gpus: Sequence[Gpu] = ()
    idle_worker: Worker | None = None  # a process without GPUs that has no job yet
    _workers: list[Worker] = field(default_factory=list)
    # released, but their processes have not exited yet
    _leaving: list[Worker] = field(default_factory=list)
    _groups: deque[deque[int]] = field(default_factory=deque)
    # another process is doing them: tried again at the end
    _held_elsewhere: list[int] = field(default_factory=list)
    # jobs that are tried again, and now wait for the other process
    _waiting: set[int] = field(default_factory=set)
    # the GPUs that failed in a job, and how
    _lost: dict[int, tuple[GpuSet, str]] = field(default_factory=dict)
    _started: int = 0

    def __post_init__(self) -> None:
        self._sets = GpuAllocator(self.gpus, self.limits.is_given, self.limits.is_measuring)

    def run(self) -> bool:
        self.log_folder.mkdir(parents=True, exist_ok=True)
        self._groups = group_jobs_by_model(self.plan, self.numbers)
        return super().run()

    def close(self) -> None:
        """Kill all remaining workers."""
        for worker in (*self._workers, *self._leaving):
            worker.kill()
            worker.process.wait()
            worker.connection.close()

    def _dequeue_startable_job_group(self, worker: Worker | None = None) -> deque[int] | None:
        """Remove a group of jobs from the queue, and return the group.

        Returns None while all groups wait for jobs or GPUs. If no worker has a job, the required jobs
        have failed: then the first group is returned, and its jobs report that.
        """
        fitting = [group for group in self._groups if self._can_get_gpus(group, worker)]
        ready = next((members for members in fitting if not all(map(self.is_waiting_for_job, members))), None)
        if ready is None and fitting and self._all_idle:
            ready = fitting[0]
        if ready is not None:
            self._groups.remove(ready)
        return ready

    def _can_get_gpus(self, job_numbers: Iterable[int], worker: Worker | None) -> bool:
        need, avoided = self._get_resource_need_and_failed_gpus(job_numbers)
        if worker is not None:
            return self._sets.can_run_on_gpu_set(worker.gpus, need, avoided)
        others = [*self._workers, *self._leaving]
        picked = self._sets.allocate_gpus(need, self._workers_per_gpu, avoided)
        on_cpu = sum(not other.gpus.numbers for other in others)
        return picked is not None and (bool(picked.numbers) or on_cpu < self.limits.on_cpu)

    def _get_resource_need_and_failed_gpus(
        self, job_numbers: Iterable[int]
    ) -> tuple[ResourceNeed, frozenset[int]]:
        """Combine the needs of the jobs that share a model, and list the GPUs on which these jobs failed."""
        jobs = list(job_numbers) if self.gpus else []
        avoided = (self._lost[number][0].numbers for number in jobs if number in self._lost)
        return compute_max_resource_need(
            self.plan[number].resource_need for number in jobs
        ), frozenset().union(*avoided)

    @property
    def _all_idle(self) -> bool:
        return all(worker.current is None for worker in self._workers)

    def _steal_queued_jobs(self, idle_worker: Worker | None = None) -> deque[int]:
        """Take every second queued job from the worker with the most queued jobs.

        Takes none if no worker has two, or if loading the model would take longer, unless the user
        requested so many workers. On a GPU a single job is taken too, if its wait would exceed the load
        time.
        """
        givers = [giver for giver in self._workers if self.limits.is_given or giver.gpus.numbers]
        giver = max(givers, key=lambda giver: len(giver.todo), default=None)
        if giver is None:
            return deque()
        ready = [number for number in giver.todo if not self.is_waiting_for_job(number)]
        share = ready[1::2]
        if not self.limits.is_given:
            waits_s = (
                giver.left_s
                if len(ready) == 1
                else giver.s_per_cost * sum(self.plan[job].cost for job in share)
            )
            share = share or ready
            if not (self.fresh or waits_s > giver.load_s > 0):
                return deque()
        if not share or not self._can_get_gpus(share, idle_worker):
            return deque()
        for number in share:
            giver.todo.remove(number)
        return deque(share)

    # ------------------------------------------------------------------------------- one step

    def submit(self) -> None:
        """Start workers and assign each its first job."""
        if not self._groups and self._held_elsewhere and not self._workers:
            self._waiting |= set(self._held_elsewhere)
            self._groups, self._held_elsewhere = group_jobs_by_model(self.plan, self._held_elsewhere), []
        # a released worker may still have its base in memory: it counts until its process has
        # exited
        while len(self._workers + self._leaving) < self.limits.total:
            if not (members := self._dequeue_startable_job_group() or self._steal_queued_jobs()):
                break
            self._start_worker(members)

    def poll(self) -> bool:
        """Receive messages, assign jobs and enforce time limits. Returns False when no worker is left."""
        if not self._workers and not self._leaving:
            return False
        by_connection: dict[object, Worker] = {worker.connection: worker for worker in self._workers}
        for ready in wait(list(by_connection), timeout=POLL_S / 10 if self._leaving else POLL_S):  # type: ignore[arg-type]
            self._handle_worker_message(by_connection[ready])
        for worker in [worker for worker in self._workers if worker.current is None]:
            self._assign_next_job(worker)
        self._remove_dead_workers()
        self._remove_exited_workers()
        return True

    def cancel(self) -> None:
        """Interrupt all running jobs, which also ends their workers."""
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill all workers that have jobs."""
        for worker in [worker for worker in self._workers if worker.current is not None]:
            worker.kill()
            self._handle_worker_death(worker)

    def _handle_worker_message(self, worker: Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._handle_worker_death(worker)
            return
        assert worker.current is not None
        if isinstance(message, ProgressState):
            self.view.update_progress(worker.current, message)
            worker.update_job_time_estimates(message, self.plan[worker.current].cost)
            return
        self._handle_job_end(worker, worker.current, message)
        if message.status is Status.KILLED or message.lost_gpu:
            # a job that was stopped by any process ends its worker, too
            self._stop_worker_and_requeue_jobs(worker)
        else:
            self._assign_next_job(worker)

    def _handle_job_end(self, worker: Worker, number: int, outcome: JobOutcome) -> None:
        worker.current = None
        if (
            outcome.lost_gpu
            and outcome.status is Status.FAILED
            and number not in self._lost
            and not self.stop_requests
        ):
            self._lost[number] = worker.gpus, outcome.lost_gpu
            lost = note("gpu_lost", gpus=worker.gpus, reason=outcome.lost_gpu)
            self.view.report_restarted_job(number, format_note(lost))
            # last: if it fails again, it does so at the cost of no other job
            worker.todo.append(number)
            return
        if number in self._lost:
            earlier, why = self._lost[number]
            outcome = replace(
                outcome, note=f"the job ran again on {worker.gpus}, because it failed on {earlier}: {why}"
            )
        if outcome.is_held_elsewhere:
            self._held_elsewhere.append(number)
            return
        if outcome.status is Status.KILLED:
            # Ctrl-C may have cut its record short
            outcome = self.plan[number].record_dead_job_process(Status.KILLED, outcome.message)
            # 130 is for the user's Ctrl-C
            outcome = outcome if self.stop_requests else replace(outcome, exit_code=1)
        self.record_outcome(number, outcome)

    def _assign_next_job(self, worker: Worker) -> None:
        """Assign the worker its next job, or release the worker if no job is left.

        While all its jobs wait for other workers' jobs, the worker waits too and keeps its model
        loaded.
        """
        if self.stop_requests or (self.fresh and worker.jobs_given and not self._uses_forks):
            self._stop_worker_and_requeue_jobs(worker)
            return
        if not worker.todo:
            worker.todo = self._dequeue_startable_job_group(worker) or self._steal_queued_jobs(worker)
            worker.load_s = 0.0
        if not worker.todo:
            self._stop_worker_and_requeue_jobs(worker)
            return
        number = next((job for job in worker.todo if not self.is_waiting_for_job(job)), None)
        if number is None and not self._all_idle:
            return
        number = worker.todo[0] if number is None else number
        worker.todo.remove(number)
        worker.start_job(number)
        self.view.mark_started(number)
        planned = self.plan[number]
        assert planned.composed is not None
        try:
            worker.connection.send(
                (planned.config, format_config_as_yaml(planned.composed), number in self._waiting)
            )
        except OSError:
            self._handle_worker_death(worker)

    # ------------------------------------------------------------------------ start, release, die

    def _start_worker(self, job_numbers: deque[int]) -> None:
        if self.idle_worker is not None:
            worker, self.idle_worker = self.idle_worker, None
        else:
            need, avoided = self._get_resource_need_and_failed_gpus(job_numbers)
            gpus = self._sets.allocate_gpus(need, self._workers_per_gpu, avoided)
            worker = start_worker_process(self.log_folder, self._started, gpus, self._uses_forks)
        worker.todo = job_numbers
        self._started += 1
        self._workers.append(worker)
        self._assign_next_job(worker)

    @property
    def _uses_forks(self) -> bool:
        return self.fresh and forking.can_fork(len(self.gpus))

    @property
    def _workers_per_gpu(self) -> Counter[int]:
        return Counter(
            number for worker in (*self._workers, *self._leaving) for number in worker.gpus.numbers
        )

    def _stop_worker_and_requeue_jobs(self, worker: Worker) -> None:
        """Tell a worker to exit, and return its remaining jobs to the queue."""
        with suppress(OSError):  # it has exited already
            worker.connection.send(None)
        self._workers.remove(worker)
        self._requeue_jobs(worker)
        worker.since = time.monotonic()
        self._leaving.append(worker)

    def _requeue_jobs(self, worker: Worker) -> None:
        if worker.todo and not self.stop_requests:
            self._groups.appendleft(worker.todo)

    def _remove_exited_workers(self) -> None:
        """Remove released workers that have exited, and kill those that take longer than LEAVE_S."""
        for worker in list(self._leaving):
            if self.stop_requests > 1 or time.monotonic() - worker.since > LEAVE_S:
                worker.kill()
                worker.process.wait()
            if worker.process.poll() is not None:
                self._leaving.remove(worker)
                worker.connection.close()

    def _handle_worker_death(self, worker: Worker, reason: str = "") -> None:
        """Record a dead worker's current job as failed, and leave its other jobs to a new worker."""
        with suppress(
            subprocess.TimeoutExpired
        ):  # its connection may close a little before the process exits
            worker.process.wait(timeout=0 if self.stop_requests > 1 else 2)
        worker.kill()
        code = worker.process.wait()
        with suppress(EOFError, OSError):  # it may have sent its job's outcome before it died
            while worker.connection.poll(DIE_S):  # it ends when the last process of the worker is dead
                message = worker.connection.recv()
                if worker.current is not None and isinstance(message, JobOutcome):
                    self._handle_job_end(worker, worker.current, message)
        self._workers.remove(worker)
        worker.connection.close()
        if worker.current is not None:
            if self.stop_requests:
                outcome = self.plan[worker.current].record_dead_job_process(Status.KILLED, "killed")
            else:
                # what it printed during this job
                lines = child_process.read_last_lines(worker.log, LAST_LINES, worker.log_from)
                last_words = "".join(f"\n    | {line}" for line in lines)
                message = f"{reason or f'the worker {child_process.describe_exit_code(code)}'}{last_words}"
                outcome = self.plan[worker.current].record_dead_job_process(Status.FAILED, message)
            self.record_outcome(worker.current, outcome)
        self._requeue_jobs(worker)

    def _remove_dead_workers(self) -> None:
        """Remove dead workers, and kill workers whose jobs exceed job_timeout_s."""
        for worker in list(self._workers):
            if (
                worker.process.poll() is not None and not worker.connection.poll()
            ):  # all that it sent has been read
                self._handle_worker_death(worker)
            elif worker.current is not None and self.has_timed_out(worker.since):
                worker.kill()
                self._handle_worker_death(worker, self.timeout_message)
