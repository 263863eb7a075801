"""The keys of task=likelihood: which texts are scored, how long ones are cut, and what the model is
compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

from runner.config.questions import OTHER_JOB, WORDS_FOR_A_JOB, QuestionsConfig
from runner.config.task import QUESTION_TOKENS, Amount
from runner.config.token_counts import token_counts, tokens_from, whole
from runner.config.wording import PromptStyle, WordingConfig
from runner_base import UNLESS_DEFAULT, Inert, check, least, setting
from runner_engine import GenerationConfig, Workload

KEPT = 64  # most probable tokens that a reference keeps at each position by default
DRAWN = 16  # further ones that it draws from all others, for the divergence over these
STYLES = (PromptStyle.chat, PromptStyle.text)
WINDOW = 1024
LAST_TOKENS = 256
BYTES_A_TOKEN = 3.8  # of long texts, with a large vocabulary


@dataclass
class LikelihoodConfig(WordingConfig, QuestionsConfig):
    """How probable given texts are (gold answers, any text, multiple choice), and how far from
    another model's."""

    module: ClassVar[str] = "runner.tasks.likelihood.task"
    name: ClassVar[str] = "likelihood"
    sized_by: ClassVar[tuple[str, ...]] = ("contexts", "last_tokens")
    window: int | str = setting(WINDOW, takes=tokens_from(2, ": each token is scored after another one"))
    stride: int | str | None = setting(None, takes=tokens_from(1, ", or null for half of task.window"))
    contexts: list[str] = field(default_factory=list, metadata={"counts": UNLESS_DEFAULT})
    last_tokens: int | str = setting(LAST_TOKENS, UNLESS_DEFAULT, tokens_from(1))
    keep_top_k: int = setting(
        0,
        Inert("adds evidence and changes no number; it counts among the hashes"),
        least(0, "; 0 keeps none"),
    )
    reference: str | None = setting(None, OTHER_JOB, WORDS_FOR_A_JOB)
    repeat: int = setting(0, UNLESS_DEFAULT, least(0))
    exact: bool | None = setting(
        None, Inert("says how the reference is read; with a reference it counts among the hashes")
    )
    show_prompt: int = setting(0, Inert("how many prompts are shown"), least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.text_bytes: list[int] | None = None  # no key: of each text that is cut, once the texts are read
        # 4k and 4096 are one job
        self.window = self.window_tokens = whole(self.window)
        self.stride = None if self.stride is None else whole(self.stride)
        self.last_tokens = self.scored_tokens = whole(self.last_tokens)
        # from a window to the next
        self.step = self.window_tokens // 2 if self.stride is None else self.stride
        need = "leaves questions out of an accuracy, and texts have none: task.only chooses which texts are scored"
        check(self.without is None, "task.without", self.without, need, code="unsupported")
        choices = ", ".join(style.value for style in STYLES)
        need = f"an answer is scored after its question alone: choose one of {choices}"
        check(self.prompt in STYLES, "task.prompt", self.prompt.value, need, code="unknown_choice")
        self.check_wording()
        need = (
            "it shows the noise of likelihoods, and task.reference compares with another "
            "job: leave one of the two out"
        )
        check(self.reference is None or not self.repeat, "task.repeat", self.repeat, need, code="conflict")
        need = f"must be below task.window={self.window}, or tokens between two windows would not be scored"
        check(self.step < self.window_tokens, "task.stride", self.stride, need)
        self.context_lengths = token_counts("task.contexts", self.contexts)
        self.contexts = [str(length) for length in self.context_lengths]  # 1k and 1024 are one job
        self._check_contexts()
        need = "compares with another model: give task.reference=OVERRIDES, such as task.reference=quantization=none"
        check(not self.exact or self.reference is not None, "task.exact", "true", need, code="missing")

    def _check_contexts(self) -> None:
        """Raise ConfigError for keys that say nothing beside the others."""
        if not self.contexts:
            need = "says how many tokens task.contexts scores: give it, such as task.contexts=[256,1k,4k]"
            check(
                self.last_tokens == LAST_TOKENS, "task.last_tokens", self.last_tokens, need, code="no_effect"
            )
            return
        need = (
            "task.contexts says how much stands before the scored tokens, and cuts no windows: leave it out"
        )
        check(self.window == WINDOW, "task.window", self.window, need, code="conflict")
        check(self.stride is None, "task.stride", self.stride, need, code="conflict")

    @property
    def most_tokens(self) -> int:
        """The tokens of the longest piece of a text that the model reads at once."""
        return max(self.context_lengths) + self.scored_tokens if self.context_lengths else self.window_tokens

    @property
    def asks_in_chat(self) -> bool:
        """Whether an answer is scored behind a question in a chat; a file of texts may have no
        questions."""
        return self.prompt is PromptStyle.chat and not self.data.endswith((".txt", ".jsonl"))

    @property
    def loads(self) -> int:
        """Return 1, or 2 with a reference model that is loaded beside this one."""
        return 1 + bool(self.exact)

    def workload(self, generation: GenerationConfig, rows: int = 1) -> Workload:
        """Return rows whose texts are read and scored; nothing is generated. No text has more
        tokens than bytes."""
        _, prompt_tokens, _ = super().workload(generation, rows)
        longest = None if self.text_bytes is None else max(self.text_bytes, default=0)
        window = self.most_tokens if longest is None else min(self.most_tokens, longest)
        return generation.batch_size or rows, max(prompt_tokens, window), 1

    def amounts(self, generation: GenerationConfig, read: int | None = None) -> list[Amount]:
        """Return the texts, if their number is known; one behind a question counts as a short
        one."""
        count, rows = self.limit if read is None else read, generation.batch_size
        if count is None:
            return []
        if self.context_lengths:
            pieces = [context + self.scored_tokens for context in self.context_lengths]
            return [Amount(rows, tokens, 1, count, counts_tokens=True) for tokens in pieces] * self.loads
        if self.text_bytes:
            return [self._in_windows(rows, count, fmean(self.text_bytes) / BYTES_A_TOKEN)] * self.loads
        return [Amount(rows, 2 * QUESTION_TOKENS, 1, count)] * self.loads

    def _in_windows(self, rows: int | None, count: int, tokens: float) -> Amount:
        """Return texts of about so many tokens: each window but the first reads some tokens once
        more."""
        further = max(0.0, (tokens - self.window_tokens) / self.step)
        read = tokens + further * (self.window_tokens - self.step)
        return Amount(
            rows, max(1, round(read)), 1, count, piece_tokens=min(self.window_tokens, max(1, round(tokens)))
        )
