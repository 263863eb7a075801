"""task – the keys of task=chat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.task import Amount, TaskConfig
from runner_base import Inert, Text, filled, setting
from runner_engine import GenerationConfig


@dataclass
class ChatConfig(TaskConfig):
    """A conversation in the terminal."""

    module: ClassVar[str] = "runner.tasks.chat.task"
    name: ClassVar[str] = "chat"
    keeps_samples: ClassVar[bool] = False
    answers_on_stdout: ClassVar[bool] = True
    system: Text | None = None
    load: str | None = setting(
        None, Inert("every conversation is a job of its own"), filled("give a file that /save wrote, or null")
    )

    @property
    def reads_stdin(self) -> bool:
        """Return True: the user types there."""
        return True

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return nothing: the user decides how long it takes."""
        return []
