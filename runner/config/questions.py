"""task – the keys that say which questions of a data set are asked."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

from runner.config.extractors import Extractor, Gold
from runner.config.task import QUESTION_TOKENS, Amount, TaskConfig
from runner.config.wording import for_letters
from runner_base import HASHED, ConfigError, Inert, Text, filled, least, setting
from runner_engine import GenerationConfig

SELECTS = Inert("selects questions; the SHA-256 of the selected ones counts instead")
READS_GOLD = Inert("says how a gold answer is read; the SHA-256 of the answers that were read counts instead")
KEY_OF_ROWS = filled("name a key of the rows, or null for a known one")
FILE_OF_QUESTIONS = filled("name a file of questions, or null")
OTHER_JOB = Inert("names another job; the id of that job counts instead")
WORDS_FOR_A_JOB = filled("give overrides such as quantization=none, a job's id, or null")
EMBEDDED = "embedded"  # always the data set, even beside a folder of this name
MAX_SAMPLES = 10_000  # answers to one question, which decode together


@dataclass
class QuestionsConfig(TaskConfig):
    """Shared keys of the tasks that ask a data set's questions: which ones."""

    # the key that says how many comparisons share 5 %; if it is null, a grid counts
    comparisons_key: ClassVar[str] = ""

    data: str = setting(EMBEDDED, HASHED, filled("give embedded, a JSONL file or a dataset id"))
    subset: str | None = setting(None, SELECTS, filled("name a configuration of the hub's data set, or null"))
    question_key: str | None = setting(None, SELECTS, KEY_OF_ROWS)
    answer_key: str | None = setting(None, SELECTS, KEY_OF_ROWS)
    choices_key: str | None = setting(None, SELECTS, KEY_OF_ROWS)
    gold: Gold = setting(Gold.number, READS_GOLD)
    gold_after: Text | None = setting(
        None, READS_GOLD, filled("give the words before the answer, or null for ####")
    )
    cluster: str | None = setting(
        None,
        Inert("names families of questions; the SHA-256 of the families counts instead"),
        filled("name a key of the rows, or null for no families"),
    )
    split: str = "test"
    choices_seed: int | None = setting(None, SELECTS, least(0, ", or null for the order of the data"))
    shuffle_seed: int | None = setting(None, SELECTS, least(0, ", or null for the order of the data"))
    offset: int = setting(0, SELECTS, least(0))
    limit: int | None = setting(200, takes=least(1, ", or null for all"))
    only: str | None = setting(None, HASHED, FILE_OF_QUESTIONS)
    without: str | None = setting(None, HASHED, FILE_OF_QUESTIONS)

    @property
    def of_questions(self) -> QuestionsConfig:
        """Return itself."""
        return self

    @property
    def compared_with(self) -> str | None:
        """Return the words for the job that it is compared with while it runs; None: it is not
        compared."""
        return None

    @property
    def without_asking_again(self) -> QuestionsConfig:
        """Return what it does where the rows of its engine depend on each other, so that none is
        asked again."""
        return self

    @property
    def has_independent_verdicts(self) -> bool:
        """Whether it judges one answer to each question, and has no families of questions."""
        is_asked_once = getattr(self, "samples", 1) == getattr(self, "rotate", 1) == 1
        return self.gives_verdicts and self.cluster is None and is_asked_once

    @property
    def has_letters(self) -> bool:
        """Whether the gold answers are letters of choices."""
        return self.gold is Gold.letter or self.choices_key is not None

    @property
    def gold_scorer(self) -> str | None:
        """Return the scorer of expressions, if the gold answers are some."""
        return Extractor.math.value if self.gold is Gold.expression else None

    def take_choices(self, key: str) -> None:
        """Take over the key of the choices that the data show, as if it had been given."""
        self.choices_key = key
        usual = {field.name: field.default for field in fields(self)}.get("instruction")
        if usual is not None and getattr(self, "instruction") == usual:  # noqa: B009 – only some tasks have it
            setattr(self, "instruction", for_letters(str(usual)))  # noqa: B010

    @property
    def subject(self) -> str:
        return self.split

    @property
    def questions(self) -> int:
        return self.limit or super().questions

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the questions, if their number is known."""
        if self.limit is None and read is None:
            return []
        completions = (self if read is None else replace(self, limit=read)).questions
        return [Amount(generation.batch_size, QUESTION_TOKENS, generation.most_new_tokens, completions)]


def check_answers_differ(asked_by: str, generation: GenerationConfig) -> None:
    """Raise ConfigError if several answers to one question would all be the same; `words` ask for
    them."""
    if generation.temperature == 0:
        raise ConfigError(
            f"{asked_by} needs answers that differ, and generation.temperature=0 is greedy: all would be the same. "
            f"Use generation=sampling, generation.temperature=0.7, or leave out {asked_by.partition('=')[0]}",
            code="conflict",
        )
