"""Config keys of task=multiple_choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from runner.config.early_stop import EarlyStopConfig
from runner.config.questions import EMBEDDED, SELECTS
from runner_base import (
    HASHED,
    UNLESS_DEFAULT,
    NotInIdentity,
    Text,
    at_least,
    check_value,
    config_field,
    in_range,
    not_blank,
)
from runner_engine import GenerationConfig, Workload

TYPICAL_PROMPT = 110  # tokens of a question with its choices
TYPICAL_QUESTIONS = 2000
MAX_SHOTS = 100
LEVELS = {1: "worked answer", 2: "result only"}  # of the embedded questions: what each choice is


class Scoring(StrEnum):
    """How the model chooses: by the log-likelihood of each choice, or by the letter that it generates."""

    likelihood = "likelihood"
    generation = "generation"


class ChoiceMetric(StrEnum):
    """By what a choice's log-likelihood is divided before the largest wins: nothing, characters, bytes."""

    acc = "acc"
    acc_norm = "acc_norm"
    acc_bytes = "acc_bytes"


class ClusterKey(StrEnum):
    """What the questions of a cluster share: nothing, or their subject."""

    question = "question"
    subject = "subject"


@dataclass
class MultipleChoiceConfig(EarlyStopConfig):
    """Config of task=multiple_choice: questions with given choices, scored by likelihood or by generation."""

    module: ClassVar[str] = "runner.options.multiple_choice.task"
    name: ClassVar[str] = "multiple_choice"
    gives_verdicts: ClassVar[bool] = True
    early_stop_needs: ClassVar[Mapping[str, Any]] = {"cluster": ClusterKey.question, "repeat_index": 0}
    data: str = config_field(
        EMBEDDED, HASHED, not_blank("give embedded, a data set such as arc_easy, or a file of questions")
    )
    format: str | None = config_field(
        None,
        NotInIdentity("the job id contains the SHA-256 of the prompts and choices, not this key"),
        not_blank("give a data set such as arc_easy, a YAML file, or null for that of task.data"),
    )
    subset: str | None = config_field(None, SELECTS, not_blank("name a subset of the data set, or null"))
    split: str | None = config_field(None, SELECTS, not_blank("name a split, or null for the data set's"))
    limit: int | None = config_field(300, constraint=at_least(1, ", or null for all"))
    shuffle_seed: int | None = config_field(None, SELECTS, at_least(0, ", or null for the order of the data"))
    shots: int = config_field(0, constraint=in_range(0, MAX_SHOTS))
    shots_data: str | None = config_field(None, HASHED, not_blank("give a file of examples, or null"))
    scoring: Scoring = Scoring.likelihood
    metric: ChoiceMetric | None = None
    instruction: Text = config_field("Answer with the letter of the correct choice, such as 'Answer: A'.")
    system: Text | None = None
    cluster: ClusterKey = config_field(
        ClusterKey.question, NotInIdentity("the job id contains the SHA-256 of the clusters, not this key")
    )
    repeat_index: int = config_field(0, UNLESS_DEFAULT, at_least(0))
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "the embedded data set has no last question. Set a limit, such as task.limit=300"
        is_endless = self.is_generated and self.limit is None
        check_value(not is_endless, "task.limit", "null", need, code="missing")
        is_chat = self.uses_chat_template
        need = "a likelihood decides on the letter only with task.scoring=likelihood. Omit this key"
        check_value(not is_chat or self.metric is None, "task.metric", self.metric, need, code="conflict")
        need = "worked examples are for task.scoring=likelihood. Omit this key"
        check_value(not is_chat or not self.shots, "task.shots", self.shots, need, code="conflict")
        need = "only task.scoring=generation has a chat with a system message. Omit this key"
        check_value(is_chat or self.system is None, "task.system", self.system, need, code="conflict")

    @property
    def is_generated(self) -> bool:
        return self.data == EMBEDDED

    @property
    def uses_chat_template(self) -> bool:
        return self.scoring is Scoring.generation

    @property
    def subject(self) -> str:
        return self.data if self.is_generated else self.data.rpartition("/")[2]

    @property
    def expected_completions(self) -> int:
        return self.limit or TYPICAL_QUESTIONS

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        new = generation.max_total_new_tokens if self.uses_chat_template else 1
        return generation.batch_size or batch_size, TYPICAL_PROMPT * (1 + self.shots), new
