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
        None, NotInIdentity("the input hashes of the prompts include the branches")
    )
    output: str | None = config_field(
        None,
        NotInIdentity("the output file is only a copy of the completions"),
        not_blank("give a file, or null"),
    )
    overwrite: bool = config_field(False, NotInIdentity("whether another file may be replaced"))
    debug: bool = config_field(False, NotInIdentity("says more about the first prompt"))

    @property
    def common_branches(self) -> list[Text] | None:
        return self.branches

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "give a list with the beginning of each branch, or null for no branches"
        check_value(self.branches is None or bool(self.branches), "task.branches", self.branches, need)

    @property
    def output_file(self) -> str | None:
        return None if self.output is None else to_absolute_path(self.output)
