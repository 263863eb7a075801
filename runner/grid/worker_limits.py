"""How many workers a grid may have at once, and which jobs go to the same worker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runner.config.root import AUTO
from runner.estimates.fit import PROCESS_MIB
from runner.grid.plan import PlannedJob
from runner_base import machine


def group(plan: list[PlannedJob], numbers: list[int]) -> deque[deque[int]]:
    """Group jobs that share a base, the longest group first; a job that loads nothing is a group of
    its own.

    Within a group, jobs that wait for no other job come first.
    """
    groups: dict[str, deque[int]] = {}
    for number in sorted(numbers, key=lambda number: bool(plan[number].after)):
        groups.setdefault(plan[number].base or f"alone {number}", deque()).append(number)
    return deque(sorted(groups.values(), key=lambda members: -sum(plan[n].cost for n in members)))


@dataclass(frozen=True)
class WorkerLimits:
    """How many workers there may be at once."""

    total: int
    on_cpu: int  # without a GPU
    is_given: bool = False  # by the user: then several workers may have the same GPU and load the same base
    is_measuring: bool = False  # one at a time, by jobs whose ids depend on all GPUs that a process sees


def worker_limits(plan: list[PlannedJob], numbers: list[int], wanted: str) -> WorkerLimits:
    """Return how many workers to start: as configured, or as many as cores and memory allow, and
    one for each GPU.

    On the CPU there is one for each base. On GPUs as many work as get the GPUs that they need.
    """
    if wanted != AUTO:
        count = min(int(wanted), len(numbers))
        return WorkerLimits(count, count, is_given=True)
    if any(plan[number].measures for number in numbers):
        # another job at the same time would distort the measurement
        return WorkerLimits(1, 1, is_measuring=True)
    gpus = len(machine.gpu_models())
    # jobs that share a base need about the same
    first_of_each = [plan[members[0]] for members in group(plan, numbers)]
    needs = [one.need for one in first_of_each if one.resolved]
    on_cpu = [need for need in needs if not (gpus and need.gpus)]
    if needs and not on_cpu:
        return WorkerLimits(gpus, 0)
    by_memory = int(0.8 * machine.available_mib() // (PROCESS_MIB + max(need.mib for need in on_cpu)))
    by_cores = machine.cores() // max(need.threads for need in on_cpu)
    count = max(1, min(len(on_cpu), by_memory, by_cores))
    return WorkerLimits(count + gpus * (len(on_cpu) < len(needs)), count)
