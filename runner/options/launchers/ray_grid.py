"""Runs a grid's jobs with Ray: submits them, collects their results, and restarts them after a node
failure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from runner.config.hydra import format_config_as_yaml
from runner.grid.executor import Executor
from runner.grid.outcomes import JobOutcome, make_outcome_from_error
from runner.grid.plan import PlannedJob, predict_resources
from runner.options.launchers.ray_jobs import Mailbox, RayJobRequest, RayJobResult, SharedFile, run_ray_job
from runner.options.launchers.render.notes import NOTES
from runner.records import job_archives
from runner.records.jobs import Job
from runner.run import must_ignore_earlier_results
from runner.tasks.base import import_task_module
from runner.tracking import adopted_jobs
from runner_base import (
    JobAlreadyRunning,
    RunnerError,
    Status,
    at_least,
    check_config_values,
    config_field,
    print_message,
)
from runner_base.notes import Note, note
from runner_base.render.notes import render_note

POLL_S = 0.5
MIB = 2**20


@dataclass(frozen=True)
class RayResources:
    """Ray resources (such as CPUs and GPUs) that the user requests for each job."""

    num_cpus: float | None = None
    num_gpus: float = config_field(0.0, constraint=at_least(0))
    memory_mib: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    max_restarts: int = config_field(3, constraint=at_least(0))

    def __post_init__(self) -> None:
        check_config_values("hydra.launcher", self)

    def get_ray_resources_for_job(
        self, planned_job: PlannedJob, node_resources: Mapping[str, float]
    ) -> dict[str, Any]:
        """Return the Ray resources to reserve for a job: the configured ones, or else a prediction.

        Predictions do not exceed the largest node.
        """
        assert planned_job.resolved is not None
        predicted = predict_resources(planned_job.resolved)
        cpus = (
            min(predicted.threads, node_resources.get("CPU", 1.0)) if self.num_cpus is None else self.num_cpus
        )
        memory = min(predicted.mib * MIB, node_resources.get("memory", 0.0))
        return {
            "num_cpus": cpus,
            "num_gpus": self.num_gpus,
            "memory": int(memory if self.memory_mib is None else self.memory_mib * MIB),
            "resources": {**self.resources},
        }

    def make_missing_resource_notes(self, node_resources: Mapping[str, float]) -> list[Note]:
        asked = {"CPU": self.num_cpus or 0.0, "GPU": self.num_gpus}
        asked |= {"memory": (self.memory_mib or 0.0) * MIB, **self.resources}
        return [
            note("no_node", "warning", resource=name, asked=amount, most=most)
            for name, amount in asked.items()
            if amount > (most := node_resources.get(name, 0.0))
        ]


def find_max_node_resources(nodes: list[dict[str, Any]]) -> dict[str, float]:
    largest: dict[str, float] = {}
    for node in nodes:
        for name, amount in node["Resources"].items() if node["Alive"] else ():
            largest[name] = max(amount, largest.get(name, 0.0))
    return largest


@dataclass(kw_only=True)
class RayExecutor(Executor):
    """Submits a grid's jobs to Ray, watches them, and records their outcomes."""

    request: RayResources
    shared: SharedFile
    at_once: int
    _todo: list[int] = field(default_factory=list)
    # Ray's reference -> the number of the job
    _running: dict[Any, int] = field(default_factory=dict)
    _since: dict[int, float] = field(default_factory=dict)  # when a running job was first heard of
    _late: set[int] = field(default_factory=set)
    _restarts: dict[int, int] = field(default_factory=dict)

    def run(self) -> bool:
        """Run all jobs, longest first. Returns True if the user has stopped the grid."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self.do_job: Any = ray.remote(run_ray_job)
        self.largest = find_max_node_resources(ray.nodes())  # type: ignore[no-untyped-call]
        for missing in self.request.make_missing_resource_notes(self.largest):
            print_message(render_note(missing, NOTES))
        self._todo = sorted(self.numbers, key=lambda number: -self.plan[number].cost)
        return super().run()

    # --------------------------------------------------------------------------------------- submit

    def submit(self) -> None:
        for number in list(self._todo):
            if len(self._running) >= self.at_once:
                return
            if not self.is_waiting_for_job(number):
                self._todo.remove(number)
                self._submit_job(number)

    def _submit_job(self, job_index: int) -> None:
        planned = self.plan[job_index]
        assert planned.config is not None
        assert planned.composed is not None
        job = _require_job(planned)
        anew = must_ignore_earlier_results(planned.config, import_task_module(planned.config))
        needed = [] if anew else [job]
        if planned.after:
            needed.append(Job(planned.after, job.folder.with_name(planned.after)))
        assignment = RayJobRequest(
            job_index,
            job.job_id,
            replace(planned.config, output_dir=str(job.folder.parents[1])),
            format_config_as_yaml(planned.composed),
            os.getcwd(),
            self.shared,
            {sent.job_id: job_archives.pack_job_folder(sent) for sent in needed if sent.list_result_files()},
            sends_samples=not anew,
        )
        options = self.request.get_ray_resources_for_job(planned, self.largest)
        name = f"{job.job_id} {' '.join(planned.overrides)}"[:200]
        task = self.do_job.options(max_retries=0, name=name, **options)
        self._running[task.remote(assignment, self.mailbox)] = job_index

    # --------------------------------------------------------------------------------------- follow

    def poll(self) -> bool:
        """Process messages from the jobs on Ray. Returns False when no jobs are left."""
        import ray

        if self.stop_requests and not self._running:
            return False
        ended, _ = (
            ray.wait([*self._running], num_returns=len(self._running), timeout=POLL_S)
            if self._running
            else ([], [])
        )
        self._receive_job_progress_and_files()
        for reference in ended:
            self._collect_result(reference, self._running.pop(reference))
        for reference, number in self._running.items():
            if number in self._since and number not in self._late and self.has_timed_out(self._since[number]):
                self._late.add(number)
                ray.cancel(reference, force=True)
        return bool(self._running or self._todo)

    def _receive_job_progress_and_files(self) -> None:
        import ray

        states, files = ray.get(self.mailbox.drain_job_progress_and_files.remote())
        running = {*self._running.values()}
        for number, state in states.items():
            if number in running and number not in self._since:
                self._since[number] = time.monotonic()
                self.view.mark_started(number)
            if state is not None:
                self.view.update_progress(number, state)
        for number, packed in files.items():
            if number in running:
                with suppress(JobAlreadyRunning):  # by another process, which has samples of its own
                    job_archives.unpack_partial_job(packed, _require_job(self.plan[number]))

    def _collect_result(self, ray_reference: Any, job_index: int) -> None:
        """Record a finished job's outcome, or restart the job if its node failed."""
        import ray

        planned = self.plan[job_index]
        is_late = job_index in self._late
        try:
            outcome = self._store_job_result(planned, ray.get(ray_reference))
        except ray.exceptions.TaskCancelledError:
            if self.stop_requests and job_index not in self._since:
                return  # it has not begun
            outcome = self._record_dead_job(planned, is_late, "cancelled")
        except (
            ray.exceptions.NodeDiedError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
        ) as error:
            if isinstance(error, ray.exceptions.NodeDiedError) and self._requeue_after_node_failure(
                job_index
            ):
                return
            outcome = self._record_dead_job(planned, is_late, _describe_ray_failure(error))
        except (
            ray.exceptions.RayError
        ) as error:  # the task could not be run: another Python, no runner on that node
            outcome = self._record_dead_job(planned, is_late, " ".join(str(error).split())[-400:])
        except RunnerError as error:  # its files could not be stored or logged here
            outcome = make_outcome_from_error(error)
        self._since.pop(job_index, None)
        self.record_outcome(job_index, outcome)

    def _requeue_after_node_failure(self, job_index: int) -> bool:
        """Requeue a job whose node failed, at most max_restarts times. Returns whether the job
        was requeued.
        """
        self._restarts[job_index] = self._restarts.get(job_index, 0) + 1
        if self.stop_requests or self._restarts[job_index] > self.request.max_restarts:
            return False
        print_message(render_note(note("node_died", "warning", job=self.view.labels[job_index]), NOTES))
        self._since.pop(job_index, None)
        self._todo.insert(0, job_index)
        return True

    def _store_job_result(self, planned_job: PlannedJob, job_result: RayJobResult) -> JobOutcome:
        """Store the result files of a job that ran on another node, and return the job's outcome."""
        job, outcome = _require_job(planned_job), job_result.outcome
        assert planned_job.config is not None
        if job_result.files is not None:
            job = replace(job, job_id=job_result.job_id, folder=job.folder.with_name(job_result.job_id))
            anew = must_ignore_earlier_results(planned_job.config, import_task_module(planned_job.config))
            record = adopted_jobs.adopt_job(job_result.files, job, planned_job.config, anew)
            if record.status is Status.FINISHED:
                return JobOutcome(Status.FINISHED, record, outcome.message)
            outcome.record = None
        if outcome.status is not Status.KILLED:
            return outcome
        if self.stop_requests:
            return outcome
        why = "the process of this job received a signal on its node"
        return planned_job.record_dead_job_process(Status.FAILED, why)

    def _record_dead_job(self, planned_job: PlannedJob, is_timed_out: bool, message: str) -> JobOutcome:
        if self.stop_requests and not is_timed_out:
            return planned_job.record_dead_job_process(Status.KILLED, "interrupted")
        return planned_job.record_dead_job_process(
            Status.FAILED, self.timeout_message if is_timed_out else message
        )

    # ----------------------------------------------------------------------------------------- stop

    def cancel(self) -> None:
        """Interrupt running jobs as Ctrl-C would, and cancel jobs that have not started."""
        import ray

        self.mailbox.request_stop.remote()
        for reference, number in self._running.items():
            if number not in self._since:
                ray.cancel(reference)

    def kill(self) -> None:
        """Kill the jobs that did not end after the interrupt, and record them as killed."""
        import ray

        for reference, number in self._running.items():
            ray.cancel(reference, force=True)
            self.record_outcome(number, self.plan[number].record_dead_job_process(Status.KILLED, "killed"))
        self._running.clear()


def _require_job(planned: PlannedJob) -> Job:
    assert planned.job is not None
    return planned.job


def _describe_ray_failure(error: Exception) -> str:
    import ray

    why = "Ray lost the process of this job. Read Ray's logs on the job's node"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        why = "Ray ended the process, because the node ran out of memory (limit: hydra.launcher.memory_mib)"
    elif isinstance(error, ray.exceptions.NodeDiedError):
        why = "the job's nodes failed more often than hydra.launcher.max_restarts allows"
    return why
