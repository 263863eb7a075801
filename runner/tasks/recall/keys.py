"""Config keys of task=recall."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from runner.config.task import RequestedCompletions, TaskConfig
from runner.config.token_counts import parse_token_counts
from runner.config.wording import PromptStyle
from runner.tasks.recall.kinds import (
    KINDS,
    get_shared_prefix_fraction,
    is_ruler_kind,
    kind_has_depth,
    kind_shares_text,
)
from runner_base import (
    HASHED,
    UNLESS_DEFAULT,
    NotInIdentity,
    Text,
    at_least,
    check_value,
    config_field,
    format_unknown_choice_message,
    in_range,
    not_blank,
)
from runner_base.fields import InIdentityUnless
from runner_engine import GenerationConfig, Workload

STYLES = (PromptStyle.chat, PromptStyle.text)
QUESTION = 20  # tokens from the asked name on, about
MAX_CASES = 10_000  # of a kind, a length and a depth


class NeedleValues(StrEnum):
    """Type of value in a needle: number, words or UUID."""

    numbers = "numbers"
    words = "words"
    uuids = "uuids"


@dataclass
class RecallConfig(TaskConfig):
    """Config of task=recall: needles, chains and counts in long texts."""

    module: ClassVar[str] = "runner.tasks.recall.task"
    name: ClassVar[str] = "recall"
    gives_verdicts: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("lengths", "depths", "cases")
    lengths: list[str] = field(default_factory=lambda: ["512", "1k"])
    depths: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    kinds: list[str] = field(default_factory=lambda: ["single"])
    cases: int = config_field(30, constraint=in_range(1, MAX_CASES))
    cases_seed: int = config_field(0, constraint=at_least(0))
    filler: str = config_field(
        "noise", HASHED, not_blank("choose noise, texts, prose, languages, code or a file")
    )
    num_texts: int = config_field(30, InIdentityUnless(1), in_range(1, MAX_CASES), renamed_from="texts")
    values: NeedleValues = NeedleValues.numbers
    needles: int = config_field(4, constraint=in_range(2, 100))
    prompt: PromptStyle = PromptStyle.chat
    system: Text | None = None
    margin: float = config_field(10.0, constraint=in_range(1, 99))
    pictures: bool = config_field(True, NotInIdentity("only draws what was answered"))
    repeat_index: int = config_field(0, UNLESS_DEFAULT, at_least(0), renamed_from="repeat")
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("lengths", "depths", "kinds"):
            values = getattr(self, key)
            check_value(bool(values), f"task.{key}", values, "give at least one", code="empty")
        # no key: the lengths, shortest first
        self.tokens = parse_token_counts("task.lengths", self.lengths)
        self.lengths = [str(tokens) for tokens in self.tokens]  # 1k and 1024 are one job
        for key in ("depths", "kinds"):
            values = getattr(self, key)
            check_value(len(set(values)) == len(values), f"task.{key}", values, "none may be repeated")
        need = "every depth must be from 0 (beginning of the text) to 1 (end)"
        check_value(all(0 <= depth <= 1 for depth in self.depths), "task.depths", self.depths, need)
        for kind in self.kinds:
            check_value(
                kind in KINDS,
                "task.kinds",
                self.kinds,
                format_unknown_choice_message("kind", kind, list(KINDS)),
                code="unknown_choice",
            )
        choices = ", ".join(style.value for style in STYLES)
        check_value(
            self.prompt in STYLES,
            "task.prompt",
            self.prompt.value,
            f"choose one of {choices}",
            code="unknown_choice",
        )
        need = "a system message requires task.prompt=chat"
        check_value(
            self.prompt is PromptStyle.chat or not self.system,
            "task.system",
            repr(self.system),
            need,
            code="conflict",
        )

    @property
    def subject(self) -> str:
        """The longest configured text length, which is part of a run's display name."""
        return f"up to {max(self.tokens):,} tokens"

    @property
    def uses_chat_template(self) -> bool:
        return self.prompt is PromptStyle.chat

    @property
    def expected_completions(self) -> int:
        of_kinds = sum(len(self.depths) if kind_has_depth(kind) else 1 for kind in self.kinds)
        return of_kinds * len(self.lengths) * self.cases

    @property
    def num_haystacks(self) -> int:
        """Number of different filler texts, each with at least one case."""
        return min(self.num_texts, self.cases)

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        new = generation.max_total_new_tokens
        return generation.batch_size or batch_size, max(1, max(self.tokens) - new), new

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        """Return the completions for each length. The tokens of a shared prefix count only once."""
        new, rows, longest = generation.max_total_new_tokens, generation.batch_size, max(self.tokens)
        amounts = []
        for length in self.tokens:
            text = max(1, length - new)
            computed = [
                tokens
                for kind in self.kinds
                for tokens in self._iter_prefill_token_counts(kind, text, length == longest)
            ]
            completions = self.expected_completions // len(self.tokens)
            each = max(1, round(sum(computed) / completions))
            known = max(0, text - each)
            amounts.append(
                RequestedCompletions(rows, each, new, completions, known_tokens=known, counts_tokens=True)
            )
        return amounts

    def _iter_prefill_token_counts(self, kind: str, text_tokens: int, is_longest: bool) -> Iterator[int]:
        """Yield the numbers of tokens to prefill for a recall kind. A shared prefix counts only once."""
        if kind_shares_text(kind):
            yield self.cases * (text_tokens + (len(self.depths) - 1) * QUESTION)
            return
        parts = [
            get_shared_prefix_fraction(kind, depth)
            for depth in (self.depths if kind_has_depth(kind) else [1.0])
        ]
        yield from (self.cases * max(QUESTION, round((1 - part) * text_tokens)) for part in parts)
        # shorter texts begin as the longest one
        haystacks = 1 if is_ruler_kind(kind) else self.num_haystacks
        yield haystacks * round(max(parts) * text_tokens) * is_longest
