"""Config keys of task=likelihood: which texts are scored, window lengths, and the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

from runner.config.questions import OTHER_JOB, WORDS_FOR_A_JOB, QuestionsConfig
from runner.config.task import QUESTION_TOKENS, WorkAmount
from runner.config.token_counts import min_token_count_constraint, parse_token_counts, parse_valid_token_count
from runner.config.wording import PromptStyle, WordingConfig
from runner_base import UNLESS_DEFAULT, NotInIdentity, at_least, check_value, config_field
from runner_engine import GenerationConfig, Workload

KEPT = 64  # most probable tokens that a reference keeps at each position by default
DRAWN = 16  # further ones that it draws from all others, for the divergence over these
STYLES = (PromptStyle.chat, PromptStyle.text)
WINDOW = 1024
LAST_TOKENS = 256
BYTES_A_TOKEN = 3.8  # of long texts, with a large vocabulary


@dataclass
class LikelihoodConfig(WordingConfig, QuestionsConfig):
    """Config of task=likelihood: scores given texts (answers, documents, choices), and the divergence
    from a reference.
    """

    module: ClassVar[str] = "runner.tasks.likelihood.task"
    name: ClassVar[str] = "likelihood"
    sized_by: ClassVar[tuple[str, ...]] = ("contexts", "last_tokens")
    window: int | str = config_field(
        WINDOW, constraint=min_token_count_constraint(2, ": each token is scored after another one")
    )
    stride: int | str | None = config_field(
        None, constraint=min_token_count_constraint(1, ", or null for half of task.window")
    )
    contexts: list[str] = field(default_factory=list, metadata={"counts": UNLESS_DEFAULT})
    last_tokens: int | str = config_field(LAST_TOKENS, UNLESS_DEFAULT, min_token_count_constraint(1))
    keep_top_k: int = config_field(
        0,
        NotInIdentity("adds evidence and changes no number; it counts among the hashes"),
        at_least(0, "; 0 keeps none"),
    )
    reference: str | None = config_field(None, OTHER_JOB, WORDS_FOR_A_JOB)
    repeat: int = config_field(0, UNLESS_DEFAULT, at_least(0))
    exact: bool | None = config_field(
        None, NotInIdentity("says how the reference is read; with a reference it counts among the hashes")
    )
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.text_bytes: list[int] | None = None  # no key: of each text that is cut, once the texts are read
        # 4k and 4096 are one job
        self.window = self.window_tokens = parse_valid_token_count(self.window)
        self.stride = None if self.stride is None else parse_valid_token_count(self.stride)
        self.last_tokens = self.scored_tokens = parse_valid_token_count(self.last_tokens)
        # from a window to the next
        self.step = self.window_tokens // 2 if self.stride is None else self.stride
        need = (
            "this key excludes questions from an accuracy, but documents have none. Select "
            "documents with task.only"
        )
        check_value(self.without is None, "task.without", self.without, need, code="unsupported")
        choices = ", ".join(style.value for style in STYLES)
        need = f"an answer is scored directly after its question. Give one of {choices}"
        check_value(self.prompt in STYLES, "task.prompt", self.prompt.value, need, code="unknown_choice")
        self.check_wording()
        need = (
            "repeats measure the noise of likelihoods, but task.reference compares with "
            "another job. Omit one of the two"
        )
        check_value(
            self.reference is None or not self.repeat, "task.repeat", self.repeat, need, code="conflict"
        )
        need = (
            f"must be below task.window={self.window}: otherwise tokens between two windows would "
            "not be scored"
        )
        check_value(self.step < self.window_tokens, "task.stride", self.stride, need)
        self.context_lengths = parse_token_counts("task.contexts", self.contexts)
        self.contexts = [str(length) for length in self.context_lengths]  # 1k and 1024 are one job
        self._check_contexts()
        need = (
            "used only with a reference. Give task.reference=OVERRIDES, such as "
            "task.reference=quantization=none"
        )
        check_value(not self.exact or self.reference is not None, "task.exact", "true", need, code="missing")

    def _check_contexts(self) -> None:
        """Raise ConfigError for keys that have no effect together with task.contexts."""
        if not self.contexts:
            need = (
                "sets the number of tokens scored by task.contexts. Give task.contexts, such as "
                "task.contexts=[256,1k,4k]"
            )
            check_value(
                self.last_tokens == LAST_TOKENS, "task.last_tokens", self.last_tokens, need, code="no_effect"
            )
            return
        need = "task.contexts sets the context length and uses no windows. Omit this key"
        check_value(self.window == WINDOW, "task.window", self.window, need, code="conflict")
        check_value(self.stride is None, "task.stride", self.stride, need, code="conflict")

    @property
    def max_piece_tokens(self) -> int:
        """The largest number of tokens that the model reads in one pass."""
        return max(self.context_lengths) + self.scored_tokens if self.context_lengths else self.window_tokens

    @property
    def uses_chat_template(self) -> bool:
        """Whether scored answers follow a question in the chat template. Files of documents may contain no
        questions.
        """
        return self.prompt is PromptStyle.chat and not self.data.endswith((".txt", ".jsonl"))

    @property
    def num_loads(self) -> int:
        """The number of models to load: 2 with a reference in memory, otherwise 1."""
        return 1 + bool(self.exact)

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        """Return batch size and token counts for scoring, where nothing is generated. Bytes limit the tokens
        of a document.
        """
        _, prompt_tokens, _ = super().workload(generation, batch_size)
        longest = None if self.text_bytes is None else max(self.text_bytes, default=0)
        window = self.max_piece_tokens if longest is None else min(self.max_piece_tokens, longest)
        return generation.batch_size or batch_size, max(prompt_tokens, window), 1

    def requested_work(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[WorkAmount]:
        """Return the work amount of all documents. Empty if their number is unknown. A question's
        continuation counts as a short document.
        """
        count, rows = self.limit if num_questions is None else num_questions, generation.batch_size
        if count is None:
            return []
        if self.context_lengths:
            pieces = [context + self.scored_tokens for context in self.context_lengths]
            return [
                WorkAmount(rows, tokens, 1, count, counts_tokens=True) for tokens in pieces
            ] * self.num_loads
        if self.text_bytes:
            return [
                self._document_work_amount(rows, count, fmean(self.text_bytes) / BYTES_A_TOKEN)
            ] * self.num_loads
        return [WorkAmount(rows, 2 * QUESTION_TOKENS, 1, count)] * self.num_loads

    def _document_work_amount(self, batch_size: int | None, num_documents: int, tokens: float) -> WorkAmount:
        """Return the work amount for documents of about `tokens` tokens. Overlapping windows read some
        tokens twice.
        """
        further = max(0.0, (tokens - self.window_tokens) / self.step)
        read = tokens + further * (self.window_tokens - self.step)
        return WorkAmount(
            batch_size,
            max(1, round(read)),
            1,
            num_documents,
            piece_tokens=min(self.window_tokens, max(1, round(tokens))),
        )
