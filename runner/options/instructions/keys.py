"""Config keys of task=instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from runner.config.early_stop import EarlyStopConfig
from runner.config.questions import EMBEDDED, SELECTS
from runner_base import (
    HASHED,
    UNLESS_DEFAULT,
    NotInIdentity,
    Text,
    at_least,
    check_value,
    config_field,
    not_blank,
)

IFEVAL_PROMPTS = 541
MAX_GENERATED = 3  # instructions of an embedded prompt


class ClusterKey(StrEnum):
    """What the prompts of a cluster share: nothing, or the kind of their first instruction."""

    prompt = "prompt"
    kind = "kind"


@dataclass
class InstructionsConfig(EarlyStopConfig):
    """Config of task=instructions: tests whether answers follow verifiable instructions."""

    module: ClassVar[str] = "runner.options.instructions.task"
    name: ClassVar[str] = "instructions"
    gives_verdicts: ClassVar[bool] = True
    early_stop_needs: ClassVar[Mapping[str, Any]] = {"cluster": ClusterKey.prompt, "repeat_index": 0}
    typical_prompt_tokens: ClassVar[int] = 90  # in most chat templates
    data: str = config_field(
        EMBEDDED, HASHED, not_blank("give embedded, a file in IFEval's format, or a data set id")
    )
    split: str = config_field("train", SELECTS, not_blank("name a split of the data"))
    limit: int | None = config_field(300, constraint=at_least(1, ", or null for all"))
    num_instructions: list[int] = field(default_factory=lambda: [1, 2, 3])
    data_seed: int = config_field(0, constraint=at_least(0))
    exclude_kinds: list[str] = field(default_factory=list)
    cluster: ClusterKey = config_field(
        ClusterKey.prompt, NotInIdentity("the job id contains the SHA-256 of the clusters, not this key")
    )
    system: Text | None = None
    repeat_index: int = config_field(0, UNLESS_DEFAULT, at_least(0))
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = self.num_instructions
        is_valid = all(1 <= number <= MAX_GENERATED for number in numbers) and len(set(numbers)) == len(
            numbers
        )
        need = f"give different numbers from 1 to {MAX_GENERATED}"
        check_value(bool(numbers) and is_valid, "task.num_instructions", numbers, need)
        need = "the embedded data set has no last prompt. Set a limit, such as task.limit=300"
        check_value(
            not (self.is_generated and self.limit is None), "task.limit", "null", need, code="missing"
        )

    @property
    def is_generated(self) -> bool:
        return self.data == EMBEDDED

    @property
    def uses_chat_template(self) -> bool:
        """Always True, because prompts are chat messages."""
        return True

    @property
    def subject(self) -> str:
        return self.data if self.is_generated else self.data.rpartition("/")[2]

    @property
    def expected_completions(self) -> int:
        return self.limit or IFEVAL_PROMPTS
