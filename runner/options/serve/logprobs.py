"""Formats log-probabilities of tokens for OpenAI's two endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MIN_LOGPROB = -9999.0  # replaces minus infinity, which JSON cannot express; OpenAI does the same


@dataclass
class ScoredToken:
    """A token with its log-probability, and alternative tokens with theirs."""

    text: str
    logprob: float | None  # None for the first token: nothing precedes it
    top: list[tuple[str, float]]


def format_chat_logprobs(tokens: list[ScoredToken] | None) -> dict[str, Any] | None:
    """Return log-probabilities in the format of /v1/chat/completions."""
    if tokens is None:
        return None

    def format_entry(text: str, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        format_entry(token.text, token.logprob)
        | {"top_logprobs": [format_entry(text, logprob) for text, logprob in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def format_text_logprobs(tokens: list[ScoredToken] | None) -> dict[str, Any] | None:
    """Return log-probabilities in the format of /v1/completions. `top_logprobs` also lists the token
    itself.
    """
    if tokens is None:
        return None
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    top_logprobs: list[dict[str, float | None] | None] = []
    for token in tokens:
        by_text: dict[str, float | None] = {}
        for text, logprob in [*token.top, (token.text, token.logprob)]:
            # several tokens may have the same text: the most probable one counts
            by_text.setdefault(text, logprob)
        top_logprobs.append(None if token.logprob is None else by_text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": top_logprobs,
        "text_offset": offsets,
    }
