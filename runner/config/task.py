"""task – what all tasks have, and the keys of most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base import check_keys
from runner_engine import GenerationConfig

if TYPE_CHECKING:
    from runner_engine import Workload

TYPICAL_PROMPT_TOKENS = 512  # assumed while the prompts are not known yet
QUESTION_TOKENS = 128  # of a word problem in a chat template


def absolute(folder: str) -> str:
    """Return the absolute path of an output folder, so that the stored path is valid in every
    working directory."""
    return str(Path(folder).expanduser().absolute())


@dataclass(frozen=True)
class Amount:
    """Completions that a job requests, as far as its config tells."""

    rows: int | None  # at once; None: the engine decides
    prompt_tokens: int
    new_tokens: int
    completions: int
    is_exact: bool = False  # no answer ends earlier, and no prompt is shorter
    shared_tokens: int = 0  # with which all prompts begin, and which are computed once
    known_tokens: int = 0  # before all of these, computed already for other completions
    counts_tokens: bool = (
        False  # the prompts have so many of the model's tokens, and not those of typical ones
    )
    piece_tokens: int | None = (
        None  # of a prompt that is read in pieces, each without the ones before: those of one
    )

    is_guessed: bool = True  # if generation.speculate guesses at every step

    @property
    def read_tokens(self) -> int:
        """Return the tokens of prompts that are computed, over all completions."""
        return self.shared_tokens + self.completions * self.prompt_tokens

    @property
    def pairs(self) -> float:
        """Return how often one of these tokens looks back at one before it, over all
        completions."""
        before, piece = (
            self.known_tokens + self.shared_tokens,
            min(self.prompt_tokens, self.piece_tokens or math.inf),
        )
        return self.shared_tokens**2 / 2 + self.completions * self.prompt_tokens * (before + piece / 2)

    @property
    def context_tokens(self) -> float:
        """Return how many tokens stand before those of an answer, on average."""
        return self.known_tokens + self.shared_tokens + self.prompt_tokens + self.new_tokens / 2


@dataclass
class TaskConfig:
    """The base of every task's config."""

    module: ClassVar[str]  # does the work; a string, so that a job imports its own task only
    name: ClassVar[str]
    gives_verdicts: ClassVar[bool] = False  # right or wrong, on each question
    keeps_samples: ClassVar[bool] = True  # one for each prompt, of which metrics can be computed
    sized_by: ClassVar[tuple[str, ...]] = ()  # keys by which `amounts` knows how many tokens its prompts have
    data_sets_key: ClassVar[str] = ""  # the key that lists data sets by their names
    is_endless: ClassVar[bool] = False  # it runs until somebody stops it, so that a grid would never finish
    answers_on_stdout: ClassVar[bool] = False  # a pipe gets its answers alone, and stderr the table

    def __post_init__(self) -> None:
        check_keys("task", self)

    @property
    def subject(self) -> str:
        """Return what the name of a run says about the task, for people."""
        return ""

    @property
    def adapters_named(self) -> Sequence[str] | None:
        """Return the adapters that its requests choose by name; None: it knows only when they
        come."""
        return ()

    @property
    def of_questions(self) -> Any:
        """Return itself if it asks questions with right answers (config/questions.py); else
        None."""
        return None

    @property
    def asks_in_chat(self) -> bool:
        """Whether it surely needs the model's chat template."""
        return False

    @property
    def reads_stdin(self) -> bool:
        """Whether the input comes from stdin, which the workers of a grid do not have."""
        return False

    @property
    def questions(self) -> int:
        """Roughly how many completions are requested: a grid starts long jobs first."""
        return 100

    @property
    def delivers_to(self) -> str | None:
        """Return the file outside the job's folder that it writes, even when the job is done
        already."""
        return None

    def asked_with(self, generation: GenerationConfig) -> tuple[TaskConfig, str]:
        """Return the task as these generation settings make it, and a note on what they have
        changed."""
        return self, ""

    def check_beside(self, generation: GenerationConfig) -> None:
        """Raise ConfigError where the task cannot work with these generation settings."""

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return the least that the job must have in memory at once; `rows` if the batch size is
        left to the engine."""
        return generation.batch_size or rows, TYPICAL_PROMPT_TOKENS, generation.most_new_tokens

    @property
    def loads(self) -> int:
        """Return how many processes load the model, one after another."""
        return 1

    @property
    def limit_measurements(self) -> int:
        """Return how often it measures the machine's limits."""
        return 0

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the requested completions, to estimate their time; unknown prompts count as
        typical ones.

        `read` is the number of questions or prompts, once they have been read. The list is empty if
        the number of completions is not known either.
        """
        _, prompt_tokens, new_tokens = self.workload(generation)
        return (
            []
            if self.is_endless
            else [Amount(generation.batch_size, prompt_tokens, new_tokens, self.questions)]
        )


def with_possible_batch(
    task: TaskConfig, generation: GenerationConfig, read: int | None = None
) -> GenerationConfig:
    """Return the generation settings with a batch size that is no larger than the number of
    completions."""
    most = max(
        (amount.completions for amount in task.amounts(generation, read)), default=generation.batch_size or 1
    )
    is_larger = generation.batch_size is not None and generation.batch_size > most
    return replace(generation, batch_size=most) if is_larger else generation
