"""How a row ends: at a stop token, at a stop text or at its limit; and the text that is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.core.result import FinishReason
from runner.engines.base import Completion, Delta, Event, Request
from runner.engines.rows import Row


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a completion, by the tokenizer and by the model's generation config."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in [tokenizer.eos_token_id, *several] if token is not None)


class Stopping:
    """Knows a tokenizer and its stop tokens, and remembers which tokens can complete which stop text."""

    def __init__(self, tokenizer: Any, stops: frozenset[int] = frozenset()) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        self._completes: dict[tuple[str, int], bool] = {}

    def accept(self, row: Row, token: int, events: list[Event]) -> FinishReason | None:
        """Give a row its next token; say why it ends with it, or None, after a delta where one is wanted and due."""
        row.tokens.append(token)
        reason = self.reason(row.tokens, row.limit, row.request)
        if row.request.deltas:
            self._tell(row, events, reason is not None)
        return reason

    def cancel(self, row: Row, seconds: float, events: list[Event]) -> None:
        """End a row as cancelled, with what it has got so far."""
        if row.request.deltas:
            self._tell(row, events, is_over=True)
        events.append(self.completion(row, FinishReason.cancelled, seconds))

    def completion(self, row: Row, reason: FinishReason, seconds: float, error: str | None = None) -> Completion:
        """Return what became of a row."""
        return Completion(
            id=row.request.id,
            text=self.said(row.tokens, row.request),
            token_ids=row.tokens,
            finish_reason=reason,
            prompt_sha256=row.sha256,
            prompt_tokens=len(row.prompt),
            first_token_s=row.first_token_s,
            seconds=seconds,
            error=error,
            choice=row.choice,
        )

    def refusal(self, row: Row) -> Completion:
        """Return the completion of a row that cannot begin."""
        return self.completion(row, FinishReason.error, 0.0, row.error)

    def reason(self, tokens: Sequence[int], limit: int, request: Request) -> FinishReason | None:
        """Say why what has come so far is the end, or None while it goes on."""
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
        return FinishReason.length if len(tokens) >= limit else None

    def said(self, tokens: Sequence[int], request: Request) -> str:
        """Return the text of what has come, without the stop token and from the first stop text on."""
        kept = tokens[:-1] if tokens and tokens[-1] in self.stops and not request.ignore_eos else tokens
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        cuts = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text

    def fresh(self, tokens: Sequence[int], request: Request, sent: str) -> str:
        """Return the text that has come since, as far as no later token can change or cut it."""
        text = self.said(tokens, request)
        sure = len(text.rstrip("\ufffd"))  # the beginning of a character
        held = 0  # characters at the end that may be the beginning of a stop text
        for stop in request.stop:
            sizes = range(min(len(stop) - 1, sure), held, -1)
            held = next((size for size in sizes if text[:sure].endswith(stop[:size])), held)
        return text[len(sent) : sure - held]

    def _tell(self, row: Row, events: list[Event], is_over: bool) -> None:
        """Put the new text of a row among the events."""
        if is_over:
            text = self.said(row.tokens, row.request)[len(row.sent) :]
        else:
            text = self.fresh(row.tokens, row.request, row.sent)
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
