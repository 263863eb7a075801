"""The jobs of a grid under Ray: submitted, followed, collected, started again after a node's
death."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from runner.config.hydra import as_yaml
from runner.grid.executor import Executor
from runner.grid.outcomes import Outcome, outcome_of_error
from runner.grid.plan import PlannedJob, predicted_need
from runner.options.launchers.ray_jobs import Assignment, Delivery, Mailbox, SharedFile, do_job
from runner.options.launchers.render.notes import NOTES
from runner.records import sent_jobs
from runner.records.jobs import Job
from runner.run import must_start_anew
from runner.tasks.base import task_of
from runner.tracking import adopted_jobs
from runner_base import JobHeld, RunnerError, Status, check_keys, least, say, setting
from runner_base.notes import Note, note
from runner_base.render.notes import render_note

POLL_S = 0.5
MIB = 2**20


@dataclass(frozen=True)
class RayRequest:
    """What the user asks Ray for, for each job."""

    num_cpus: float | None = None
    num_gpus: float = setting(0.0, takes=least(0))
    memory_mib: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    max_restarts: int = setting(3, takes=least(0))

    def __post_init__(self) -> None:
        check_keys("hydra.launcher", self)

    def of_job(self, planned: PlannedJob, largest: Mapping[str, float]) -> dict[str, Any]:
        """Return what a job asks for: as configured, else as predicted, but no more than the
        largest node has."""
        assert planned.resolved is not None
        predicted = predicted_need(planned.resolved)
        cpus = min(predicted.threads, largest.get("CPU", 1.0)) if self.num_cpus is None else self.num_cpus
        memory = min(predicted.mib * MIB, largest.get("memory", 0.0))
        return {
            "num_cpus": cpus,
            "num_gpus": self.num_gpus,
            "memory": int(memory if self.memory_mib is None else self.memory_mib * MIB),
            "resources": {**self.resources},
        }

    def missing(self, largest: Mapping[str, float]) -> list[Note]:
        """Return what is asked for that no node has now."""
        asked = {"CPU": self.num_cpus or 0.0, "GPU": self.num_gpus}
        asked |= {"memory": (self.memory_mib or 0.0) * MIB, **self.resources}
        return [
            note("no_node", "warning", resource=name, asked=amount, most=most)
            for name, amount in asked.items()
            if amount > (most := largest.get(name, 0.0))
        ]


def largest_node(nodes: list[dict[str, Any]]) -> dict[str, float]:
    """Return the most that any living node has of each resource."""
    largest: dict[str, float] = {}
    for node in nodes:
        for name, amount in node["Resources"].items() if node["Alive"] else ():
            largest[name] = max(amount, largest.get(name, 0.0))
    return largest


@dataclass(kw_only=True)
class RayJobs(Executor):
    """Submits the jobs of a grid, follows them, and records how each one ends."""

    request: RayRequest
    shared: SharedFile
    at_once: int
    _todo: list[int] = field(default_factory=list)
    # Ray's reference -> the number of the job
    _running: dict[Any, int] = field(default_factory=dict)
    _since: dict[int, float] = field(default_factory=dict)  # when a running job was first heard of
    _late: set[int] = field(default_factory=set)
    _restarts: dict[int, int] = field(default_factory=dict)

    def run(self) -> bool:
        """Run all jobs, the longest ones first, until the user stops them; return whether the user
        did."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self.do_job: Any = ray.remote(do_job)
        self.largest = largest_node(ray.nodes())  # type: ignore[no-untyped-call]
        for missing in self.request.missing(self.largest):
            say(render_note(missing, NOTES))
        self._todo = sorted(self.numbers, key=lambda number: -self.plan[number].cost)
        return super().run()

    # --------------------------------------------------------------------------------------- submit

    def submit(self) -> None:
        """Submit the jobs that may start now."""
        for number in list(self._todo):
            if len(self._running) >= self.at_once:
                return
            if not self.waits(number):
                self._todo.remove(number)
                self._submit_one(number)

    def _submit_one(self, number: int) -> None:
        planned = self.plan[number]
        assert planned.config is not None
        assert planned.composed is not None
        job = _job(planned)
        anew = must_start_anew(planned.config, task_of(planned.config))
        needed = [] if anew else [job]
        if planned.after:
            needed.append(Job(planned.after, job.folder.with_name(planned.after)))
        assignment = Assignment(
            number,
            job.job_id,
            replace(planned.config, output_dir=str(job.folder.parents[1])),
            as_yaml(planned.composed),
            os.getcwd(),
            self.shared,
            {sent.job_id: sent_jobs.pack(sent) for sent in needed if sent.evidence()},
            sends_samples=not anew,
        )
        options = self.request.of_job(planned, self.largest)
        name = f"{job.job_id} {' '.join(planned.overrides)}"[:200]
        task = self.do_job.options(max_retries=0, name=name, **options)
        self._running[task.remote(assignment, self.mailbox)] = number

    # --------------------------------------------------------------------------------------- follow

    def poll(self) -> bool:
        """Take the news of the jobs; False when nothing is left to wait for."""
        import ray

        if self.stop_requests and not self._running:
            return False
        ended, _ = (
            ray.wait([*self._running], num_returns=len(self._running), timeout=POLL_S)
            if self._running
            else ([], [])
        )
        self._read_mail()
        for reference in ended:
            self._collect(reference, self._running.pop(reference))
        for reference, number in self._running.items():
            if number in self._since and number not in self._late and self.is_late(self._since[number]):
                self._late.add(number)
                ray.cancel(reference, force=True)
        return bool(self._running or self._todo)

    def _read_mail(self) -> None:
        import ray

        states, files = ray.get(self.mailbox.take.remote())
        running = {*self._running.values()}
        for number, state in states.items():
            if number in running and number not in self._since:
                self._since[number] = time.monotonic()
                self.view.started(number)
            if state is not None:
                self.view.progressed(number, state)
        for number, packed in files.items():
            if number in running:
                with suppress(JobHeld):  # by another process, which has samples of its own
                    sent_jobs.keep(packed, _job(self.plan[number]))

    def _collect(self, reference: Any, number: int) -> None:
        """Record how a job ended; one whose node died runs again."""
        import ray

        planned = self.plan[number]
        is_late = number in self._late
        try:
            outcome = self._take(planned, ray.get(reference))
        except ray.exceptions.TaskCancelledError:
            if self.stop_requests and number not in self._since:
                return  # it has not begun
            outcome = self._death(planned, is_late, "cancelled")
        except (
            ray.exceptions.NodeDiedError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
        ) as error:
            if isinstance(error, ray.exceptions.NodeDiedError) and self._runs_again(number):
                return
            outcome = self._death(planned, is_late, _words(error))
        except (
            ray.exceptions.RayError
        ) as error:  # the task could not be run: another Python, no runner on that node
            outcome = self._death(planned, is_late, " ".join(str(error).split())[-400:])
        except RunnerError as error:  # its files could not be stored or logged here
            outcome = outcome_of_error(error)
        self._since.pop(number, None)
        self.record(number, outcome)

    def _runs_again(self, number: int) -> bool:
        """Put a job back whose node has died, unless that has happened too often."""
        self._restarts[number] = self._restarts.get(number, 0) + 1
        if self.stop_requests or self._restarts[number] > self.request.max_restarts:
            return False
        say(render_note(note("node_died", "warning", job=self.view.labels[number]), NOTES))
        self._since.pop(number, None)
        self._todo.insert(0, number)
        return True

    def _take(self, planned: PlannedJob, delivery: Delivery) -> Outcome:
        """Take over what a node delivers."""
        job, outcome = _job(planned), delivery.outcome
        assert planned.config is not None
        if delivery.files is not None:
            job = replace(job, job_id=delivery.job_id, folder=job.folder.with_name(delivery.job_id))
            anew = must_start_anew(planned.config, task_of(planned.config))
            record = adopted_jobs.adopt(delivery.files, job, planned.config, anew)
            if record.status is Status.FINISHED:
                return Outcome(Status.FINISHED, record, outcome.message)
            outcome.record = None
        if outcome.status is not Status.KILLED:
            return outcome
        if self.stop_requests:
            return outcome
        why = "its process got a signal on its node"
        return planned.record_death(Status.FAILED, why)

    def _death(self, planned: PlannedJob, is_late: bool, reason: str) -> Outcome:
        """Record the end of a job whose process could not do so."""
        if self.stop_requests and not is_late:
            return planned.record_death(Status.KILLED, "interrupted")
        return planned.record_death(Status.FAILED, self.why_late if is_late else reason)

    # ----------------------------------------------------------------------------------------- stop

    def cancel(self) -> None:
        """Have the jobs end as after Ctrl-C, and those that wait for a place not begin."""
        import ray

        self.mailbox.stop.remote()
        for reference, number in self._running.items():
            if number not in self._since:
                ray.cancel(reference)

    def kill(self) -> None:
        """Kill the processes of the jobs that have not ended after Ctrl-C, and record their
        deaths."""
        import ray

        for reference, number in self._running.items():
            ray.cancel(reference, force=True)
            self.record(number, self.plan[number].record_death(Status.KILLED, "killed"))
        self._running.clear()


def _job(planned: PlannedJob) -> Job:
    assert planned.job is not None
    return planned.job


def _words(error: Exception) -> str:
    """Return how a process or a node died, in one line."""
    import ray

    why = "its process died under hydra/launcher=ray (see the logs of Ray on its node)"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        why = "Ray ended its process, because the memory of the node was nearly used up (hydra.launcher.memory_mib)"
    elif isinstance(error, ray.exceptions.NodeDiedError):
        why = "the node that ran it has died, too often (hydra.launcher.max_restarts)"
    return why
