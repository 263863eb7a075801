"""How much a job takes, and so how many workers there can be: known from the checkpoint's headers alone."""

from __future__ import annotations

from runner.checkpoints.resolve import Resolved
from runner.config.root import RunnerConfig
from runner.core import machine
from runner.engines.kinds import Need, kind_of
from runner.grid.plan import Planned
from runner.grid.workers import group
from runner.tasks.base import Predicts, Uses, task_of

WORKER_MIB = 600.0  # an interpreter with torch and transformers, before any weights


def how_many(plan: list[Planned], numbers: list[int], wanted: str) -> int:
    """Return the number of workers: as asked, or what GPUs, cores and memory allow."""
    together = group(plan, numbers)  # jobs that share a base need the same
    groups = len(together)
    if wanted != "auto":
        return min(int(wanted), groups)
    if any(plan[number].measures for number in numbers):
        return 1  # a measurement beside another job measures the other job, too
    if gpus := len(machine.gpu_models()):
        return min(gpus, groups)
    one_of_each = [plan[members[0]] for members in together]
    needs = [need_of(one.config, one.resolved) for one in one_of_each if one.config and one.resolved]
    by_memory = int(0.8 * machine.available_mib() // (WORKER_MIB + max(need.mib for need in needs)))
    by_cores = machine.cores() // max(need.threads for need in needs)
    return max(1, min(groups, by_memory, by_cores))


def need_of(config: RunnerConfig, resolved: Resolved) -> Need:
    """Predict memory and threads of a job."""
    task = task_of(config)
    if isinstance(task, Predicts):
        return Need(task.predict_mib(config), machine.cores())
    return kind_of(config.model).need(config, resolved) if Uses.weights in task.USES else Need(0.0, 1)
