"""Config keys of tasks that complete the user's own prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from runner.config.task import QUESTION_TOKENS, RequestedCompletions, TaskConfig
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
    """How a prompt is given to the model: as a user turn in the chat template, or as raw text."""

    chat = "chat"
    raw = "raw"


@dataclass
class PromptsConfig(TaskConfig):
    """Config keys shared by the tasks that complete the user's own prompts."""

    prompt: Text | None = config_field(
        None, NotInIdentity("the job id contains the SHA-256 of the prompts, not this key")
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
                    f"task={self.name} needs one source of prompts, but {given}. Use "
                    "task.prompt=TEXT or task.prompts=FILE (.txt, .jsonl, or - for stdin)"
                ),
                code="missing" if self.prompt is None else "conflict",
            )
        check_value(self.prompt is None or bool(self.prompt), "task.prompt", repr(self.prompt), "give a text")
        check_value(
            all(self.stop), "task.stop", self.stop, "an empty stop string would end every answer at once"
        )
        if self.format is Framing.raw and self.system:
            raise ConfigError(
                "task.system needs task.format=chat, because a raw prompt has no system message",
                code="conflict",
            )

    @property
    def common_branches(self) -> list[Text] | None:
        """Branches for every prompt, which are texts with which its answers begin. None without branches."""
        return None

    @property
    def uses_chat_template(self) -> bool:
        return self.format is Framing.chat

    @property
    def reads_stdin(self) -> bool:
        return "-" in (self.prompt, self.prompts)

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        count = 1 if self.prompt is not None else num_questions
        return (
            []
            if count is None
            else [
                RequestedCompletions(
                    generation.batch_size, QUESTION_TOKENS, generation.max_total_new_tokens, count
                )
            ]
        )
