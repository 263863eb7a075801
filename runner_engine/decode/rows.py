"""A row is one completion that an engine computes: its tokens, its keys and values, and where its
thinking is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch

from runner_base import Answer, FinishReason
from runner_base.notes import Note, note
from runner_engine.grammars import Held
from runner_engine.kv_cache import RowKv, rounded
from runner_engine.render.notes import render
from runner_engine.sessions import Completion, Request, Thought, TokenScores
from runner_engine.settings.sampling import GREEDY, Sampling

NO_TOKEN = -1  # a sampler's result if the logits are not numbers
NOT_SAMPLED = -2  # its result if a row's own settings break it
NO_NUMBERS = note("logits_not_numbers")
BROKEN_SAMPLING = note("sampling_failed")


@dataclass(eq=False)
class Row:
    """One of the n choices of a request, one of its branches, or its continuation that is to be
    scored."""

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
    kv: RowKv = field(default_factory=RowKv)
    thought: Thought = field(default_factory=Thought)
    held: Held | None = None  # by a grammar; None: its answer is free
    sent: int = 0  # characters of its text, tags included, that were sent as deltas or stand between them
    entered_s: float = 0.0
    first_token_s: float = 0.0
    token_times: list[float] = field(default_factory=list)  # when each of its tokens came out
    guessed: tuple[list[int], list[int]] | None = None  # as its completion has it

    def __post_init__(self) -> None:
        self.permanent = self.error is not None
        self.kv.adapter = self.request.adapter

    def begin_again(self) -> None:
        """Drop its tokens."""
        self.tokens.clear()
        self.thought = self.thought.at_start()
        self.held = None if self.held is None else self.held.at_start()

    def wait_again(self) -> None:
        """Free what it has in the KV cache; it continues later from its tokens."""
        self.kv.forget()
        self.scores.clear()
        self.generator = None  # it may have drawn a number for a token that was not sampled

    @property
    def pending(self) -> list[int]:
        """Tokens that the model has not read when the row enters; it need not read a continuation's
        last one."""
        return self.prompt[self.kv.shared :] + (self.tokens if self.given is None else self.given[:-1])

    @property
    def need(self) -> int:
        """Own tokens that it may have in the KV cache when it ends."""
        more = self.limit if self.given is None else len(self.given) - 1
        own = len(self.prompt) - self.kv.shared + more
        return self.kv.rest + rounded(own) if self.kv.rest else own

    def completion(self, reason: FinishReason, seconds: float, answer: Answer | None = None) -> Completion:
        return Completion(
            answer or Answer.read("", self.tokens, reason, in_thinking=self.thought.in_thinking),
            id=self.request.id,
            prompt_sha256=self.sha256,
            prompt_tokens=len(self.prompt),
            first_token_s=self.first_token_s,
            seconds=seconds,
            error=None if self.error is None else render(self.error),
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


class RowsUnderWay:
    """The rows of a scheduler, by what happens to them next."""

    def __init__(self) -> None:
        self.waiting: deque[Row] = deque()
        self.reading: list[Row] = []  # rows whose long prompts are read in pieces
        self.active: list[Row] = []  # rows that decode, one token a step

    @property
    def in_slots(self) -> list[Row]:
        """The rows in the KV cache's slots, in order: those that decode, and behind them those that
        are read."""
        return [*self.active, *self.reading]
