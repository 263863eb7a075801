"""The keys of the tasks that measure a model: speed in a sweep, memory in fresh processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

from runner.config.generation import GenerationConfig
from runner.config.task import Amount, TaskConfig, Workload
from runner.core.errors import check, check_least


@dataclass
class SweepConfig(TaskConfig):
    """Speed over batch sizes × prompt lengths."""

    module: ClassVar[str] = "runner.tasks.sweep"
    name: str = "sweep"
    batch_sizes: list[int] = field(default_factory=lambda: [1, 4, 16])
    prompt_tokens: list[int] = field(default_factory=lambda: [64, 256])
    new_tokens: int = 32
    repeats: int = 3
    warmup: int = 1

    def __post_init__(self) -> None:
        for key, values in (("batch_sizes", self.batch_sizes), ("prompt_tokens", self.prompt_tokens)):
            check(bool(values), f"task.{key}", values, "give at least one number, e.g. [1,4,16]")
            check(all(value >= 1 for value in values), f"task.{key}", values, "every number must be 1 or more")
            check(len(set(values)) == len(values), f"task.{key}", values, "each number may stand only once")
        check_least(2, "task.new_tokens", self.new_tokens, ": decoding starts at the 2nd")
        check_least(1, "task.repeats", self.repeats)
        check_least(0, "task.warmup", self.warmup)

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return the smallest cell: the others may fail, and become a note."""
        return min(self.batch_sizes), min(self.prompt_tokens), self.new_tokens

    def amounts(self, generation: GenerationConfig) -> list[Amount]:
        """Return all cells, as often as they are run."""
        rounds, cells = self.warmup + self.repeats, product(self.batch_sizes, self.prompt_tokens)
        return [Amount(rows, prompt, self.new_tokens, rows * rounds, True) for rows, prompt in cells]


@dataclass
class MemoryConfig(TaskConfig):
    """Memory of import, load, prefill and decode in a fresh process, predicted next to measured."""

    module: ClassVar[str] = "runner.tasks.memory"
    name: str = "memory"
    batch_size: int = 8
    prompt_tokens: int = 256
    new_tokens: int = 32
    repeats: int = 3

    def __post_init__(self) -> None:
        for key in ("batch_size", "prompt_tokens", "repeats"):
            check_least(1, f"task.{key}", getattr(self, key))
        check_least(2, "task.new_tokens", self.new_tokens, ": decoding starts at the 2nd")

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return what is measured."""
        return self.batch_size, self.prompt_tokens, self.new_tokens

    @property
    def loads(self) -> int:
        """Return the repeats: each is a fresh process."""
        return self.repeats

    def amounts(self, generation: GenerationConfig) -> list[Amount]:
        """Return one batch for each repeat."""
        rows = self.batch_size
        return [Amount(rows, self.prompt_tokens, self.new_tokens, rows * self.repeats, True)]
