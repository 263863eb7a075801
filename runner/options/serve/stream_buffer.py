"""Groups streamed text into events of several tokens each, which saves time for server and client.

An engine returns one text per token.
"""

from __future__ import annotations

from itertools import groupby


class StreamBuffer:
    """Groups the streamed text of one choice into events of `interval` tokens, except the first and last
    event.
    """

    def __init__(self, tokens_per_event: int) -> None:
        self.interval, self.room = tokens_per_event, 1
        self.held: list[tuple[str, bool]] = []

    def buffer_and_take_ready_texts(
        self, texts: list[tuple[str, bool]], is_last: bool
    ) -> list[tuple[str, bool]]:
        """Add pairs (text, is_thinking) to the buffer. Returns the pairs to send now, with adjacent texts
        joined.
        """
        self.held += [one for one in texts if one[0]]
        if len(self.held) < self.room and not is_last:
            return []
        pieces = [
            ("".join(text for text, _ in some), is_thinking)
            for is_thinking, some in groupby(self.held, key=lambda one: one[1])
        ]
        self.room, self.held = self.interval if pieces else self.room, []
        return pieces
