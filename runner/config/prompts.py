"""task – the keys of tasks that complete the user's own prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from runner.config.task import QUESTION_TOKENS, Amount, TaskConfig
from runner_base import HASHED, ConfigError, Inert, Text, check, filled, least, setting
from runner_engine import GenerationConfig


class Framing(StrEnum):
    """How a prompt reaches the model: as a user's turn in its chat template, or as raw text."""

    chat = "chat"
    raw = "raw"


@dataclass
class PromptsConfig(TaskConfig):
    """Shared keys of the tasks that complete the user's own prompts."""

    prompt: Text | None = setting(None, Inert("the SHA-256 of the prompts counts, however they were given"))
    prompts: str | None = setting(None, HASHED, filled("give a file, or -"))
    format: Framing = Framing.chat
    system: Text | None = None
    stop: list[Text] = field(default_factory=list)
    show: int = setting(20, Inert("how many completions are printed"), least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.prompt is None) == (self.prompts is None):
            given = "neither is given" if self.prompt is None else "both are given"
            raise ConfigError(
                f"task={self.name} needs either task.prompt=TEXT or task.prompts=FILE (.txt, .jsonl, or - for stdin): "
                f"{given}",
                code="missing" if self.prompt is None else "conflict",
            )
        check(self.prompt is None or bool(self.prompt), "task.prompt", repr(self.prompt), "give a text")
        check(all(self.stop), "task.stop", self.stop, "an empty text would end every completion at once")
        if self.format is Framing.raw and self.system:
            raise ConfigError(
                "task.system needs task.format=chat: a raw prompt has no system message", code="conflict"
            )

    @property
    def common_branches(self) -> list[Text] | None:
        """Return the texts that a branch of each prompt begins with; None: prompts have none, or
        their own."""
        return None

    @property
    def asks_in_chat(self) -> bool:
        """Whether prompts are turns of a chat."""
        return self.format is Framing.chat

    @property
    def reads_stdin(self) -> bool:
        """Whether the prompts come from stdin."""
        return "-" in (self.prompt, self.prompts)

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the one prompt, or those of a file once it has been read."""
        count = 1 if self.prompt is not None else read
        return (
            []
            if count is None
            else [Amount(generation.batch_size, QUESTION_TOKENS, generation.most_new_tokens, count)]
        )
