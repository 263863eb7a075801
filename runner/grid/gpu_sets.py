"""Assigns GPUs to a grid's workers, as model.device and the needs of the jobs require."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.engines.kinds import ResourceNeed
from runner_base import visible_gpus
from runner_base.visible_gpus import Gpu


@dataclass(frozen=True)
class GpuSet:
    """The GPUs that are assigned to a worker."""

    numbers: frozenset[int] = frozenset()  # among those that the grid's process sees
    # empty: the worker sees all that this process sees
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"GPU {' and '.join(map(str, sorted(self.numbers)))}" if self.numbers else "a GPU"


@dataclass
class GpuAllocator:
    """Assigns this machine's GPUs to workers."""

    gpus: Sequence[Gpu] = ()
    are_shared: bool = False  # whether several workers may have the same GPU
    are_all_seen: bool = False  # whether each worker sees all of them, as a job alone does

    def allocate_gpus(
        self, need: ResourceNeed, workers_per_gpu: Counter[int], avoided_gpus: Collection[int] = ()
    ) -> GpuSet | None:
        """Return free GPUs for a new worker, or None if too few GPUs are free."""
        named = {number for number in need.named_gpus if number < len(self.gpus)}
        free = [number for number in range(len(self.gpus)) if self.are_shared or not workers_per_gpu[number]]
        free.sort(key=lambda number: (number in avoided_gpus, workers_per_gpu[number]))
        numbers = frozenset(named or free[: self._count_needed_gpus(need)])
        if len(numbers) < self._count_needed_gpus(need) or not numbers <= set(free):
            return None
        if named or not numbers or self.are_all_seen:
            return GpuSet(numbers)
        names = ",".join(self.gpus[number].name for number in sorted(numbers))
        return GpuSet(numbers, {visible_gpus.visible_devices_variable(): names})

    def can_run_on_gpu_set(
        self, gpu_set: GpuSet, need: ResourceNeed, avoided_gpus: Collection[int] = ()
    ) -> bool:
        """Return whether a job can run on these GPUs.

        The job must use every GPU of the set, so that none is idle.
        """
        named = {number for number in need.named_gpus if number < len(self.gpus)}
        if named:
            return gpu_set.numbers == named and not gpu_set.environment
        if gpu_set.numbers and not (
            gpu_set.environment or self.are_all_seen
        ):  # it has been started for jobs that name one
            return False
        can_avoid = bool(set(range(len(self.gpus))) - set(avoided_gpus))
        is_avoided = can_avoid and bool(gpu_set.numbers & set(avoided_gpus))
        return len(gpu_set.numbers) == self._count_needed_gpus(need) and not is_avoided

    def _count_needed_gpus(self, need: ResourceNeed) -> int:
        """Return the number of GPUs that a job gets. With MIG, a process can use only one GPU
        instance.
        """
        named = sum(number < len(self.gpus) for number in need.named_gpus)
        most = 1 if any(gpu.is_part for gpu in self.gpus) else len(self.gpus)
        return named or min(need.gpus, most)


def compute_max_resource_need(needs: Iterable[ResourceNeed]) -> ResourceNeed:
    """Return the largest need of each resource, for jobs that run one after another."""
    every = list(needs)
    named = frozenset().union(*(need.named_gpus for need in every))
    return ResourceNeed(
        max((need.mib for need in every), default=0.0),
        max((need.threads for need in every), default=1),
        max((need.gpus for need in every), default=0),
        named,
    )
