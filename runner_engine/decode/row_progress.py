"""How far the rows of a session are, for the estimate of the time left."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner_engine.decode.rows import Row
from runner_engine.sessions import Completion, EngineStats, Event

MOST = 0.99  # of a row that has not ended


class RowProgress:
    """The rows that have ended, and the progress of those that are decoding."""

    def __init__(self) -> None:
        self.ended_rows = self.ended_tokens = 0

    def note_ended(self, events: Sequence[Event]) -> None:
        """Note the lengths of the answers among some events."""
        for event in events:
            if isinstance(event, Completion) and event.answer.token_ids and event.logprobs is None:
                self.ended_rows += 1
                self.ended_tokens += len(event.answer.token_ids)

    def under_way(self, active: Sequence[Row], stats: EngineStats) -> float:
        """Return the active rows' progress as a number of requests.

        That of a row is the share of its time that has passed, its prompt included, at the speed so
        far. The tokens of rows that have not ended count in the mean length, too: the first rows to
        end are the shortest.
        """
        tokens = self.ended_tokens + sum(len(row.tokens) for row in active)
        usual = tokens / self.ended_rows if self.ended_rows else math.inf
        prompt_s = stats.prefill_s / max(stats.prefill_tokens, 1)
        token_s = stats.decode_s / max(stats.decode_tokens, 1)
        done = 0.0
        for row in active:
            passed_s = prompt_s * (len(row.prompt) - row.kv.shared) + token_s * len(row.tokens)
            left_s = token_s * min(usual, row.limit - len(row.tokens))
            done += min(passed_s / max(passed_s + left_s, 1e-9), MOST) / max(row.request.n, 1)
        return done
