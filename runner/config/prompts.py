"""Config keys of tasks that complete the user's own prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from runner.config.task import QUESTION_TOKENS, TaskConfig, WorkAmount
from runner_base import (
    HASHED,
    ConfigError,
    NotInIdentity,
    Text,
    at_least,
    check_value,
    config_field,
    not_blank,
)
from runner_engine import GenerationConfig


class Framing(StrEnum):
    """Form in which a prompt is given to the model: as a user turn in the chat template, or as raw text."""

    chat = "chat"
    raw = "raw"


@dataclass
class PromptsConfig(TaskConfig):
    """Config keys shared by the tasks that complete the user's own prompts."""

    prompt: Text | None = config_field(
        None, NotInIdentity("the SHA-256 of the prompts counts, however they were given")
    )
    prompts: str | None = config_field(None, HASHED, not_blank("give a file, or -"))
    format: Framing = Framing.chat
    system: Text | None = None
    stop: list[Text] = field(default_factory=list)
    show: int = config_field(20, NotInIdentity("how many completions are printed"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.prompt is None) == (self.prompts is None):
            given = "neither is given" if self.prompt is None else "both are given"
            raise ConfigError(
                (
                    f"task={self.name} needs either task.prompt=TEXT or task.prompts=FILE (.txt, "
                    f".jsonl, or - for stdin): {given}"
                ),
                code="missing" if self.prompt is None else "conflict",
            )
        check_value(self.prompt is None or bool(self.prompt), "task.prompt", repr(self.prompt), "give a text")
        check_value(all(self.stop), "task.stop", self.stop, "an empty string would end every answer at once")
        if self.format is Framing.raw and self.system:
            raise ConfigError(
                "task.system needs task.format=chat, because a raw prompt has no system message",
                code="conflict",
            )

    @property
    def common_branches(self) -> list[Text] | None:
        """Branch beginnings that all prompts share. None if prompts have no branches, or each prompt has its
        own.
        """
        return None

    @property
    def uses_chat_template(self) -> bool:
        return self.format is Framing.chat

    @property
    def reads_stdin(self) -> bool:
        return "-" in (self.prompt, self.prompts)

    def requested_work(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[WorkAmount]:
        """Return the work amount of the single prompt, or of the prompts of a file that has been read."""
        count = 1 if self.prompt is not None else num_questions
        return (
            []
            if count is None
            else [WorkAmount(generation.batch_size, QUESTION_TOKENS, generation.max_total_new_tokens, count)]
        )
