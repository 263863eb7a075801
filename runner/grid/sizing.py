"""How much a job takes, and so how many workers there can be: known from the checkpoint's headers alone."""

from __future__ import annotations

from dataclasses import dataclass

from runner.checkpoints import footprint
from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.core import machine
from runner.grid.plan import Planned
from runner.grid.workers import group
from runner.tasks.base import Predicts, Uses, task_of

WORKER_MIB = 600.0  # an interpreter with torch and transformers, before any weights
SMALL_WEIGHT_MIB = 100.0  # below this a model gains nothing from a second thread (see model/load.py)
TYPICAL_ROWS = 64  # at once, where the engine is to choose


def how_many(plan: list[Planned], numbers: list[int], wanted: str) -> int:
    """Return the number of workers: as asked, or what GPUs, cores and memory allow."""
    groups = len(group(plan, numbers))
    if wanted != "auto":
        return min(int(wanted), groups)
    if any(plan[number].measures for number in numbers):
        return 1  # a measurement beside another job measures the other job, too
    if gpus := len(machine.gpu_models()):
        return min(gpus, groups)
    configs = {plan[number].base: plan[number].config for number in numbers}
    needs = [need_of(config) for config in configs.values() if config is not None]
    by_memory = int(0.8 * machine.available_mib() // (WORKER_MIB + max(need.mib for need in needs)))
    by_cores = machine.cores() // max(need.threads for need in needs)
    return max(1, min(groups, by_memory, by_cores))


@dataclass(frozen=True)
class Need:
    """What one job with this base takes."""

    mib: float
    threads: int


def need_of(config: RunnerConfig) -> Need:
    """Predict memory and threads of a job from the checkpoint's headers; nothing is known of one without."""
    task = task_of(config)
    if isinstance(task, Predicts):
        return Need(task.predict_mib(config), machine.cores())
    if isinstance(config.model, StubConfig) or Uses.weights not in task.USES:
        return Need(0.0, 1)
    predicted = footprint.predict(config, *config.task.workload(config.generation, TYPICAL_ROWS))
    if predicted is None:
        return Need(0.0, machine.cores())
    small = predicted.weight_mib < SMALL_WEIGHT_MIB
    threads = config.model.threads or (1 if small else machine.cores())
    return Need(predicted.weight_mib + predicted.kv_cache_mib + predicted.activation_mib, threads)
