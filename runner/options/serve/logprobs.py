"""Log-probabilities of tokens, as OpenAI's two endpoints write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MIN_LOGPROB = -9999.0  # replaces minus infinity, which JSON cannot express; OpenAI does the same


@dataclass
class Token:
    """A token of an answer, or of the prompt that it begins with."""

    text: str
    logprob: float | None  # None for the first token: nothing precedes it
    top: list[tuple[str, float]]


def chat_logprobs(tokens: list[Token] | None) -> dict[str, Any] | None:
    """Write log-probabilities in the format of a chat."""
    if tokens is None:
        return None

    def entry(text: str, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        entry(token.text, token.logprob)
        | {"top_logprobs": [entry(text, logprob) for text, logprob in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: list[Token] | None) -> dict[str, Any] | None:
    """Write log-probabilities in the format of a plain completion; `top_logprobs` includes the
    token itself."""
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
