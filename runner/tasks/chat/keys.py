"""Config keys of task=chat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.task import TaskConfig, WorkAmount
from runner_base import NotInIdentity, Text, config_field, not_blank
from runner_engine import GenerationConfig


@dataclass
class ChatConfig(TaskConfig):
    """Config of task=chat, a conversation in the terminal."""

    module: ClassVar[str] = "runner.tasks.chat.task"
    name: ClassVar[str] = "chat"
    keeps_samples: ClassVar[bool] = False
    answers_on_stdout: ClassVar[bool] = True
    system: Text | None = None
    load: str | None = config_field(
        None,
        NotInIdentity("every conversation is a job of its own"),
        not_blank("give a file that /save wrote, or null"),
    )

    @property
    def reads_stdin(self) -> bool:
        """Always True, because the user types on stdin."""
        return True

    def requested_work(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[WorkAmount]:
        """Return no work amounts, because the user decides how long the conversation takes."""
        return []
