"""task=words – its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.task import TaskConfig
from runner.core.errors import check_not_blank
from runner.core.fields import MISSING, Text


@dataclass
class WordsConfig(TaskConfig):
    """How many words an answer has."""

    module: ClassVar[str] = "runner_example.words"
    name: ClassVar[str] = "words"
    prompt: Text = MISSING

    def __post_init__(self) -> None:
        check_not_blank("task.prompt", self.prompt, "give what to ask")
