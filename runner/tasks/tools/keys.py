"""Config keys of task=tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from runner.config.task import TaskConfig, WorkAmount
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
    not_blank,
    unknown_choice_message,
)
from runner_engine import GenerationConfig, Workload, tool_calls

AUTO = "auto"
FORMS = (AUTO, *tool_calls.NAMES)
TYPICAL_PROMPT = 330  # tokens of a question with its own functions, in most templates
TYPICAL_FUNCTION = 110  # tokens of a further function
QUESTION = 300  # tokens of a question and its own functions behind common ones
TYPICAL_CASES = 320  # of the questions that ship


class OfferMethod(StrEnum):
    """How functions are offered to the model: by its chat template, or as text in the system message."""

    template = "template"
    system = "system"


@dataclass
class ToolsConfig(TaskConfig):
    """Config of task=tools: calls of the right function with the right arguments, and no call where none
    is needed.
    """

    module: ClassVar[str] = "runner.tasks.tools.task"
    name: ClassVar[str] = "tools"
    gives_verdicts: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("distractors", "fill")
    data: str = config_field(MADE, HASHED, not_blank(f"give {MADE}, or a file or folder of BFCL's questions"))
    categories: list[str] = field(default_factory=lambda: [*CATEGORIES])
    cases: int | None = config_field(None, constraint=at_least(1, ", or null for all"))
    cases_seed: int = config_field(0, constraint=at_least(0))
    distractors: int = config_field(0, constraint=at_least(0))
    fill: list[str] = field(default_factory=list)
    form: str = AUTO
    cluster: str = config_field(
        BY_FUNCTION,
        NotInIdentity(
            "names families of questions; the SHA-256 of other families than functions counts instead"
        ),
        not_blank("give function, question or a key of the lines"),
    )
    offer: OfferMethod = OfferMethod.template
    system: Text | None = None
    repeat: int = config_field(0, UNLESS_DEFAULT, at_least(0))
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
                unknown_choice_message("category", category, CATEGORIES),
                code="unknown_choice",
            )
        is_once = len(set(self.categories)) == len(self.categories)
        check_value(is_once, "task.categories", self.categories, "none may be repeated")
        check_value(
            self.form in FORMS,
            "task.form",
            self.form,
            unknown_choice_message("form", self.form, FORMS),
            code="unknown_choice",
        )
        self.tokens = parse_token_counts("task.fill", self.fill)  # no key: the lengths, shortest first
        self.fill = [str(tokens) for tokens in self.tokens]  # 1k and 1024 are one job
        need = "task.fill offers as many functions as fit into its lengths. Omit this key"
        check_value(
            not (self.tokens and self.distractors),
            "task.distractors",
            self.distractors,
            need,
            code="conflict",
        )

    @property
    def uses_chat_template(self) -> bool:
        """Always True, because questions are turns of a chat."""
        return True

    @property
    def subject(self) -> str:
        """The extra functions besides each question's own, as part of a run's display name."""
        if self.tokens:
            return f"filled up to {max(self.tokens):,} tokens"
        return f"{self.distractors} distractors" if self.distractors else ""

    @property
    def expected_completions(self) -> int:
        """The approximate number of questions, which is exact once the data have been read."""
        of_each = TYPICAL_CASES // len(CATEGORIES) if self.cases is None else self.cases
        return of_each * len(self.categories) * max(1, len(self.tokens))

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        """Return batch size and token counts of the longest prompts, including their answers."""
        new = generation.max_total_new_tokens
        return (
            generation.batch_size or batch_size,
            self._estimate_prompt_tokens(max(self.tokens, default=0), new),
            new,
        )

    def requested_work(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[WorkAmount]:
        """Return the work amount of all questions at each length. Functions that all questions share are
        computed once.
        """
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
                WorkAmount(
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
