"""The keys of the tasks that measure a model: speed in a sweep, memory in fresh processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from runner.config.generation import GenerationConfig
from runner.config.task import TaskConfig, Workload
from runner.core.errors import check, check_least
from runner.core.fields import inert


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


@dataclass
class MemoryConfig(TaskConfig):
    """Memory of import, load, prefill and decode in a fresh process, predicted next to measured."""

    module: ClassVar[str] = "runner.tasks.memory"
    name: str = "memory"
    batch_size: int = 8
    prompt_tokens: int = 256
    new_tokens: int = 32
    batch: list[int] = field(default_factory=list)
    context: list[int] = field(default_factory=list)
    repeats: int = 3
    pictures: bool = inert(True, "only draws what was measured")

    def __post_init__(self) -> None:
        for key in ("batch_size", "prompt_tokens", "repeats"):
            check_least(1, f"task.{key}", getattr(self, key))
        check_least(2, "task.new_tokens", self.new_tokens, ": decoding starts at the 2nd")
        for key, values in (("batch", self.batch), ("context", self.context)):
            check(len(set(values)) == len(values), f"task.{key}", values, "each number may stand only once")
        check(all(rows >= 1 for rows in self.batch), "task.batch", self.batch, "every number must be 1 or more")
        need = f"every number must be above task.new_tokens={self.new_tokens}, which are the end of a row"
        check(all(tokens > self.new_tokens for tokens in self.context), "task.context", self.context, need)

    @property
    def points(self) -> list[Workload]:
        """What is measured, the smallest first: batch × context, or the one point that the other keys describe."""
        prompts = [tokens - self.new_tokens for tokens in self.context] or [self.prompt_tokens]
        points = [(rows, prompt, self.new_tokens) for rows in self.batch or [self.batch_size] for prompt in prompts]
        return sorted(points, key=lambda point: (point[0] * (point[1] + point[2]), point[0]))

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return the smallest point: the others may fail, and become a note."""
        return self.points[0]
