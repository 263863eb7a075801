"""Config keys of task=tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from runner.config.task import RequestedCompletions, TaskConfig
from runner.config.token_counts import parse_token_counts
from runner.tasks.tools.cases import BY_FUNCTION, CATEGORIES, MADE
from runner_base import (
    HASHED,
    UNLESS_DEFAULT,
    NotInIdentity,
    Text,
    at_least,
    check_value,
    config_field,
    format_unknown_choice_message,
    not_blank,
)
from runner_engine import GenerationConfig, Workload, tool_calls

AUTO = "auto"
FORMS = (AUTO, *tool_calls.NAMES)
TYPICAL_PROMPT = 330  # tokens of a question with its own functions, in most templates
TYPICAL_FUNCTION = 110  # tokens of a further function
QUESTION = 300  # tokens of a question and its own functions behind common ones
TYPICAL_CASES = 320  # of the questions that ship


class OfferMethod(StrEnum):
    """Where the prompt lists the functions: in the chat template's tool section, or in the system message."""

    template = "template"
    system = "system"


@dataclass
class ToolsConfig(TaskConfig):
    """Config of task=tools: tests whether a model calls the right function with the right arguments."""

    module: ClassVar[str] = "runner.tasks.tools.task"
    name: ClassVar[str] = "tools"
    gives_verdicts: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("distractors", "context_lengths")
    data: str = config_field(MADE, HASHED, not_blank(f"choose {MADE}, or the path of a BFCL file or folder"))
    categories: list[str] = field(default_factory=lambda: [*CATEGORIES])
    cases: int | None = config_field(None, constraint=at_least(1, ", or null for all"))
    cases_seed: int = config_field(0, constraint=at_least(0))
    distractors: int = config_field(0, constraint=at_least(0))
    context_lengths: list[str] = field(default_factory=list, metadata={"renamed_from": "fill"})
    tool_call_format: str = config_field(AUTO, renamed_from="form")
    cluster: str = config_field(
        BY_FUNCTION,
        NotInIdentity("the job id already includes the clusters, except clusters by function"),
        not_blank("choose function, question or a field of the data set"),
    )
    tool_placement: OfferMethod = config_field(OfferMethod.template, renamed_from="offer")
    system: Text | None = None
    repeat_index: int = config_field(0, UNLESS_DEFAULT, at_least(0), renamed_from="repeat")
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_value(
            bool(self.categories), "task.categories", self.categories, "give at least one", code="empty"
        )
        for category in self.categories:
            check_value(
                category in CATEGORIES,
                "task.categories",
                self.categories,
                format_unknown_choice_message("category", category, CATEGORIES),
                code="unknown_choice",
            )
        is_once = len(set(self.categories)) == len(self.categories)
        check_value(is_once, "task.categories", self.categories, "none may be repeated")
        check_value(
            self.tool_call_format in FORMS,
            "task.tool_call_format",
            self.tool_call_format,
            format_unknown_choice_message("form", self.tool_call_format, FORMS),
            code="unknown_choice",
        )
        # no key: the lengths, shortest first
        self.tokens = parse_token_counts("task.context_lengths", self.context_lengths)
        self.context_lengths = [str(tokens) for tokens in self.tokens]  # 1k and 1024 are one job
        need = "task.context_lengths already determines the number of distractors. Omit this key"
        check_value(
            not (self.tokens and self.distractors),
            "task.distractors",
            self.distractors,
            need,
            code="conflict",
        )

    @property
    def uses_chat_template(self) -> bool:
        """Always True, because questions are chat messages."""
        return True

    @property
    def subject(self) -> str:
        """Number of distractor functions or longest context length, for a run's display name."""
        if self.tokens:
            return f"filled up to {max(self.tokens):,} tokens"
        return f"{self.distractors} distractors" if self.distractors else ""

    @property
    def expected_completions(self) -> int:
        """Number of questions, approximate until the data set has been read."""
        of_each = TYPICAL_CASES // len(CATEGORIES) if self.cases is None else self.cases
        return of_each * len(self.categories) * max(1, len(self.tokens))

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        new = generation.max_total_new_tokens
        return (
            generation.batch_size or batch_size,
            self._estimate_prompt_tokens(max(self.tokens, default=0), new),
            new,
        )

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        """Return the completions for each length. The tokens of shared functions count only once."""
        new, rows = generation.max_total_new_tokens, generation.batch_size
        lengths = self.tokens or [0]
        completions = (self.expected_completions if num_questions is None else num_questions) // len(lengths)
        amounts = []
        for length in lengths:
            whole = self._estimate_prompt_tokens(length, new)
            own = min(whole, QUESTION)
            # shorter ones begin as the longest
            shared = 0 if length != max(lengths) else whole - own
            known = whole - own - shared
            amounts.append(
                RequestedCompletions(
                    rows,
                    own,
                    new,
                    completions,
                    shared_tokens=shared,
                    known_tokens=known,
                    counts_tokens=bool(length),
                )
            )
        return amounts

    def _estimate_prompt_tokens(self, length: int, new_tokens: int) -> int:
        """Return the approximate number of tokens of a prompt with its functions."""
        if length:
            return max(1, length - new_tokens)
        return TYPICAL_PROMPT + self.distractors * TYPICAL_FUNCTION
