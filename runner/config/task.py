"""Base class of all task configs, and the number of requests and tokens that a task needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base import check_config_values
from runner_engine import GenerationConfig

if TYPE_CHECKING:
    from runner_engine import Workload

TYPICAL_PROMPT_TOKENS = 512
QUESTION_TOKENS = 128  # of a word problem in a chat template


def to_absolute_path(path: str) -> str:
    """Return the absolute path, so that a stored path is valid in every working directory."""
    return str(Path(path).expanduser().absolute())


@dataclass(frozen=True)
class RequestedCompletions:
    """Completions that a job requests: their number, and their prompt and answer lengths."""

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
    def computed_prompt_tokens(self) -> int:
        """Number of prompt tokens to prefill, summed over all completions."""
        return self.shared_tokens + self.completions * self.prompt_tokens

    @property
    def num_attention_pairs(self) -> float:
        """Number of query-key pairs that attention computes, summed over all completions."""
        before, piece = (
            self.known_tokens + self.shared_tokens,
            min(self.prompt_tokens, self.piece_tokens or math.inf),
        )
        return self.shared_tokens**2 / 2 + self.completions * self.prompt_tokens * (before + piece / 2)

    @property
    def mean_context_tokens(self) -> float:
        """The mean number of tokens in the context while an answer is decoded."""
        return self.known_tokens + self.shared_tokens + self.prompt_tokens + self.new_tokens / 2


class PromptReuse(StrEnum):
    """What the engine stores of a task's prompts, so that later prompts need not compute it."""

    none = "none"  # each prompt comes once
    blocks = "blocks"  # of prompts and answers, in the prompt cache
    conversations = "conversations"


@dataclass
class TaskConfig:
    """Base class of all task configs."""

    module: ClassVar[str]  # does the work; a string, so that a job imports its own task only
    name: ClassVar[str]
    gives_verdicts: ClassVar[bool] = False  # right or wrong, on each question
    keeps_samples: ClassVar[bool] = True  # one for each prompt, of which metrics can be computed
    sized_by: ClassVar[tuple[str, ...]] = ()  # keys by which `amounts` knows how many tokens its prompts have
    data_sets_key: ClassVar[str] = ""  # the key that lists data sets by their names
    is_endless: ClassVar[bool] = False  # it runs until somebody stops it, so that a grid would never finish
    typical_prompt_tokens: ClassVar[int] = (
        TYPICAL_PROMPT_TOKENS  # assumed while the prompts are not known yet
    )
    answers_on_stdout: ClassVar[bool] = False  # a pipe gets its answers alone, and stderr the table
    prompt_reuse: ClassVar[PromptReuse] = PromptReuse.none
    # the key that says how many comparisons share 5 %; if it is null, a grid counts
    comparisons_key: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_config_values("task", self)

    @property
    def subject(self) -> str:
        """Short description of the task's data, which is part of a run's display name."""
        return ""

    @property
    def named_adapters(self) -> Sequence[str] | None:
        """Names of the adapters that requests may select, or None if the names are known only at run
        time.
        """
        return ()

    @property
    def questions_config(self) -> Any:
        """This config if the task asks questions with gold answers, otherwise None."""
        return None

    @property
    def baseline_name(self) -> str | None:
        """Name of the baseline job for early stopping. None if the job is not compared."""
        return None

    @property
    def uses_chat_template(self) -> bool:
        """Whether the task always needs the model's chat template."""
        return False

    @property
    def reads_stdin(self) -> bool:
        return False

    @property
    def expected_completions(self) -> int:
        """Approximate number of completions, by which a grid runs long jobs first."""
        return 100

    @property
    def num_answers_per_question(self) -> int:
        return 1

    @property
    def output_file(self) -> str | None:
        """File that the task writes outside the job's folder, or None.

        Repeating a finished job writes the file again.
        """
        return None

    def adapt_to_generation(self, generation: GenerationConfig) -> tuple[TaskConfig, str]:
        """Return the task config adapted to the generation settings, and a note on the changes."""
        return self, ""

    def check_generation(self, generation: GenerationConfig) -> None:
        """Raise ConfigError if the task cannot work with these generation settings."""

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        """Return the batch size, prompt tokens and new tokens of the smallest batch that the task needs.

        `batch_size` is used if the generation config does not set one.
        """
        return (
            generation.batch_size or batch_size,
            self.typical_prompt_tokens,
            generation.max_total_new_tokens,
        )

    @property
    def num_loads(self) -> int:
        return 1

    @property
    def num_limit_measurements(self) -> int:
        """Number of times that the task measures the machine's bandwidth and compute limits."""
        return 0

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        """Return the completions that the task requests, to estimate their time.

        `num_questions` is the number of questions or prompts, if they have been read. Prompts of
        unknown length get a typical length. The list is empty if the number of completions is
        unknown.
        """
        if self.is_endless:
            return []
        _, prompt_tokens, new_tokens = self.workload(generation)
        completions = (
            self.expected_completions
            if num_questions is None
            else num_questions * self.num_answers_per_question
        )
        return [RequestedCompletions(generation.batch_size, prompt_tokens, new_tokens, completions)]


def limit_batch_size(
    task: TaskConfig, generation: GenerationConfig, num_questions: int | None = None
) -> GenerationConfig:
    """Return generation settings whose batch size does not exceed the number of completions."""
    most = max(
        (amount.completions for amount in task.list_requested_completions(generation, num_questions)),
        default=generation.batch_size or 1,
    )
    is_larger = generation.batch_size is not None and generation.batch_size > most
    return replace(generation, batch_size=most) if is_larger else generation
