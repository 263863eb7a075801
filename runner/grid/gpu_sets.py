"""Which GPUs each worker of a grid gets: as many as its jobs need, or those that they name by
model.device=cuda:N."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.engines.kinds import Need
from runner_base import visible_gpus
from runner_base.visible_gpus import Gpu


@dataclass(frozen=True)
class GpuSet:
    """The GPUs of a worker."""

    numbers: frozenset[int] = frozenset()  # among those that the grid's process sees
    # empty: the worker sees all that this process sees
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"GPU {' and '.join(map(str, sorted(self.numbers)))}" if self.numbers else "a GPU"


@dataclass
class GpuSets:
    """The GPUs of this machine, and how workers may use them."""

    gpus: Sequence[Gpu] = ()
    are_shared: bool = False  # whether several workers may have the same GPU
    are_all_seen: bool = False  # whether each worker sees all of them, as a job alone does

    def pick(self, need: Need, used: Counter[int], avoided: Collection[int] = ()) -> GpuSet | None:
        """Return the GPUs for a new worker, beside those that others use; None until enough of them
        are free."""
        named = {number for number in need.named_gpus if number < len(self.gpus)}
        free = [number for number in range(len(self.gpus)) if self.are_shared or not used[number]]
        free.sort(key=lambda number: (number in avoided, used[number]))
        numbers = frozenset(named or free[: self._count(need)])
        if len(numbers) < self._count(need) or not numbers <= set(free):
            return None
        if named or not numbers or self.are_all_seen:
            return GpuSet(numbers)
        names = ",".join(self.gpus[number].name for number in sorted(numbers))
        return GpuSet(numbers, {visible_gpus.variable(): names})

    def is_right(self, gpus: GpuSet, need: Need, avoided: Collection[int] = ()) -> bool:
        """Whether a worker that has these GPUs can do jobs with this need, and none of its GPUs is
        idle meanwhile."""
        named = {number for number in need.named_gpus if number < len(self.gpus)}
        if named:
            return gpus.numbers == named and not gpus.environment
        if gpus.numbers and not (
            gpus.environment or self.are_all_seen
        ):  # it has been started for jobs that name one
            return False
        can_avoid = bool(set(range(len(self.gpus))) - set(avoided))
        is_avoided = can_avoid and bool(gpus.numbers & set(avoided))
        return len(gpus.numbers) == self._count(need) and not is_avoided

    def _count(self, need: Need) -> int:
        """Return how many GPUs a job gets at once: CUDA shows a process only one part of a split
        GPU."""
        named = sum(number < len(self.gpus) for number in need.named_gpus)
        most = 1 if any(gpu.is_part for gpu in self.gpus) else len(self.gpus)
        return named or min(need.gpus, most)


def largest(needs: Iterable[Need]) -> Need:
    """Return what jobs need that are done one after another."""
    every = list(needs)
    named = frozenset().union(*(need.named_gpus for need in every))
    return Need(
        max((need.mib for need in every), default=0.0),
        max((need.threads for need in every), default=1),
        max((need.gpus for need in every), default=0),
        named,
    )
