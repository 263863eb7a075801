"""Config keys of task=sweep, and definitions shared by the tasks that measure speed or memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

from runner.config.prompts import Framing
from runner.config.task import QUESTION_TOKENS, RequestedCompletions, TaskConfig
from runner_base import (
    HASHED,
    ConfigError,
    NotInIdentity,
    ValueConstraint,
    at_least,
    check_value,
    config_field,
    in_range,
    not_blank,
)
from runner_base.errors import check_min_value
from runner_engine import GenerationConfig, Workload

PROMPT_TOKENS = (64, 256)
# in the prompts of one batch, which are generated together: 1,024 rows of 32,768
MAX_TOKENS = 2**25
MAX_REPEATS = 10_000  # of a measurement; a median and its spread settle long before
FROM_THE_SECOND = ": decoding starts at the 2nd token"
MAX_REQUESTS = 100_000  # at one arrival rate; their prompts are generated beforehand, too


@dataclass
class SweepConfig(TaskConfig):
    """Config of task=sweep: speed over batch sizes × prompt lengths × new tokens × shared prefixes, and
    latency under load.
    """

    module: ClassVar[str] = "runner.tasks.sweep.task"
    name: ClassVar[str] = "sweep"
    keeps_samples: ClassVar[bool] = False
    batch_sizes: list[int] = field(default_factory=lambda: [1, 4, 16])
    prompt_tokens: list[int] = field(default_factory=lambda: [*PROMPT_TOKENS])
    new_tokens: Any = 32  # or a list: OmegaConf has no type for a number or a list
    shared_prefix: list[float] = field(default_factory=lambda: [0.0])
    repeats: int = config_field(5, constraint=in_range(1, MAX_REPEATS))
    warmup: int = config_field(1, constraint=in_range(0, MAX_REPEATS))
    prompts: str | None = config_field(
        None, HASHED, not_blank("give the word embedded, a file or a data set, or null for random tokens")
    )
    split: str = config_field(
        "test", NotInIdentity("the job id contains the SHA-256 of the prompts that task.split selects")
    )
    format: Framing = config_field(
        Framing.chat, NotInIdentity("the job id contains the SHA-256 of the formatted prompts")
    )
    arrival_rates: list[float] = field(default_factory=list)
    arrival_duration_s: float = config_field(
        30.0,
        constraint=ValueConstraint(lambda value: 0 < value < math.inf, "must be above 0"),
        renamed_from="arrival_s",
    )
    arrival_requests: int | None = config_field(
        None, constraint=at_least(2, ", or null: task.arrival_duration_s determines the number")
    )
    pictures: bool = config_field(True, NotInIdentity("only draws what was measured"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.new_tokens, list):
            self.new_tokens = [self.new_tokens]  # so that 32 and [32] are one job
        axes = (
            ("batch_sizes", "new_tokens")
            if self._has_real_prompts()
            else ("batch_sizes", "prompt_tokens", "new_tokens")
        )
        for key in axes:
            values = getattr(self, key)
            whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
            check_value(whole, f"task.{key}", values, "give whole numbers, e.g. [1,4,16]")
            _check_axis_values(key, values, "[1,4,16]")
            check_value(
                all(value >= 1 for value in values),
                f"task.{key}",
                values,
                "every value in the list must be at least 1",
            )
        check_min_value(2, "task.new_tokens", min(self.new_tokens), FROM_THE_SECOND)
        _check_axis_values("shared_prefix", self.shared_prefix, "[0,0.5]")
        shares = all(0 <= share <= 1 for share in self.shared_prefix)
        check_value(
            shares,
            "task.shared_prefix",
            self.shared_prefix,
            "every value must be from 0 to 1. It is the fraction of the prompt that is shared",
        )
        rates = self.arrival_rates
        need = "every arrival rate must be above 0. Give requests per second, such as [0.5,1,2]"
        check_value(all(0 < rate < math.inf for rate in rates), "task.arrival_rates", rates, need)
        check_value(len(set(rates)) == len(rates), "task.arrival_rates", rates, "no number may be repeated")
        most = self.arrival_requests or max([0.0, *rates]) * self.arrival_duration_s
        need = f"each arrival rate gets {most:,.0f} requests, but the limit is {MAX_REQUESTS:,}"
        rates_in_s = f"{rates} in task.arrival_duration_s={self.arrival_duration_s:g} seconds"
        is_counted = self.arrival_requests is not None
        key, value = (
            ("arrival_requests", self.arrival_requests) if is_counted else ("arrival_rates", rates_in_s)
        )
        check_value(most <= MAX_REQUESTS, f"task.{key}", value, need, code="too_large")
        rows, tokens = self.batch_sizes, self.prompt_tokens or [1]
        reject_huge_batches(
            f"task.batch_sizes={rows} with task.prompt_tokens={tokens}", max(rows) * max(tokens)
        )

    def _has_real_prompts(self) -> bool:
        """Return whether task.prompts names a file or data set, whose prompts have their own lengths
        and shared prefixes.
        """
        if self.prompts is None:
            return False
        check_value(
            self.prompts != "-",
            "task.prompts",
            "-",
            "a sweep cannot read stdin. Give a file or a data set",
            code="unsupported",
        )
        need = f"the prompts of task.prompts={self.prompts} have their own lengths. Omit this key"
        check_value(
            self.prompt_tokens in ([], [*PROMPT_TOKENS]),
            "task.prompt_tokens",
            self.prompt_tokens,
            need,
            code="conflict",
        )
        need = f"task.prompts={self.prompts} already determines which prefixes prompts share. Omit this key"
        check_value(
            self.shared_prefix == [0.0], "task.shared_prefix", self.shared_prefix, need, code="conflict"
        )
        self.prompt_tokens = []
        return True

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        """Return the smallest batch of the sweep, which must fit in memory. Larger batches may fail."""
        return (min(self.batch_sizes), min(self.prompt_tokens or [QUESTION_TOKENS]), min(self.new_tokens))

    @property
    def num_limit_measurements(self) -> int:
        """Number of times that the task measures the machine's bandwidth and compute limits, once per
        round.
        """
        return self.warmup + self.repeats

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        """Return the completions of all combinations of settings. Empty for requests that arrive at
        given rates.
        """
        if self.arrival_rates:
            return []
        times = (self.warmup + self.repeats) * len(self.shared_prefix)
        turns = (True, False) if generation.speculation.drafts_every_step else (True,)
        cells = product(self.batch_sizes, self.prompt_tokens or [QUESTION_TOKENS], self.new_tokens)
        return [
            RequestedCompletions(rows, prompt, new, rows * times, self.prompts is None, is_guessed=is_guessed)
            for (rows, prompt, new), is_guessed in product(cells, turns)
        ]


def _check_axis_values(key: str, values: Sequence[float], example: str) -> None:
    check_value(
        bool(values),
        f"task.{key}",
        values,
        f"the list is empty. Give at least one value, such as {example}",
        code="empty",
    )
    check_value(len(set(values)) == len(values), f"task.{key}", values, "no number may be repeated")


def reject_huge_batches(key_names: str, num_tokens: int) -> None:
    """Reject a batch with so many tokens that generating its prompts would take long."""
    if num_tokens > MAX_TOKENS:
        raise ConfigError(
            f"the largest batch has {num_tokens:,} prompt tokens; the limit is {MAX_TOKENS:,}",
            key=key_names,
            code="too_large",
        )
