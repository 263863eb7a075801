"""task – the keys of task=generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.prompts import PromptsConfig
from runner.config.task import absolute
from runner_base import Inert, Text, check, filled, setting


@dataclass
class GenerateConfig(PromptsConfig):
    """Completions of the user's own prompts."""

    module: ClassVar[str] = "runner.tasks.generate.task"
    name: ClassVar[str] = "generate"
    branches: list[Text] | None = setting(
        None, Inert("the SHA-256 of the prompts counts, and these are a part of them")
    )
    output: str | None = setting(
        None,
        Inert("names a copy of the completions, and changes nothing in them"),
        filled("give a file, or null"),
    )
    overwrite: bool = setting(False, Inert("whether another file may be replaced"))
    debug: bool = setting(False, Inert("says more about the first prompt"))

    @property
    def common_branches(self) -> list[Text] | None:
        """Return task.branches."""
        return self.branches

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "give the text that each branch begins with, or null for no branches"
        check(self.branches is None or bool(self.branches), "task.branches", self.branches, need)

    @property
    def delivers_to(self) -> str | None:
        """Return the user's file that the completions go to."""
        return None if self.output is None else absolute(self.output)
