"""Config keys of task=code."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from runner.config.early_stop import EarlyStopConfig
from runner.config.questions import EMBEDDED, MAX_SAMPLES, SELECTS
from runner.config.task import TaskConfig
from runner_base import (
    HASHED,
    UNLESS_DEFAULT,
    NotInIdentity,
    Text,
    at_least,
    check_value,
    config_field,
    in_range,
    not_blank,
)
from runner_engine import GenerationConfig

EMBEDDED_PROBLEMS, TYPICAL_PROBLEMS = 20, 164
MAX_TIMEOUT_S = 600


class CodePrompt(StrEnum):
    """How a problem is sent: as a chat message, or as the beginning of a Python file."""

    chat = "chat"
    completion = "completion"


@dataclass
class CodeConfig(EarlyStopConfig):
    """Config of task=code: asks for Python functions, and runs them with tests in a sandbox."""

    module: ClassVar[str] = "runner.options.code.task"
    name: ClassVar[str] = "code"
    gives_verdicts: ClassVar[bool] = True
    early_stop_needs: ClassVar[Mapping[str, Any]] = {"samples": 1, "repeat_index": 0}
    typical_prompt_tokens: ClassVar[int] = 180  # of a problem in most chat templates
    data: str = config_field(
        EMBEDDED, HASHED, not_blank("give embedded, a file in HumanEval's or MBPP's format, or a data set id")
    )
    subset: str | None = config_field(None, SELECTS, not_blank("name a subset of the Hub data set, or null"))
    split: str = config_field("test", SELECTS, not_blank("name a split of the data"))
    limit: int | None = config_field(None, constraint=at_least(1, ", or null for all"))
    samples: int = config_field(1, constraint=in_range(1, MAX_SAMPLES))
    prompt: CodePrompt = CodePrompt.chat
    instruction: Text = config_field(
        "Write this Python function. Answer with the complete function in one ```python block."
    )
    system: Text | None = None
    timeout_s: int = config_field(10, constraint=in_range(1, MAX_TIMEOUT_S))
    memory_mib: int = config_field(1024, constraint=at_least(256))
    repeat_index: int = config_field(0, UNLESS_DEFAULT, at_least(0))
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "a completion prompt has no messages. Omit this key, or use task.prompt=chat"
        check_value(
            self.uses_chat_template or self.system is None, "task.system", self.system, need, code="conflict"
        )

    @property
    def uses_chat_template(self) -> bool:
        return self.prompt is CodePrompt.chat

    @property
    def subject(self) -> str:
        return self.data if self.data == EMBEDDED else self.data.rpartition("/")[2]

    @property
    def expected_completions(self) -> int:
        problems = EMBEDDED_PROBLEMS if self.data == EMBEDDED else TYPICAL_PROBLEMS
        return min(self.limit or problems, problems) * self.samples

    @property
    def num_answers_per_question(self) -> int:
        return self.samples

    def adapt_to_generation(self, generation: GenerationConfig) -> tuple[TaskConfig, str]:
        """Return the config with one answer per problem if decoding is greedy, and a message about
        this change.
        """
        if self.samples == 1 or generation.temperature != 0:
            return self, ""
        once = copy(self)
        once.samples = 1
        why = "greedy decoding always gives the same answer, so each problem is asked once"
        return once, f"task.samples={self.samples}: {why}"
