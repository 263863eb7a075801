"""A row: one completion on its way through an engine, what has become of it so far, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from runner.core.result import FinishReason
from runner.engines.base import Completion, Delta, Event, Request, Sampling
from runner.engines.local.prefix_tree import Prefix

GREEDY = Sampling(0.0, 1.0, 0, 1.0, 0)


@dataclass(eq=False)
class Row:
    """One of the n choices of a request, one of its branches, or its continuation that is to be scored."""

    request: Request
    prompt: list[int]
    sha256: str
    limit: int  # new tokens it may have
    choice: int = 0  # of the request's n; of a branch: its number from 1 on
    sampling: Sampling = GREEDY  # with nothing left open
    given: list[int] | None = None  # the continuation to score; then nothing is generated
    branch_at: int = 0  # where the branch begins in the prompt
    error: str | None = None  # why it cannot begin, or not go on
    tokens: list[int] = field(default_factory=list)
    entered_s: float = 0.0
    first_token_s: float = 0.0
    prefix: Prefix | None = None
    generator: torch.Generator | None = None
    places: int = 0  # of its own in the scheduler's store
    sent: str = ""  # text that has gone out as deltas
    logprobs: list[float] = field(default_factory=list)  # of the continuation, as far as it is scored
    greedy: list[bool] = field(default_factory=list)  # whether the model would have said each of its tokens

    @property
    def path(self) -> list[Prefix]:
        """The prefixes that it stands on, from the root down."""
        return self.prefix.path if self.prefix else []

    @property
    def shared(self) -> int:
        """Prompt tokens whose keys and values lie in prefixes."""
        return self.prefix.length if self.prefix else 0

    @property
    def pending(self) -> list[int]:
        """Tokens that have not been through the model, when the row enters; a continuation's last one need not."""
        return self.prompt[self.shared :] + (self.tokens if self.given is None else self.given[:-1])

    @property
    def need(self) -> int:
        """Own places that it may fill until it ends."""
        more = self.limit if self.given is None else len(self.given) - 1
        return len(self.prompt) - self.shared + more

    def completion(self, reason: FinishReason, seconds: float, text: str = "") -> Completion:
        """Return what became of it."""
        return Completion(
            id=self.request.id,
            text=text,
            token_ids=self.tokens,
            finish_reason=reason,
            prompt_sha256=self.sha256,
            prompt_tokens=len(self.prompt),
            first_token_s=self.first_token_s,
            seconds=seconds,
            error=self.error,
            choice=self.choice,
            logprobs=self.logprobs or None,
            greedy=self.greedy or None,
        )


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a completion, by the tokenizer and by the model's generation config."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in [tokenizer.eos_token_id, *several] if token is not None)


class Stopping:
    """Ends rows at a stop token, at a stop text or at their limit, and knows the text that is told of them.

    It remembers which tokens can complete which stop text.
    """

    def __init__(self, tokenizer: Any, stops: frozenset[int] = frozenset()) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        self._completes: dict[tuple[str, int], bool] = {}

    def accept(self, row: Row, token: int, events: list[Event]) -> FinishReason | None:
        """Give a row its next token; say why it ends with it, or None, after a delta where one is wanted and due."""
        row.tokens.append(token)
        reason = self.reason(row)
        if row.request.deltas:
            self._tell(row, events, reason is not None)
        return reason

    def cancel(self, row: Row, seconds: float, events: list[Event]) -> None:
        """End a row as cancelled, with what it has got so far."""
        if row.request.deltas:
            self._tell(row, events, is_over=True)
        events.append(self.completion(row, FinishReason.cancelled, seconds))

    def completion(self, row: Row, reason: FinishReason, seconds: float) -> Completion:
        """Return what became of a row, with its text."""
        return row.completion(reason, seconds, self.said(row))

    def reason(self, row: Row) -> FinishReason | None:
        """Say why what has come so far is the end, or None while it goes on."""
        tokens, request = row.tokens, row.request
        if not request.ignore_eos:
            if tokens[-1] in self.stops:
                return FinishReason.stop
            due = [stop for stop in request.stop if self._may_complete(stop, tokens[-1])]
            if due:
                # a token holds at least one byte, so this many tokens hold any stop text that the last one completes
                reach = max(len(stop.encode()) for stop in due) + 4
                tail = self.tokenizer.decode(tokens[-reach:], skip_special_tokens=True)
                if any(stop in tail for stop in due):
                    return FinishReason.stop
        return FinishReason.length if len(tokens) >= row.limit else None

    def said(self, row: Row) -> str:
        """Return the text of what has come, without the stop token and from the first stop text on."""
        tokens, request = row.tokens, row.request
        kept = tokens[:-1] if tokens and tokens[-1] in self.stops and not request.ignore_eos else tokens
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        cuts = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text

    def fresh(self, row: Row) -> str:
        """Return the text that has come since the last delta, as far as no later token can change or cut it."""
        text = self.said(row)
        sure = len(text.rstrip("\ufffd"))  # the beginning of a character
        held = 0  # characters at the end that may be the beginning of a stop text
        for stop in row.request.stop:
            sizes = range(min(len(stop) - 1, sure), held, -1)
            held = next((size for size in sizes if text[:sure].endswith(stop[:size])), held)
        return text[len(row.sent) : sure - held]

    def _tell(self, row: Row, events: list[Event], is_over: bool) -> None:
        """Put the new text of a row among the events."""
        text = self.said(row)[len(row.sent) :] if is_over else self.fresh(row)
        if text:
            row.sent += text
            events.append(Delta(row.request.id, row.choice, text))

    def _may_complete(self, stop: str, token: int) -> bool:
        """Whether a token's text holds the stop text's last character: most do not, and need no closer look."""
        key = stop[-1], token
        known = self._completes.get(key)
        if known is None:
            text = self.tokenizer.decode([token])
            # part of a character decodes to a mark, and a space may vanish at the start of a text
            known = stop[-1] in text or "\ufffd" in text or stop[-1].isspace()
            self._completes[key] = known
        return known
