"""Sanitizes texts from servers: removes the API key, repairs Unicode and validates token counts.

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
    """Removes the API key from texts of a server, which could send the key back."""

    def __init__(self, key: str) -> None:
        self.spellings = sorted(
            {key, json.dumps(key)[1:-1], repr(key)[1:-1], quote(key, safe="")} - {""}, key=len
        )[::-1]
        self.in_answers = (
            self.spellings if len(key) >= MIN_SECRET_CHARACTERS else [f"Bearer {key}"] if key else []
        )
        self.times = 0  # how often it was in an answer

    def redact_message(self, message: object) -> str:
        """Put a message of a server or library on one line, and remove the API key."""
        text = str(message)
        for spelling in self.spellings:
            text = text.replace(spelling, HIDDEN)
        return to_one_line(repair_surrogates(text))

    def redact_name(self, model_name: object) -> str:
        text = str(model_name)
        self.times += any(spelling in text for spelling in self.in_answers)
        return self.redact_message(text)


class RedactedStream:
    """Removes the API key from a streamed answer, even if chunks split the key."""

    def __init__(self, redactor: ApiKeyRedactor) -> None:
        self.secret, self.text, self._held = redactor, "", ""

    def append(self, chunk: str) -> str:
        """Append a chunk of the stream, and return the text that is safe to emit."""
        text = self._redact(self._held + chunk)
        longest = max(map(len, self.secret.in_answers), default=0)
        tails = (text[at:] for at in range(max(0, len(text) - longest + 1), len(text)))
        key_begin = next(
            (tail for tail in tails if any(secret.startswith(tail) for secret in self.secret.in_answers)), ""
        )
        self._held = key_begin or (text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else "")
        return self._repair_surrogates_and_append(text[: len(text) - len(self._held)])

    def flush(self) -> str:
        """Return the text that is still buffered at the end of the answer."""
        text, self._held = self._held, ""
        return self._repair_surrogates_and_append(text)

    def _redact(self, text: str) -> str:
        for spelling in self.secret.in_answers:
            if spelling in text:
                self.secret.times += text.count(spelling)
                text = text.replace(spelling, HIDDEN)
        return text

    def _repair_surrogates_and_append(self, text: str) -> str:
        text = repair_surrogates(text)
        self.text += text
        return text


def repair_surrogates(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates in a text, because files cannot store them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def parse_token_count(field_name: str, value: object) -> int:
    """Validate a token count from a server. Raises InvalidTokenCounts for an implausible value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= MAX_TOKENS and value == int(value):  # type: ignore[operator, call-overload]
        return int(value)  # type: ignore[call-overload, no-any-return]
    raise InvalidTokenCounts(f"{field_name}={value!r} is not a valid token count", "counted tokens wrongly")
