"""Config keys that select the questions of a data set."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from runner.config.extractors import Extractor, GoldKind
from runner.config.task import QUESTION_TOKENS, RequestedCompletions, TaskConfig
from runner.config.wording import default_letter_instruction
from runner_base import HASHED, ConfigError, NotInIdentity, Text, at_least, config_field, not_blank
from runner_engine import GenerationConfig

SELECTS = NotInIdentity("the job id contains the SHA-256 of the selected questions, not this key")
READS_GOLD = NotInIdentity("the job id contains the SHA-256 of the parsed gold answers, not this key")
KEY_OF_ROWS = not_blank("give the name of a key in the data set's records, or null to detect the key")
FILE_OF_QUESTIONS = not_blank("give a file of questions, or null")
OTHER_JOB = NotInIdentity("the job id contains the id of the job that this key names, not the key")
WORDS_FOR_A_JOB = not_blank("give overrides (quantization=none) or the id of another job, or null")
EMBEDDED = "embedded"  # always the data set, even beside a folder of this name
MAX_SAMPLES = 10_000  # answers to one question, which decode together


@dataclass
class QuestionsConfig(TaskConfig):
    """Config keys shared by the tasks that use a data set's questions."""

    data: str = config_field(EMBEDDED, HASHED, not_blank("give embedded, a JSONL file or a data set id"))
    subset: str | None = config_field(
        None, SELECTS, not_blank("give the name of a subset of the Hub data set, or null")
    )
    question_key: str | None = config_field(None, SELECTS, KEY_OF_ROWS)
    answer_key: str | None = config_field(None, SELECTS, KEY_OF_ROWS)
    choices_key: str | None = config_field(None, SELECTS, KEY_OF_ROWS)
    answer_type: GoldKind = config_field(GoldKind.number, READS_GOLD, renamed_from="gold")
    answer_marker: Text | None = config_field(
        None,
        READS_GOLD,
        not_blank("give the text before the answer, or null for ####"),
        renamed_from="gold_after",
    )
    cluster: str | None = config_field(
        None,
        NotInIdentity("the job id contains the SHA-256 of the question clusters, not this key"),
        not_blank("give the record key that names a question's cluster, or null for no clusters"),
    )
    split: str = "test"
    choices_seed: int | None = config_field(None, SELECTS, at_least(0, ", or null for the order of the data"))
    shuffle_seed: int | None = config_field(None, SELECTS, at_least(0, ", or null for the order of the data"))
    offset: int = config_field(0, SELECTS, at_least(0))
    limit: int | None = config_field(200, constraint=at_least(1, ", or null for all"))
    only: str | None = config_field(None, HASHED, FILE_OF_QUESTIONS)
    unscored: str | None = config_field(None, HASHED, FILE_OF_QUESTIONS, renamed_from="without")

    @property
    def questions_config(self) -> QuestionsConfig:
        return self

    @property
    def without_auto_repeats(self) -> QuestionsConfig:
        """This config without automatically repeated questions.

        Engines whose answers depend on the batch cannot repeat answers exactly.
        """
        return self

    @property
    def has_independent_verdicts(self) -> bool:
        """Whether the verdicts are independent: one verdict per question, and no clusters of questions."""
        is_asked_once = getattr(self, "samples", 1) == getattr(self, "rotate", 1) == 1
        return self.gives_verdicts and self.cluster is None and is_asked_once

    @property
    def has_letters(self) -> bool:
        return self.answer_type is GoldKind.letter or self.choices_key is not None

    @property
    def gold_scorer(self) -> str | None:
        """Name of the scorer for mathematical expressions. None if gold answers are numbers or letters."""
        return Extractor.math.value if self.answer_type is GoldKind.expression else None

    def set_detected_choices_key(self, choices_key: str) -> None:
        """Set task.choices_key to the key that was detected in the data, as if the user had set it."""
        self.choices_key = choices_key
        usual = {field.name: field.default for field in fields(self)}.get("instruction")
        if usual is not None and getattr(self, "instruction") == usual:  # noqa: B009 – only some tasks have it
            setattr(self, "instruction", default_letter_instruction(str(usual)))  # noqa: B010

    @property
    def subject(self) -> str:
        return self.split

    @property
    def expected_completions(self) -> int:
        return self.limit or super().expected_completions

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        if self.limit is None and num_questions is None:
            return []
        completions = (
            self if num_questions is None else replace(self, limit=num_questions)
        ).expected_completions
        return [
            RequestedCompletions(
                generation.batch_size, QUESTION_TOKENS, generation.max_total_new_tokens, completions
            )
        ]


def reject_greedy_duplicates(override: str, generation: GenerationConfig) -> None:
    """Raise ConfigError if a question gets several answers but greedy decoding makes them equal."""
    if generation.temperature == 0:
        raise ConfigError(
            (
                f"{override} needs different answers, but generation.temperature=0 makes them equal. "
                "Use generation=sampling or generation.temperature=0.7, or omit "
                f"{override.partition('=')[0]}"
            ),
            code="conflict",
        )
