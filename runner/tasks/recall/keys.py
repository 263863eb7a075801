"""task – the keys of task=recall."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from runner.config.task import Amount, TaskConfig
from runner.config.token_counts import token_counts
from runner.config.wording import PromptStyle
from runner.tasks.recall.kinds import KINDS, has_depth, is_of_ruler, shared_part, shares_text
from runner_base import HASHED, UNLESS_DEFAULT, Inert, Text, check, filled, least, setting, unknown, within
from runner_base.fields import Unless
from runner_engine import GenerationConfig, Workload

STYLES = (PromptStyle.chat, PromptStyle.text)
QUESTION = 20  # tokens from the asked name on, about
MAX_CASES = 10_000  # of a kind, a length and a depth


class Values(StrEnum):
    """What a needle tells, and a question asks for."""

    numbers = "numbers"
    words = "words"
    uuids = "uuids"


@dataclass
class RecallConfig(TaskConfig):
    """How far back a model can look: needles, chains and counts in long texts."""

    module: ClassVar[str] = "runner.tasks.recall.task"
    name: ClassVar[str] = "recall"
    gives_verdicts: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("lengths", "depths", "cases")
    lengths: list[str] = field(default_factory=lambda: ["512", "1k"])
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    kinds: list[str] = field(default_factory=lambda: ["single"])
    cases: int = setting(30, takes=within(1, MAX_CASES))
    cases_seed: int = setting(0, takes=least(0))
    filler: str = setting("noise", HASHED, filled("give noise, texts, prose, languages, code or a file"))
    texts: int = setting(30, Unless(1), within(1, MAX_CASES))
    values: Values = Values.numbers
    needles: int = setting(4, takes=within(2, 100))
    prompt: PromptStyle = PromptStyle.chat
    system: Text | None = None
    margin: float = setting(10.0, takes=within(1, 99))
    pictures: bool = setting(True, Inert("only draws what was answered"))
    repeat: int = setting(0, UNLESS_DEFAULT, least(0))
    show_prompt: int = setting(0, Inert("how many prompts are shown"), least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("lengths", "depths", "kinds"):
            values = getattr(self, key)
            check(bool(values), f"task.{key}", values, "give at least one", code="empty")
        # no key: the lengths, shortest first
        self.tokens = token_counts("task.lengths", self.lengths)
        self.lengths = [str(tokens) for tokens in self.tokens]  # 1k and 1024 are one job
        for key in ("depths", "kinds"):
            values = getattr(self, key)
            check(len(set(values)) == len(values), f"task.{key}", values, "none may be repeated")
        need = "every depth must lie in 0..1: 0 is the beginning of the text, 1 its end"
        check(all(0 <= depth <= 1 for depth in self.depths), "task.depths", self.depths, need)
        for kind in self.kinds:
            check(
                kind in KINDS,
                "task.kinds",
                self.kinds,
                unknown("kind", kind, list(KINDS)),
                code="unknown_choice",
            )
        choices = ", ".join(style.value for style in STYLES)
        check(
            self.prompt in STYLES,
            "task.prompt",
            self.prompt.value,
            f"choose one of {choices}",
            code="unknown_choice",
        )
        need = "needs task.prompt=chat: plain text has no system message"
        check(
            self.prompt is PromptStyle.chat or not self.system,
            "task.system",
            repr(self.system),
            need,
            code="conflict",
        )

    @property
    def subject(self) -> str:
        """Return the longest text."""
        return f"up to {max(self.tokens):,} tokens"

    @property
    def asks_in_chat(self) -> bool:
        """Whether questions are turns of a chat."""
        return self.prompt is PromptStyle.chat

    @property
    def questions(self) -> int:
        """Return how many questions are asked."""
        of_kinds = sum(len(self.depths) if has_depth(kind) else 1 for kind in self.kinds)
        return of_kinds * len(self.lengths) * self.cases

    @property
    def haystacks(self) -> int:
        """Return how many haystacks there are: each has at least one of the cases."""
        return min(self.texts, self.cases)

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return rows of the longest text, with the answer in it."""
        new = generation.most_new_tokens
        return generation.batch_size or rows, max(1, max(self.tokens) - new), new

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the questions of each length: what stands before a needle is computed once for all
        questions."""
        new, rows, longest = generation.most_new_tokens, generation.batch_size, max(self.tokens)
        amounts = []
        for length in self.tokens:
            text = max(1, length - new)
            computed = [
                tokens for kind in self.kinds for tokens in self._computed(kind, text, length == longest)
            ]
            completions = self.questions // len(self.tokens)
            each = max(1, round(sum(computed) / completions))
            known = max(0, text - each)
            amounts.append(Amount(rows, each, new, completions, known_tokens=known, counts_tokens=True))
        return amounts

    def _computed(self, kind: str, text: int, is_longest: bool) -> Iterator[int]:
        """Yield the tokens that are computed for the questions of a kind, the texts of which have
        so many tokens."""
        if shares_text(kind):
            yield self.cases * (text + (len(self.depths) - 1) * QUESTION)
            return
        parts = [shared_part(kind, depth) for depth in (self.depths if has_depth(kind) else [1.0])]
        yield from (self.cases * max(QUESTION, round((1 - part) * text)) for part in parts)
        # shorter texts begin as the longest one
        haystacks = 1 if is_of_ruler(kind) else self.haystacks
        yield haystacks * round(max(parts) * text) * is_longest
