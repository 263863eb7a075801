"""task – the keys of task=tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from runner.config.task import Amount, TaskConfig
from runner.config.token_counts import token_counts
from runner.tasks.tools.cases import BY_FUNCTION, CATEGORIES, MADE
from runner_base import HASHED, UNLESS_DEFAULT, Inert, Text, check, filled, least, setting, unknown
from runner_engine import GenerationConfig, Workload, tool_calls

AUTO = "auto"
FORMS = (AUTO, *tool_calls.NAMES)
TYPICAL_PROMPT = 330  # tokens of a question with its own functions, in most templates
TYPICAL_FUNCTION = 110  # tokens of a further function
QUESTION = 300  # tokens of a question and its own functions behind common ones
TYPICAL_CASES = 320  # of the questions that ship


class Offer(StrEnum):
    """How functions are offered."""

    template = "template"
    system = "system"


@dataclass
class ToolsConfig(TaskConfig):
    """Calls of functions: right ones, right arguments, and none where none is needed."""

    module: ClassVar[str] = "runner.tasks.tools.task"
    name: ClassVar[str] = "tools"
    gives_verdicts: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("distractors", "fill")
    data: str = setting(MADE, HASHED, filled(f"give {MADE}, or a file or folder of BFCL's questions"))
    categories: list[str] = field(default_factory=lambda: [*CATEGORIES])
    cases: int | None = setting(None, takes=least(1, ", or null for all"))
    cases_seed: int = setting(0, takes=least(0))
    distractors: int = setting(0, takes=least(0))
    fill: list[str] = field(default_factory=list)
    form: str = AUTO
    cluster: str = setting(
        BY_FUNCTION,
        Inert("names families of questions; the SHA-256 of other families than functions counts instead"),
        filled("name function, question or a key of the lines"),
    )
    offer: Offer = Offer.template
    system: Text | None = None
    repeat: int = setting(0, UNLESS_DEFAULT, least(0))
    show_prompt: int = setting(0, Inert("how many prompts are shown"), least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.categories), "task.categories", self.categories, "give at least one", code="empty")
        for category in self.categories:
            check(
                category in CATEGORIES,
                "task.categories",
                self.categories,
                unknown("category", category, CATEGORIES),
                code="unknown_choice",
            )
        is_once = len(set(self.categories)) == len(self.categories)
        check(is_once, "task.categories", self.categories, "none may be repeated")
        check(
            self.form in FORMS,
            "task.form",
            self.form,
            unknown("form", self.form, FORMS),
            code="unknown_choice",
        )
        self.tokens = token_counts("task.fill", self.fill)  # no key: the lengths, shortest first
        self.fill = [str(tokens) for tokens in self.tokens]  # 1k and 1024 are one job
        need = "goes without task.fill, which offers as many functions as its lengths have room for"
        check(
            not (self.tokens and self.distractors),
            "task.distractors",
            self.distractors,
            need,
            code="conflict",
        )

    @property
    def asks_in_chat(self) -> bool:
        """Questions are turns of a chat."""
        return True

    @property
    def subject(self) -> str:
        """Return what is offered beside the functions of a question."""
        if self.tokens:
            return f"filled up to {max(self.tokens):,} tokens"
        return f"{self.distractors} distractors" if self.distractors else ""

    @property
    def questions(self) -> int:
        """Return about how many questions are asked: exactly, once they have been read."""
        of_each = TYPICAL_CASES // len(CATEGORIES) if self.cases is None else self.cases
        return of_each * len(self.categories) * max(1, len(self.tokens))

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return rows of the longest prompts, with their answers."""
        new = generation.most_new_tokens
        return (generation.batch_size or rows, self._prompt_tokens(max(self.tokens, default=0), new), new)

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the questions of each length: functions that all offer are read once."""
        new, rows = generation.most_new_tokens, generation.batch_size
        lengths = self.tokens or [0]
        completions = (self.questions if read is None else read) // len(lengths)
        amounts = []
        for length in lengths:
            whole = self._prompt_tokens(length, new)
            own = min(whole, QUESTION)
            # shorter ones begin as the longest
            shared = 0 if length != max(lengths) else whole - own
            known = whole - own - shared
            amounts.append(
                Amount(
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

    def _prompt_tokens(self, length: int, new: int) -> int:
        """Return about how many tokens a prompt has, its functions among them."""
        if length:
            return max(1, length - new)
        return TYPICAL_PROMPT + self.distractors * TYPICAL_FUNCTION
