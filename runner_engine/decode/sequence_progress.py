"""Measures the progress of a session's sequences, to estimate the remaining time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner_engine.decode.sequences import TokenSequence
from runner_engine.sessions import Completion, EngineStats, Event

MOST = 0.99  # of a row that has not ended


class SequenceProgress:
    """Counts finished sequences, and estimates the completed fraction of active sequences."""

    def __init__(self) -> None:
        self.ended_rows = self.ended_tokens = 0

    def count_finished(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Completion) and event.answer.token_ids and event.logprobs is None:
                self.ended_rows += 1
                self.ended_tokens += len(event.answer.token_ids)

    def estimate_completed_requests(
        self, active_sequences: Sequence[TokenSequence], stats: EngineStats
    ) -> float:
        """Return the progress of active sequences, as a fractional number of completed requests.

        A sequence's progress is the share of its time that has passed, prefill included, at the
        speed so far. Tokens of unfinished sequences count in the mean length, because the first
        sequences to end are the shortest.
        """
        tokens = self.ended_tokens + sum(len(row.tokens) for row in active_sequences)
        usual = tokens / self.ended_rows if self.ended_rows else math.inf
        prompt_s = stats.prefill_s / max(stats.prefill_tokens, 1)
        token_s = stats.decode_s / max(stats.decode_tokens, 1)
        done = 0.0
        for row in active_sequences:
            passed_s = prompt_s * (len(row.prompt) - row.kv.num_shared_tokens) + token_s * len(row.tokens)
            left_s = token_s * min(usual, row.limit - len(row.tokens))
            done += min(passed_s / max(passed_s + left_s, 1e-9), MOST) / max(row.request.n, 1)
        return done
