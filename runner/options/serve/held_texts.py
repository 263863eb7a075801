"""Texts of a stream that wait, so that one event has several tokens: that costs server and client
less time.

An engine returns a text for each token.
"""

from __future__ import annotations

from itertools import groupby


class HeldTexts:
    """The texts of a choice, joined so that each event has so many tokens, but for the first and
    the last."""

    def __init__(self, interval: int) -> None:
        self.interval, self.room = interval, 1
        self.held: list[tuple[str, bool]] = []

    def take(self, new: list[tuple[str, bool]], is_last: bool) -> list[tuple[str, bool]]:
        """Add texts; return what is to be sent now: thinking and answer apart."""
        self.held += [one for one in new if one[0]]
        if len(self.held) < self.room and not is_last:
            return []
        pieces = [
            ("".join(text for text, _ in some), is_thinking)
            for is_thinking, some in groupby(self.held, key=lambda one: one[1])
        ]
        self.room, self.held = self.interval if pieces else self.room, []
        return pieces
