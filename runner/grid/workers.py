"""Runs the jobs of a grid in worker processes: one event loop, no threads.

Jobs that share a base go to one worker, one after another, so that it is loaded once; the longest such group
starts first. A worker that dies or hangs costs its job and is replaced.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from runner.core import child
from runner.core.progress import Step
from runner.core.result import Status
from runner.grid.outcome import Outcome
from runner.grid.plan import Planned
from runner.grid.worker import Assignment, Ended, Progressed
from runner.store import ledger
from runner.tasks.base import task_of

START = "from runner.grid.worker import main; main()"  # by import: what it sends is named by its module
POLL_S = 0.2
LAST_LINES = 5
GRACE_S = 30.0  # between a wish to stop and the end of patience
LEAVE_S = 10.0  # for a worker that has nothing left to do, to be gone


@dataclass
class Worker:
    """A worker process, the jobs that it still has to do, and the one it is doing."""

    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    todo: deque[int]
    gpu: int = 0
    begun: int = 0  # how many jobs it was given
    current: int | None = None
    since: float = 0.0
    log_from: int = 0

    def is_gone(self) -> bool:
        """Whether the process has ended and nothing that it sent is unread."""
        return self.process.poll() is not None and not self.connection.poll()

    def kill(self) -> None:
        """End the worker and whatever it started, at once."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it is gone already


class Events(Protocol):
    """Whom to tell what happens."""

    def started(self, number: int) -> None:
        """A worker has begun a job."""

    def progressed(self, number: int, step: Step) -> None:
        """A job has come further."""

    def ended(self, number: int, outcome: Outcome) -> None:
        """A job is over."""

    def tick(self) -> None:
        """Some time has passed."""


@dataclass
class Crew:
    """The state of a running grid."""

    plan: list[Planned]
    numbers: list[int]  # the jobs of the plan that are to be done
    workers_wanted: int
    log_folder: Path
    events: Events
    job_timeout_s: float | None = None
    fresh: bool = False  # a new process for every job, for memory figures that no earlier job has touched
    gpus: int = 0
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    _workers: list[Worker] = field(default_factory=list)
    _leaving: list[Worker] = field(default_factory=list)  # dismissed, but still there
    _groups: deque[deque[int]] = field(default_factory=deque)
    _held: list[int] = field(default_factory=list)  # another process was doing them: waited for at the end
    _waiting: set[int] = field(default_factory=set)
    _wishes: int = 0  # how often the user has asked to stop
    _wished_at: float = 0.0
    _started: int = 0

    def run(self) -> dict[int, Outcome]:
        """Do all jobs, or stop when asked to; returns how each one that was begun ended."""
        self.log_folder.mkdir(parents=True, exist_ok=True)
        self._groups = group(self.plan, self.numbers)
        with self._listening():
            try:
                while self._step():
                    self.events.tick()
            finally:
                for worker in (*self._workers, *self._leaving):
                    worker.kill()
                    worker.process.wait()
                    worker.connection.close()
        return self.outcomes

    @property
    def interrupted(self) -> bool:
        """Whether the user asked to stop."""
        return self._wishes > 0

    # ------------------------------------------------------------------------------- one turn

    def _step(self) -> bool:
        """Start what can be started, hear what has happened; False when there is nothing left to do."""
        if not self._groups and self._held and not self._workers:
            self._waiting |= set(self._held)
            self._groups, self._held = group(self.plan, self._held), []
        # one that is leaving may still hold its base: the next one has no room before it is gone
        while self._groups and len(self._workers) + len(self._leaving) < self.workers_wanted and not self._wishes:
            self._start(self._groups.popleft())
        if not self._workers and not self._leaving:
            return False
        by_connection: dict[object, Worker] = {worker.connection: worker for worker in self._workers}
        for ready in wait(list(by_connection), timeout=POLL_S / 10 if self._leaving else POLL_S):  # type: ignore[arg-type]
            self._hear(by_connection[ready])
        self._enforce_limits()
        self._see_off()
        return True

    def _hear(self, worker: Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        if isinstance(message, Progressed):
            self.events.progressed(message.number, message.step)
        elif isinstance(message, Ended):
            self._take(worker, message)
            if message.outcome.status is Status.KILLED:
                self._dismiss(worker)  # a wish to stop, from us or from elsewhere, ends the worker, too
            else:
                self._next(worker)

    def _take(self, worker: Worker, message: Ended) -> None:
        worker.current = None
        number, outcome = message.number, message.outcome
        if outcome.held:
            self._held.append(number)
            return
        if outcome.status is Status.KILLED:
            self._bury(number, Status.KILLED, outcome.message)  # the wish may have cut its own last words short
            outcome = outcome if self._wishes else replace(outcome, exit_code=1)  # 130 is for the user's Ctrl-C
        self._end(number, outcome)

    def _next(self, worker: Worker) -> None:
        """Give the worker its next job, or another group, or leave to go."""
        if self._wishes or (self.fresh and worker.begun):
            self._dismiss(worker)
            return
        if not worker.todo and self._groups:
            worker.todo = self._groups.popleft()
        if not worker.todo:
            self._dismiss(worker)
            return
        number = worker.current = worker.todo.popleft()
        worker.begun += 1
        worker.since, worker.log_from = time.monotonic(), _size(worker.log)
        planned = self.plan[number]
        assert planned.config is not None
        self.events.started(number)
        assignment = Assignment(number, planned.config, planned.config_yaml, number in self._waiting)
        try:
            worker.connection.send(assignment)
        except OSError:
            self._died(worker)

    def _end(self, number: int, outcome: Outcome) -> None:
        self.outcomes[number] = outcome
        self.events.ended(number, outcome)

    def _bury(self, number: int, status: Status, message: str) -> None:
        planned = self.plan[number]
        assert planned.config is not None
        assert planned.job is not None
        ledger.write_death(planned.config, planned.job, task_of(planned.config).VERSION, status, message)

    # ------------------------------------------------------------------------ start, stop, die

    def _start(self, numbers: deque[int]) -> None:
        ours, theirs = socket.socketpair()
        log = self.log_folder / f"worker_{self._started}.log"
        gpu = self._free_gpu()
        self._started += 1
        with theirs, log.open("ab") as stream:
            process = child.start(
                *("-c", START, str(theirs.fileno()), str(os.getpid())),
                environment={"CUDA_VISIBLE_DEVICES": _gpu(gpu)} if self.gpus else None,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C is ours to pass on
            )
        worker = Worker(process, Connection(ours.detach()), log, numbers, gpu)
        self._workers.append(worker)
        self._next(worker)

    def _free_gpu(self) -> int:
        """Return the GPU with the fewest workers: when one dies, its successor takes its place."""
        used = Counter(worker.gpu for worker in (*self._workers, *self._leaving))
        return min(range(max(self.gpus, 1)), key=lambda gpu: used[gpu])

    def _dismiss(self, worker: Worker) -> None:
        """Let a worker go; another one does what it has left."""
        with suppress(OSError):  # it is gone already, which is what was asked
            worker.connection.send(None)
        self._workers.remove(worker)
        self._hand_back(worker)
        worker.since = time.monotonic()
        self._leaving.append(worker)

    def _hand_back(self, worker: Worker) -> None:
        if worker.todo and not self._wishes:
            self._groups.appendleft(worker.todo)

    def _see_off(self) -> None:
        """Forget the workers that have left, and end those that will not."""
        for worker in list(self._leaving):
            if self._wishes > 1 or time.monotonic() - worker.since > LEAVE_S:
                worker.kill()
                worker.process.wait()
            if worker.process.poll() is not None:
                self._leaving.remove(worker)
                worker.connection.close()

    def _died(self, worker: Worker, why: str = "") -> None:
        """A worker is gone in the middle of a job: that job has failed, the others go to a new worker."""
        with suppress(subprocess.TimeoutExpired):  # its connection can be closed a little before it is gone
            worker.process.wait(timeout=0 if self._wishes > 1 else 2)
        worker.kill()
        code = worker.process.wait()
        with suppress(EOFError, OSError):  # it may have got as far as to say how its job ended
            while worker.connection.poll():
                message = worker.connection.recv()
                if isinstance(message, Ended):
                    self._take(worker, message)
        self._workers.remove(worker)
        worker.connection.close()
        number = worker.current
        if number is not None:
            killed = self._wishes > 0
            status = Status.KILLED if killed else Status.FAILED
            message = "killed" if killed else f"{why or f'the worker {child.describe_exit(code)}'}{_last_lines(worker)}"
            self._bury(number, status, message)
            self._end(number, Outcome(status, message=message, exit_code=130 if killed else 1))
        self._hand_back(worker)

    def _enforce_limits(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            late = self.job_timeout_s is not None and now - worker.since > self.job_timeout_s
            impatient = self._wishes > 1 or (self._wishes == 1 and now - self._wished_at > GRACE_S)
            if worker.is_gone():
                self._died(worker)
            elif worker.current is not None and (late or impatient):
                worker.kill()
                self._died(worker, f"still running after job_timeout_s={self.job_timeout_s:g}" if late else "")

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Take Ctrl-C as a wish: the first one lets jobs write down what they have, the second ends them."""

        def wish(*_: object) -> None:
            self._wishes += 1
            self._wished_at = time.monotonic()
            if self._wishes == 1:
                for worker in self._workers:
                    worker.process.send_signal(signal.SIGINT)

        before = signal.signal(signal.SIGINT, wish)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def group(plan: list[Planned], numbers: list[int]) -> deque[deque[int]]:
    """Put jobs that share a base together, the longest group first; jobs with nothing to load stand alone."""
    groups: dict[str, deque[int]] = {}
    for number in numbers:
        groups.setdefault(plan[number].base or f"alone {number}", deque()).append(number)
    return deque(sorted(groups.values(), key=lambda members: -sum(plan[n].cost for n in members)))


def _last_lines(worker: Worker) -> str:
    """Return the end of what the worker printed during this job."""
    lines = child.last_lines(worker.log, LAST_LINES, worker.log_from)
    return "".join(f"\n    | {line}" for line in lines)


def _size(path: Path) -> int:
    return path.stat().st_size


def _gpu(number: int) -> str:
    """Return the number-th of the GPUs that this process may see."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[number % len(visible)] if visible else str(number)
