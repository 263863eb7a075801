"""Config keys of task=likelihood: which texts are scored, window lengths, and the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

from runner.config.questions import OTHER_JOB, WORDS_FOR_A_JOB, QuestionsConfig
from runner.config.task import QUESTION_TOKENS, RequestedCompletions
from runner.config.token_counts import parse_checked_token_count, parse_token_counts, require_min_token_count
from runner.config.wording import PromptStyle, WordingConfig
from runner_base import HASHED, UNLESS_DEFAULT, NotInIdentity, at_least, check_value, config_field, not_blank
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
    sized_by: ClassVar[tuple[str, ...]] = ("context_lengths", "last_tokens")
    answers: str | None = config_field(
        None, HASHED, not_blank("give the id or the folder of a finished job, or null")
    )
    window: int | str = config_field(
        WINDOW, constraint=require_min_token_count(2, ": each token is scored after another one")
    )
    stride: int | str | None = config_field(
        None, constraint=require_min_token_count(1, ", or null for half of task.window")
    )
    context_lengths: list[str] = field(
        default_factory=list, metadata={"renamed_from": "contexts", "counts": UNLESS_DEFAULT}
    )
    last_tokens: int | str = config_field(LAST_TOKENS, UNLESS_DEFAULT, require_min_token_count(1))
    keep_top_k: int = config_field(
        0,
        NotInIdentity("the input hashes include this value, and it changes no metric"),
        at_least(0, "; 0 keeps none"),
    )
    reference: str | None = config_field(None, OTHER_JOB, WORDS_FOR_A_JOB)
    repeat_index: int = config_field(0, UNLESS_DEFAULT, at_least(0), renamed_from="repeat")
    exact: bool | None = config_field(
        None, NotInIdentity("with a reference, the input hashes include this value")
    )
    show_prompt: int = config_field(0, NotInIdentity("how many prompts are shown"), at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.text_bytes: list[int] | None = None  # no key: of each text that is cut, once the texts are read
        # no key: of each answer of task.answers with its prompt, once the answers are read
        self.answer_tokens: list[int] | None = None
        # 4k and 4096 are one job
        self.window = self.window_tokens = parse_checked_token_count(self.window)
        self.stride = None if self.stride is None else parse_checked_token_count(self.stride)
        self.last_tokens = self.scored_tokens = parse_checked_token_count(self.last_tokens)
        # from a window to the next
        self.step = self.window_tokens // 2 if self.stride is None else self.stride
        need = (
            "task=likelihood measures no accuracy, so it cannot exclude questions. Select documents "
            "with task.only"
        )
        check_value(self.unscored is None, "task.unscored", self.unscored, need, code="unsupported")
        choices = ", ".join(style.value for style in STYLES)
        need = f"the answer must directly follow the question in the prompt. Supported styles: {choices}"
        check_value(self.prompt in STYLES, "task.prompt", self.prompt.value, need, code="unknown_choice")
        self.reject_conflicting_prompt_keys()
        need = "repeated jobs cannot be compared with a reference. Omit task.repeat_index or task.reference"
        check_value(
            self.reference is None or not self.repeat_index,
            "task.repeat_index",
            self.repeat_index,
            need,
            code="conflict",
        )
        need = (
            f"task.stride must be smaller than task.window={self.window}, so that windows overlap "
            "and every token is scored"
        )
        check_value(self.step < self.window_tokens, "task.stride", self.stride, need)
        self.context_tokens = parse_token_counts("task.context_lengths", self.context_lengths)
        self.context_lengths = [str(length) for length in self.context_tokens]  # 1k and 1024 are one job
        self._check_context_length_keys()
        self._check_answer_keys()
        need = (
            "this key needs a reference. Give task.reference=OVERRIDES, such as "
            "task.reference=quantization=none"
        )
        check_value(not self.exact or self.reference is not None, "task.exact", "true", need, code="missing")

    def _check_context_length_keys(self) -> None:
        """Raise ConfigError for keys that have no effect together with task.context_lengths."""
        if not self.context_lengths:
            need = (
                "this key has no effect without task.context_lengths. Give task.context_lengths, such as "
                "task.context_lengths=[256,1k,4k]"
            )
            check_value(
                self.last_tokens == LAST_TOKENS, "task.last_tokens", self.last_tokens, need, code="no_effect"
            )
            return
        need = "with task.context_lengths, documents are not split into windows. Omit this key"
        check_value(self.window == WINDOW, "task.window", self.window, need, code="conflict")
        check_value(self.stride is None, "task.stride", self.stride, need, code="conflict")

    def _check_answer_keys(self) -> None:
        """Raise ConfigError for keys that have no effect together with task.answers."""
        if self.answers is None:
            return
        need = "task.answers scores each answer as a whole, after its prompt. Omit this key"
        check_value(self.window == WINDOW, "task.window", self.window, need, code="conflict")
        check_value(self.stride is None, "task.stride", self.stride, need, code="conflict")
        lengths = f"[{','.join(self.context_lengths)}]"
        check_value(not self.context_lengths, "task.context_lengths", lengths, need, code="conflict")
        need = "task.answers has no list of documents. Use task.limit and task.offset"
        check_value(self.only is None, "task.only", self.only, need, code="conflict")

    @property
    def max_tokens_per_pass(self) -> int:
        """The largest number of tokens that the model reads in one pass."""
        if self.answer_tokens:
            return max(self.answer_tokens)
        return max(self.context_tokens) + self.scored_tokens if self.context_tokens else self.window_tokens

    @property
    def uses_chat_template(self) -> bool:
        """Whether scored answers follow a question in the chat template."""
        is_text = self.answers is not None or self.data.endswith((".txt", ".jsonl"))
        return self.prompt is PromptStyle.chat and not is_text

    @property
    def num_loads(self) -> int:
        """Number of models to load: 2 if the reference model is loaded too, otherwise 1."""
        return 1 + bool(self.exact)

    def workload(self, generation: GenerationConfig, batch_size: int = 1) -> Workload:
        """Return batch size, prompt tokens and new tokens of the largest batch."""
        _, prompt_tokens, _ = super().workload(generation, batch_size)
        longest = None if self.text_bytes is None else max(self.text_bytes, default=0)
        if self.answer_tokens:
            longest = self.max_tokens_per_pass
        window = self.max_tokens_per_pass if longest is None else min(self.max_tokens_per_pass, longest)
        return generation.batch_size or batch_size, max(prompt_tokens, window), 1

    def list_requested_completions(
        self, generation: GenerationConfig, num_questions: int | None = None
    ) -> list[RequestedCompletions]:
        """Return the completions that the job requests. Empty if the number of documents is unknown."""
        count, rows = self.limit if num_questions is None else num_questions, generation.batch_size
        if count is None:
            return []
        if self.context_tokens:
            pieces = [context + self.scored_tokens for context in self.context_tokens]
            return [
                RequestedCompletions(rows, tokens, 1, count, counts_tokens=True) for tokens in pieces
            ] * self.num_loads
        if self.answer_tokens:
            tokens = round(fmean(self.answer_tokens))
            return [RequestedCompletions(rows, tokens, 1, count, counts_tokens=True)] * self.num_loads
        if self.text_bytes:
            return [
                self._estimate_document_completions(rows, count, fmean(self.text_bytes) / BYTES_A_TOKEN)
            ] * self.num_loads
        return [RequestedCompletions(rows, 2 * QUESTION_TOKENS, 1, count)] * self.num_loads

    def _estimate_document_completions(
        self, batch_size: int | None, num_documents: int, tokens: float
    ) -> RequestedCompletions:
        """Return the completions for documents. Tokens in overlapping windows count twice."""
        further = max(0.0, (tokens - self.window_tokens) / self.step)
        read = tokens + further * (self.window_tokens - self.step)
        return RequestedCompletions(
            batch_size,
            max(1, round(read)),
            1,
            num_documents,
            piece_tokens=min(self.window_tokens, max(1, round(tokens))),
        )
