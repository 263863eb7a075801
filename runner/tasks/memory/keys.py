"""Config keys of task=memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from runner.config.measures import FROM_THE_SECOND, MAX_REPEATS, reject_huge_batches
from runner.config.task import RequestedCompletions, TaskConfig
from runner_base import NotInIdentity, at_least, check_value, config_field, in_range
from runner_engine import GenerationConfig, Workload


@dataclass
class MemoryConfig(TaskConfig):
    """Config of task=memory: predicted and measured memory of import, load, prefill and decode in a
    fresh process.
    """

    module: ClassVar[str] = "runner.tasks.memory.task"
    name: ClassVar[str] = "memory"
    keeps_samples: ClassVar[bool] = False
    has_fresh_processes: ClassVar[bool] = (
        True  # each repeat is a process of its own, so repeats count as runs
    )
    batch_size: int = config_field(8, constraint=at_least(1))
    prompt_tokens: int = config_field(256, constraint=at_least(1))
    new_tokens: int = config_field(32, constraint=at_least(2, FROM_THE_SECOND))
    batch_sizes: list[int] = field(default_factory=list)
    context_lengths: list[int] = field(default_factory=list)
    repeats: int = config_field(3, constraint=in_range(1, MAX_REPEATS))
    pictures: bool = config_field(True, NotInIdentity("only draws what was measured"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, values in (("batch_sizes", self.batch_sizes), ("context_lengths", self.context_lengths)):
            check_value(len(set(values)) == len(values), f"task.{key}", values, "no number may be repeated")
        rows = self.batch_sizes
        check_value(
            all(row >= 1 for row in rows), "task.batch_sizes", rows, "every batch size must be at least 1"
        )
        need = (
            f"every context length must exceed task.new_tokens={self.new_tokens}, because a context "
            "includes the new tokens"
        )
        lengths = self.context_lengths
        check_value(
            all(tokens > self.new_tokens for tokens in lengths), "task.context_lengths", lengths, need
        )
        keys = (
            "batch_sizes" if self.batch_sizes else "batch_size",
            "context_lengths" if self.context_lengths else "prompt_tokens",
        )
        settings = " with ".join(f"task.{key}={getattr(self, key)}" for key in keys)
        reject_huge_batches(settings, max(rows * prompt for rows, prompt, _ in self.measured_workloads))

    @property
    def measured_workloads(self) -> list[Workload]:
        """Pairs of batch size and context length to measure, smallest first."""
        prompts = [tokens - self.new_tokens for tokens in self.context_lengths] or [self.prompt_tokens]
        points = [
            (rows, prompt, self.new_tokens)
            for rows in self.batch_sizes or [self.batch_size]
            for prompt in prompts
        ]
        return sorted(points, key=lambda point: (point[0] * (point[1] + point[2]), point[0]))

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        """Return the smallest combination of batch size and context length that is measured."""
        return self.measured_workloads[0]

    @property
    def num_loads(self) -> int:
        """Number of model loads: each repeat loads the model in a fresh process."""
        return self.repeats

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        """Return the completions that the job requests: one batch per repeat, batch size and context
        length.
        """
        return [
            RequestedCompletions(rows, prompt, new, rows * self.repeats, True)
            for rows, prompt, new in self.measured_workloads
        ]
