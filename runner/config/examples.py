"""Config keys of worked examples, which precede each question in a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.questions import SELECTS, QuestionsConfig
from runner.config.wording import WordingConfig
from runner_base import HASHED, at_least, config_field, not_blank


@dataclass
class ExamplesConfig(WordingConfig, QuestionsConfig):
    """Config keys of tasks whose prompts contain worked examples before each question."""

    shots: int = config_field(0, constraint=at_least(0))
    shots_data: str | None = config_field(None, HASHED)
    shots_split: str = config_field("train", SELECTS, not_blank("name a split of the data"))
