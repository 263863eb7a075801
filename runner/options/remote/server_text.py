"""Cleans what a server sends before it is stored or shown: no key, only whole characters, only
plausible numbers.

All text of a server passes through here: answers, names of models, headers and error messages.
"""

from __future__ import annotations

import json
from urllib.parse import quote

from runner.options.remote.faults import Miscounted
from runner_base import one_line
from runner_base.uris import HIDDEN

MIN_SECRET_CHARACTERS = 8  # shorter keys, such as EMPTY, may be words of an answer
MAX_TOKENS = 10**9  # more than any model reads or generates for one request


class Secret:
    """The key of a server, which the server may send back."""

    def __init__(self, key: str) -> None:
        self.spellings = sorted(
            {key, json.dumps(key)[1:-1], repr(key)[1:-1], quote(key, safe="")} - {""}, key=len
        )[::-1]
        self.in_answers = (
            self.spellings if len(key) >= MIN_SECRET_CHARACTERS else [f"Bearer {key}"] if key else []
        )
        self.times = 0  # how often it was in an answer

    def plain(self, message: object) -> str:
        """Return a message of a server or a library on one line, without the key."""
        text = str(message)
        for spelling in self.spellings:
            text = text.replace(spelling, HIDDEN)
        return one_line(whole(text))

    def name(self, value: object) -> str:
        """Return the name of a model on one line, without the key."""
        text = str(value)
        self.times += any(spelling in text for spelling in self.in_answers)
        return self.plain(text)


class AnswerText:
    """The text of a streamed answer; its end is held back while the key may begin there."""

    def __init__(self, secret: Secret) -> None:
        self.secret, self.text, self._held = secret, "", ""

    def take(self, piece: str) -> str:
        """Add a piece; return the new text that is final."""
        text = self._hidden(self._held + piece)
        longest = max(map(len, self.secret.in_answers), default=0)
        tails = (text[at:] for at in range(max(0, len(text) - longest + 1), len(text)))
        key_begin = next(
            (tail for tail in tails if any(secret.startswith(tail) for secret in self.secret.in_answers)), ""
        )
        self._held = key_begin or (text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else "")
        return self._append_final(text[: len(text) - len(self._held)])

    def end(self) -> str:
        """Return the text that was held back, at the end of the answer."""
        text, self._held = self._held, ""
        return self._append_final(text)

    def _hidden(self, text: str) -> str:
        for spelling in self.secret.in_answers:
            if spelling in text:
                self.secret.times += text.count(spelling)
                text = text.replace(spelling, HIDDEN)
        return text

    def _append_final(self, text: str) -> str:
        text = whole(text)
        self.text += text
        return text


def whole(text: str) -> str:
    """Return a text with surrogates joined or replaced: JSON can express lone ones, but files
    cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def token_count(name: str, value: object) -> int:
    """Return a server's number of tokens; Miscounted if it cannot be one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= MAX_TOKENS and value == int(value):  # type: ignore[operator, call-overload]
        return int(value)  # type: ignore[call-overload, no-any-return]
    raise Miscounted(f"{name}={value!r}, which is not a number of tokens", "counted tokens wrongly")
