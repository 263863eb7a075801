"""Computes how many workers a grid may have, and groups the jobs that share a model."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runner.config.root import AUTO
from runner.estimates.fit import PROCESS_MIB
from runner.grid.plan import PlannedJob
from runner_base import machine


def group_jobs_by_model(plan: list[PlannedJob], job_numbers: list[int]) -> deque[deque[int]]:
    """Group jobs that share a base model. The most expensive group comes first.

    Within a group, jobs that wait for no other job come first.
    """
    groups: dict[str, deque[int]] = {}
    for number in sorted(job_numbers, key=lambda number: bool(plan[number].after)):
        groups.setdefault(plan[number].base or f"alone {number}", deque()).append(number)
    return deque(sorted(groups.values(), key=lambda members: -sum(plan[n].cost for n in members)))


@dataclass(frozen=True)
class WorkerLimits:
    """Maximum numbers of workers that may run at the same time."""

    total: int
    on_cpu: int  # without a GPU
    is_given: bool = False  # by the user: then several workers may have the same GPU and load the same base
    is_measuring: bool = False  # one at a time, by jobs whose ids depend on all GPUs that a process sees


def compute_worker_limits(
    plan: list[PlannedJob], job_numbers: list[int], workers_setting: str
) -> WorkerLimits:
    """Return how many workers may run: the configured number, or as many as cores, memory and
    GPUs allow.

    On the CPU there is one worker per base model. On GPUs the number depends on how many GPUs each
    needs.
    """
    if workers_setting != AUTO:
        count = min(int(workers_setting), len(job_numbers))
        return WorkerLimits(count, count, is_given=True)
    if any(plan[number].measures for number in job_numbers):
        # another job at the same time would distort the measurement
        return WorkerLimits(1, 1, is_measuring=True)
    gpus = len(machine.visible_gpu_models())
    # jobs that share a base need about the same
    first_of_each = [plan[members[0]] for members in group_jobs_by_model(plan, job_numbers)]
    needs = [one.resource_need for one in first_of_each if one.resolved]
    on_cpu = [need for need in needs if not (gpus and need.gpus)]
    if needs and not on_cpu:
        return WorkerLimits(gpus, 0)
    by_memory = int(0.8 * machine.available_memory_mib() // (PROCESS_MIB + max(need.mib for need in on_cpu)))
    by_cores = machine.count_available_cpu_cores() // max(need.threads for need in on_cpu)
    count = max(1, min(len(on_cpu), by_memory, by_cores))
    return WorkerLimits(count + gpus * (len(on_cpu) < len(needs)), count)
