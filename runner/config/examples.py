"""The keys of worked examples, which go before each question."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.questions import SELECTS, QuestionsConfig
from runner.config.wording import WordingConfig
from runner_base import HASHED, filled, least, setting


@dataclass
class ExamplesConfig(WordingConfig, QuestionsConfig):
    """The keys of a task that asks questions after worked examples."""

    shots: int = setting(0, takes=least(0))
    shots_data: str | None = setting(None, HASHED)
    shots_split: str = setting("train", SELECTS, filled("name a split of the data"))
