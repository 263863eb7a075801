"""Sequences of an engine. Each sequence has the tokens, KV cache and thinking state of one completion."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch

from runner_base import Answer, FinishReason
from runner_base.notes import Note, note
from runner_engine.grammars import GrammarState
from runner_engine.kv_cache import SequenceKv, round_up_positions
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import Completion, Request, ThinkingState, TokenScores
from runner_engine.settings.sampling import GREEDY, Sampling

NO_TOKEN = -1  # a sampler's result if the logits are not numbers
NOT_SAMPLED = -2  # its result if a row's own settings break it
NO_NUMBERS = note("logits_not_numbers")
BROKEN_SAMPLING = note("sampling_failed")


@dataclass(eq=False)
class TokenSequence:
    """Tokens of one completion: of a choice, of a branch, or of a continuation to score."""

    request: Request
    prompt: list[int]
    sha256: str
    limit: int  # most new tokens
    choice: int = 0  # number of the choice; of a branch: its number, from 1
    sampling: Sampling = GREEDY  # with all defaults, as far as they change its tokens
    fills_context: bool = False  # the limit is the model's room, below what was requested
    given: list[int] | None = None  # the continuation to score; then nothing is generated
    branch_at: int = 0  # where the branch begins in the prompt
    error: Note | None = None  # why it cannot begin or continue
    # the error was known before the row ran, so it would come again
    permanent: bool = field(init=False)
    tokens: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None
    # of the continuation's tokens scored so far
    scores: TokenScores = field(default_factory=TokenScores)
    kv: SequenceKv = field(default_factory=SequenceKv)
    thought: ThinkingState = field(default_factory=ThinkingState)
    held: GrammarState | None = None  # by a grammar; None: its answer is free
    sent: int = 0  # characters of its text, tags included, that were sent as deltas or stand between them
    entered_s: float = 0.0
    first_token_s: float = 0.0
    token_times: list[float] = field(default_factory=list)  # when each of its tokens came out
    guessed: tuple[list[int], list[int]] | None = None  # as its completion has it

    def __post_init__(self) -> None:
        self.permanent = self.error is not None
        self.kv.adapter = self.request.adapter

    def restart(self) -> None:
        """Drop all generated tokens, and reset the thinking and grammar states."""
        self.tokens.clear()
        self.thought = self.thought.reset_copy()
        self.held = None if self.held is None else self.held.copy_initial_state()

    def reset_for_requeue(self) -> None:
        """Release the KV cache, but keep the generated tokens so that decoding can continue."""
        self.kv.reset()
        self.scores.clear()
        self.generator = None  # it may have drawn a number for a token that was not sampled

    @property
    def pending_tokens(self) -> list[int]:
        """Tokens that are prefilled when the sequence enters the batch.

        The last token of a scored continuation needs no prefill.
        """
        return self.prompt[self.kv.num_shared_tokens :] + (
            self.tokens if self.given is None else self.given[:-1]
        )

    @property
    def max_kv_tokens(self) -> int:
        """Maximum number of tokens in the KV cache, excluding tokens shared with other sequences."""
        more = self.limit if self.given is None else len(self.given) - 1
        own = len(self.prompt) - self.kv.num_shared_tokens + more
        return self.kv.rest + round_up_positions(own) if self.kv.rest else own

    def to_completion(
        self, finish_reason: FinishReason, elapsed_s: float, answer: Answer | None = None
    ) -> Completion:
        return Completion(
            answer
            or Answer.from_text(
                "", self.tokens, finish_reason, in_thinking=self.thought.is_thinking_at_start
            ),
            id=self.request.id,
            prompt_sha256=self.sha256,
            prompt_tokens=len(self.prompt),
            first_token_s=self.first_token_s,
            seconds=elapsed_s,
            error=None if self.error is None else render_engine_note(self.error),
            permanent=self.permanent,
            guessed=self.guessed,
            choice=self.choice,
            logprobs=self.scores.logprobs or None,
            greedy=self.scores.greedy or None,
            top_logprobs=self.scores.top_logprobs or None,
            drawn_logprobs=self.scores.drawn_logprobs or None,
            score_token_logprobs=self.scores.score_token_logprobs or None,
            min_logprobs=self.scores.min_logprobs or None,
            token_times=self.token_times or None,
        )


class SequenceQueues:
    """The sequences of a scheduler: waiting, in prefill, and decoding."""

    def __init__(self) -> None:
        self.waiting: deque[TokenSequence] = deque()
        self.reading: list[TokenSequence] = []  # rows whose long prompts are read in pieces
        self.active: list[TokenSequence] = []  # rows that decode, one token a step

    @property
    def in_slots(self) -> list[TokenSequence]:
        """Sequences in KV slots, in slot order: decoding sequences first, then sequences in prefill."""
        return [*self.active, *self.reading]
