"""Counts a server's responses and tokens since its start, and computes the metrics of its job."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from runner_base.spreads import compute_percentiles
from runner_engine import EngineStats

# upper bounds of the histogram's buckets
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
MAX_TIMES = 10_000  # the quantiles are those of the last answers
SPEED_S = 10.0  # tokens per second are averaged over this time


@dataclass
class ServerCounters:
    """Counts responses, durations and tokens since the server's start."""

    # (path, status) -> requests
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    left: int = 0  # clients that left before their answer was complete
    broken: int = 0  # answers that ended in an error after they had begun
    choices: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    # answers by the student and by the teacher
    sides: Counter[str] = field(default_factory=Counter)
    cost_usd: float = 0.0
    # of answers with status 200
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_TIMES))
    buckets: Counter[float] = field(default_factory=Counter)
    sum_s: float = 0.0
    _tokens_at: deque[tuple[float, int]] = field(default_factory=lambda: deque([(time.monotonic(), 0)]))

    def count_response(self, path: str, status: int, seconds: float) -> None:
        """Count a response by path, HTTP status and duration in seconds."""
        self.statuses[path, status] += 1
        if status == 200:
            self.seconds.append(seconds)
            self.sum_s += seconds
            self.buckets[next((end for end in SECONDS if seconds <= end), float("inf"))] += 1

    def record_token_rate(self) -> None:
        """Record the current number of generated tokens, from which the token rate is computed. Call this
        about once a second.
        """
        now = time.monotonic()
        self._tokens_at.append((now, self.new_tokens))
        while len(self._tokens_at) > 2 and now - self._tokens_at[0][0] > SPEED_S:
            self._tokens_at.popleft()

    @property
    def tok_per_s(self) -> float:
        """New tokens per second, averaged over the last 10 s."""
        (begin, tokens_before), (end, tokens_now) = self._tokens_at[0], self._tokens_at[-1]
        return (tokens_now - tokens_before) / (end - begin) if end > begin else 0.0

    def count_statuses(self, *statuses: int) -> int:
        """Return the number of responses that had one of these HTTP statuses."""
        return sum(count for (_, status), count in self.statuses.items() if status in statuses)

    @property
    def num_requests(self) -> int:
        """Number of requests that ended, with a response or because the client disconnected."""
        return self.statuses.total() + self.left

    def job_metrics(self, stats: EngineStats) -> dict[str, float]:
        return {
            "requests": self.num_requests,
            "answered": self.count_statuses(200),
            "refused": self.count_statuses(429, 503),
            "client_errors": sum(
                n for (_, code), n in self.statuses.items() if 400 <= code < 500 and code != 429
            ),
            "server_errors": self.count_statuses(500, 504) + self.broken,
            "clients_left": self.left,
            "n": self.choices,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            **self.sides,
            **({"cost_usd": self.cost_usd} if self.cost_usd else {}),
            "peak_rows": stats.peak_rows,
            **{f"answer_{rank}_s": value for rank, value in compute_percentiles(self.seconds).items()},
        }
