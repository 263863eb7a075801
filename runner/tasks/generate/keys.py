"""Config keys of task=generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.prompts import PromptsConfig
from runner.config.task import to_absolute_path
from runner_base import NotInIdentity, Text, check_value, config_field, not_blank


@dataclass
class GenerateConfig(PromptsConfig):
    """Config of task=generate, which completes the user's own prompts."""

    module: ClassVar[str] = "runner.tasks.generate.task"
    name: ClassVar[str] = "generate"
    branches: list[Text] | None = config_field(
        None, NotInIdentity("the SHA-256 of the prompts counts, and these are a part of them")
    )
    output: str | None = config_field(
        None,
        NotInIdentity("names a copy of the completions, and changes nothing in them"),
        not_blank("give a file, or null"),
    )
    overwrite: bool = config_field(False, NotInIdentity("whether another file may be replaced"))
    debug: bool = config_field(False, NotInIdentity("says more about the first prompt"))

    @property
    def common_branches(self) -> list[Text] | None:
        return self.branches

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "give the text that begins each branch, or null for no branches"
        check_value(self.branches is None or bool(self.branches), "task.branches", self.branches, need)

    @property
    def output_file(self) -> str | None:
        """The user's file to which completions are written. None if no file is configured."""
        return None if self.output is None else to_absolute_path(self.output)
