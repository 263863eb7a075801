"""How a completion ends: at a stop token, at a stop text or at its limit; and what of it was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.core.result import FinishReason
from runner.engines.base import Request


class Ending:
    """Knows a tokenizer and its stop tokens, and remembers which tokens can complete which stop text."""

    def __init__(self, tokenizer: Any, stops: frozenset[int] = frozenset()) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        self._completes: dict[tuple[str, int], bool] = {}

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
        for stop in request.stop:
            for size in range(min(len(stop) - 1, sure), 0, -1):
                if text[:sure].endswith(stop[:size]):
                    sure -= size
                    break
        return text[len(sent) : sure]

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
