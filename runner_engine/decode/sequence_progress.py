"""Measures the progress of a session's sequences, to estimate the remaining time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner_engine.decode.sequences import TokenSequence
from runner_engine.sessions import Completion, EngineStats, Event


class SequenceProgress:
    """Counts finished sequences, and estimates the completed fraction of all work."""

    def __init__(self) -> None:
        self.ended_rows = self.ended_tokens = self.ended_prompt_tokens = 0

    def count_finished(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Completion) and event.answer.token_ids and event.logprobs is None:
                self.ended_rows += 1
                self.ended_tokens += len(event.answer.token_ids)
                self.ended_prompt_tokens += event.prompt_tokens

    def estimate_completed_requests(
        self, active_sequences: Sequence[TokenSequence], stats: EngineStats
    ) -> float:
        """Return by how many mean requests the passed work exceeds the finished requests.

        Work is time at the speed so far, prefill included. Short answers end first and need less than the
        mean, so the result can be negative. Tokens of unfinished sequences count in the mean length of an
        answer for the same reason.
        """
        if not active_sequences:
            return 0.0
        tokens = self.ended_tokens + sum(len(row.tokens) for row in active_sequences)
        usual = tokens / self.ended_rows if self.ended_rows else math.inf
        prompt_s = stats.prefill_s / max(stats.prefill_tokens + stats.shared_tokens, 1)
        seconds_per_token = stats.decode_s / max(stats.decode_tokens, 1)
        passed_s = prompt_s * self.ended_prompt_tokens + seconds_per_token * self.ended_tokens
        left_s = 0.0
        for row in active_sequences:
            passed_s += prompt_s * len(row.prompt) + seconds_per_token * len(row.tokens)
            left_s += seconds_per_token * min(usual, row.limit - len(row.tokens))
        mean_s = (passed_s + left_s) / (self.ended_rows + len(active_sequences))
        completed = passed_s / mean_s if mean_s else 0.0
        return (completed - self.ended_rows) / max(active_sequences[0].request.n, 1)
