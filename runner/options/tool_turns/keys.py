"""Config keys of task=tool_turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from runner.config.early_stop import EarlyStopConfig
from runner.config.questions import EMBEDDED
from runner.config.task import PromptReuse
from runner.tasks.tools.keys import AUTO, FORMS, OfferMethod
from runner_base import (
    HASHED,
    UNLESS_DEFAULT,
    NotInIdentity,
    Text,
    at_least,
    check_value,
    config_field,
    format_unknown_choice_message,
    not_blank,
)

LEVELS = ("single", "chain", "lookup", "error", "two_messages")
TYPICAL_TURNS = 4
TYPICAL_SCENARIOS = 120


class ClusterKey(StrEnum):
    """What the scenarios of a cluster share: the template, or nothing."""

    template = "template"
    scenario = "scenario"


@dataclass
class ToolTurnsConfig(EarlyStopConfig):
    """Config of task=tool_turns: tests whether tool calls over several turns reach a goal state."""

    module: ClassVar[str] = "runner.options.tool_turns.task"
    name: ClassVar[str] = "tool_turns"
    gives_verdicts: ClassVar[bool] = True
    early_stop_needs: ClassVar[Mapping[str, Any]] = {"cluster": ClusterKey.scenario, "repeat_index": 0}
    prompt_reuse: ClassVar[PromptReuse] = PromptReuse.blocks
    typical_prompt_tokens: ClassVar[int] = 600  # of the tools and a chat, in most chat templates
    data: str = config_field(EMBEDDED, HASHED, not_blank("give embedded, or a file of scenarios"))
    limit: int | None = config_field(TYPICAL_SCENARIOS, constraint=at_least(1, ", or null for all"))
    levels: list[str] = field(default_factory=lambda: [*LEVELS])
    data_seed: int = config_field(0, constraint=at_least(0))
    max_turns: int = config_field(10, constraint=at_least(1))
    tool_call_format: str = AUTO
    tool_placement: OfferMethod = OfferMethod.template
    cluster: ClusterKey = config_field(
        ClusterKey.template, NotInIdentity("the job id contains the SHA-256 of the clusters, not this key")
    )
    system: Text | None = None
    repeat_index: int = config_field(0, UNLESS_DEFAULT, at_least(0))
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for level in self.levels:
            check_value(
                level in LEVELS,
                "task.levels",
                self.levels,
                format_unknown_choice_message("level", level, LEVELS),
                code="unknown_choice",
            )
        is_valid = bool(self.levels) and len(set(self.levels)) == len(self.levels)
        check_value(is_valid, "task.levels", self.levels, "give at least one level, and none twice")
        check_value(
            self.tool_call_format in FORMS,
            "task.tool_call_format",
            self.tool_call_format,
            format_unknown_choice_message("form", self.tool_call_format, FORMS),
            code="unknown_choice",
        )
        need = "the embedded data set has no last scenario. Set a limit, such as task.limit=120"
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
    def num_answers_per_question(self) -> int:
        """Typical number of answers to a scenario, because a model decides how many it takes."""
        return min(self.max_turns, TYPICAL_TURNS)

    @property
    def expected_completions(self) -> int:
        return (self.limit or TYPICAL_SCENARIOS) * self.num_answers_per_question
