"""Config keys of task=chat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.task import PromptReuse, RequestedCompletions, TaskConfig
from runner_base import NotInIdentity, Text, config_field, not_blank
from runner_engine import GenerationConfig


@dataclass
class ChatConfig(TaskConfig):
    """Config of task=chat, a conversation in the terminal."""

    module: ClassVar[str] = "runner.tasks.chat.task"
    name: ClassVar[str] = "chat"
    keeps_samples: ClassVar[bool] = False
    answers_on_stdout: ClassVar[bool] = True
    prompt_reuse: ClassVar[PromptReuse] = PromptReuse.conversations
    system: Text | None = None
    load: str | None = config_field(
        None,
        NotInIdentity("every conversation is a separate job"),
        not_blank("give a conversation file written by /save, or null"),
    )

    @property
    def reads_stdin(self) -> bool:
        return True

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        """Return an empty list, because the length of a conversation is unknown."""
        return []
