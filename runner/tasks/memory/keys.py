"""task – the keys of task=memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from runner.config.measures import FROM_THE_SECOND, MAX_REPEATS, check_batch
from runner.config.task import Amount, TaskConfig
from runner_base import Inert, check, least, setting, within
from runner_engine import GenerationConfig, Workload


@dataclass
class MemoryConfig(TaskConfig):
    """Memory of import, load, prefill and decode in a fresh process, predicted and measured."""

    module: ClassVar[str] = "runner.tasks.memory.task"
    name: ClassVar[str] = "memory"
    keeps_samples: ClassVar[bool] = False
    has_fresh_processes: ClassVar[bool] = (
        True  # each repeat is a process of its own, so repeats count as runs
    )
    batch_size: int = setting(8, takes=least(1))
    prompt_tokens: int = setting(256, takes=least(1))
    new_tokens: int = setting(32, takes=least(2, FROM_THE_SECOND))
    batch_sizes: list[int] = field(default_factory=list)
    context_lengths: list[int] = field(default_factory=list)
    repeats: int = setting(3, takes=within(1, MAX_REPEATS))
    pictures: bool = setting(True, Inert("only draws what was measured"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, values in (("batch_sizes", self.batch_sizes), ("context_lengths", self.context_lengths)):
            check(len(set(values)) == len(values), f"task.{key}", values, "no number may be repeated")
        rows = self.batch_sizes
        check(all(row >= 1 for row in rows), "task.batch_sizes", rows, "every number must be 1 or more")
        need = f"every number must be above task.new_tokens={self.new_tokens}, which a context includes"
        lengths = self.context_lengths
        check(all(tokens > self.new_tokens for tokens in lengths), "task.context_lengths", lengths, need)
        keys = (
            "batch_sizes" if self.batch_sizes else "batch_size",
            "context_lengths" if self.context_lengths else "prompt_tokens",
        )
        settings = " with ".join(f"task.{key}={getattr(self, key)}" for key in keys)
        check_batch(settings, max(rows * prompt for rows, prompt, _ in self.points))

    @property
    def points(self) -> list[Workload]:
        """The measured points, smallest first: batch × context, or the one point that the other
        keys describe."""
        prompts = [tokens - self.new_tokens for tokens in self.context_lengths] or [self.prompt_tokens]
        points = [
            (rows, prompt, self.new_tokens)
            for rows in self.batch_sizes or [self.batch_size]
            for prompt in prompts
        ]
        return sorted(points, key=lambda point: (point[0] * (point[1] + point[2]), point[0]))

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return the smallest point; if others fail, the result has a note."""
        return self.points[0]

    @property
    def loads(self) -> int:
        """Return the repeats: each is a fresh process."""
        return self.repeats

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return one batch of each point for each repeat."""
        return [Amount(rows, prompt, new, rows * self.repeats, True) for rows, prompt, new in self.points]
