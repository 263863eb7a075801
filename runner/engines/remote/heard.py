"""What a server says, as it may be kept and shown: without its key, in whole characters, with numbers that can be true.

All text of a server comes through here, be it an answer, the name of a model, a header or the message of an error.
"""

from __future__ import annotations

import json
from urllib.parse import quote

from runner.core.errors import one_line
from runner.core.uris import HIDDEN
from runner.engines.remote.faults import Miscounted

LEAST_SECRET = 8  # characters; shorter keys, such as EMPTY, are words that answers may hold
MOST_TOKENS = 10**9  # more than any model reads or says for one request


class Secret:
    """The key of a server, which it may send back to us."""

    def __init__(self, key: str) -> None:
        self.spellings = sorted({key, json.dumps(key)[1:-1], repr(key)[1:-1], quote(key, safe="")} - {""}, key=len)[
            ::-1
        ]
        self.in_answers = self.spellings if len(key) >= LEAST_SECRET else [f"Bearer {key}"] if key else []
        self.times = 0  # that it stood in an answer

    def plain(self, said: object) -> str:
        """Return what a server or a library says on one line, without the key."""
        text = str(said)
        for spelling in self.spellings:
            text = text.replace(spelling, HIDDEN)
        return one_line(whole(text))

    def name(self, said: object) -> str:
        """Return the name of a model on one line, without the key."""
        text = str(said)
        self.times += any(spelling in text for spelling in self.in_answers)
        return self.plain(text)


class AnswerText:
    """The text of an answer as it comes in pieces; the end of it is held back while the key may have begun in it."""

    def __init__(self, secret: Secret) -> None:
        self.secret, self.text, self._held = secret, "", ""

    def take(self, piece: str) -> str:
        """Take in a piece; return what is new and settled."""
        text = self._hidden(self._held + piece)
        longest = max(map(len, self.secret.in_answers), default=0)
        tails = (text[at:] for at in range(max(0, len(text) - longest + 1), len(text)))
        begun = next((tail for tail in tails if any(it.startswith(tail) for it in self.secret.in_answers)), "")
        self._held = begun or (text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else "")
        return self._settled(text[: len(text) - len(self._held)])

    def end(self) -> str:
        """Return what was held back: nothing comes behind it."""
        text, self._held = self._held, ""
        return self._settled(text)

    def _hidden(self, text: str) -> str:
        for spelling in self.secret.in_answers:
            if spelling in text:
                self.secret.times += text.count(spelling)
                text = text.replace(spelling, HIDDEN)
        return text

    def _settled(self, text: str) -> str:
        text = whole(text)
        self.text += text
        return text


def whole(text: str) -> str:
    """Return a text whose halves of characters, which JSON can spell and no file takes, are joined or replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def counted(name: str, value: object) -> int:
    """Return a number of tokens as a server gives it; Miscounted where it cannot be one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= MOST_TOKENS and value == int(value):  # type: ignore[operator, call-overload]
        return int(value)  # type: ignore[call-overload, no-any-return]
    raise Miscounted(f"{name}={value!r}, which is no number of tokens", "counted tokens wrongly")
