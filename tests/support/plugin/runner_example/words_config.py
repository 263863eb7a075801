"""task=words – its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.task import TaskConfig
from runner_base.bounds import not_blank
from runner_base.fields import MISSING, Text, config_field


@dataclass
class WordsConfig(TaskConfig):
    """How many words an answer has."""

    module: ClassVar[str] = "runner_example.words"
    name: ClassVar[str] = "words"
    prompt: Text = config_field(MISSING, constraint=not_blank("give what to ask"))
