"""Sanitizes text from a server before it is stored or shown: no API key, valid Unicode,
plausible numbers.

All text of a server passes through this module: answers, model names, headers and error
messages.
"""

from __future__ import annotations

import json
from urllib.parse import quote

from runner.options.remote.faults import InvalidTokenCounts
from runner_base import to_one_line
from runner_base.uris import HIDDEN

MIN_SECRET_CHARACTERS = 8  # shorter keys, such as EMPTY, may be words of an answer
MAX_TOKENS = 10**9  # more than any model reads or generates for one request


class ApiKeyRedactor:
    """Redacts a server's API key, which the server may send back."""

    def __init__(self, key: str) -> None:
        self.spellings = sorted(
            {key, json.dumps(key)[1:-1], repr(key)[1:-1], quote(key, safe="")} - {""}, key=len
        )[::-1]
        self.in_answers = (
            self.spellings if len(key) >= MIN_SECRET_CHARACTERS else [f"Bearer {key}"] if key else []
        )
        self.times = 0  # how often it was in an answer

    def redact_message(self, message: object) -> str:
        """Return a message of a server or a library on one line, without the key."""
        text = str(message)
        for spelling in self.spellings:
            text = text.replace(spelling, HIDDEN)
        return to_one_line(repair_surrogates(text))

    def redact_name(self, value: object) -> str:
        """Return a model name on one line, without the key. Counts each occurrence of the key."""
        text = str(value)
        self.times += any(spelling in text for spelling in self.in_answers)
        return self.redact_message(text)


class RedactedStream:
    """The text of a streamed answer. Holds back its last characters while they may begin the API
    key.
    """

    def __init__(self, secret: ApiKeyRedactor) -> None:
        self.secret, self.text, self._held = secret, "", ""

    def append(self, chunk: str) -> str:
        """Append a chunk and return the text that has become final."""
        text = self._redact(self._held + chunk)
        longest = max(map(len, self.secret.in_answers), default=0)
        tails = (text[at:] for at in range(max(0, len(text) - longest + 1), len(text)))
        key_begin = next(
            (tail for tail in tails if any(secret.startswith(tail) for secret in self.secret.in_answers)), ""
        )
        self._held = key_begin or (text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else "")
        return self._append_final(text[: len(text) - len(self._held)])

    def flush(self) -> str:
        """Return the held-back text at the end of the answer."""
        text, self._held = self._held, ""
        return self._append_final(text)

    def _redact(self, text: str) -> str:
        for spelling in self.secret.in_answers:
            if spelling in text:
                self.secret.times += text.count(spelling)
                text = text.replace(spelling, HIDDEN)
        return text

    def _append_final(self, text: str) -> str:
        text = repair_surrogates(text)
        self.text += text
        return text


def repair_surrogates(text: str) -> str:
    """Return a text with surrogate pairs joined and lone surrogates replaced. JSON can express
    lone surrogates, files cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def parse_token_count(name: str, value: object) -> int:
    """Return a token count from a server. Raises InvalidTokenCounts if the value is implausible."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= MAX_TOKENS and value == int(value):  # type: ignore[operator, call-overload]
        return int(value)  # type: ignore[call-overload, no-any-return]
    raise InvalidTokenCounts(f"{name}={value!r} is not a number of tokens", "counted tokens wrongly")
