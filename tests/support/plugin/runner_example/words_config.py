"""task=words – its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.task import TaskConfig
from runner_base.bounds import filled
from runner_base.fields import MISSING, Text, setting


@dataclass
class WordsConfig(TaskConfig):
    """How many words an answer has."""

    module: ClassVar[str] = "runner_example.words"
    name: ClassVar[str] = "words"
    prompt: Text = setting(MISSING, takes=filled("give what to ask"))
