"""A server's counters: the text of /metrics, and the totals of the job."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from runner_base.spreads import percentiles
from runner_engine import EngineStats

# upper bounds of the histogram's buckets
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
MAX_TIMES = 10_000  # the quantiles are those of the last answers
SPEED_S = 10.0  # tokens per second are averaged over this time


@dataclass
class Counters:
    """Totals since the server began."""

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
    _buckets: Counter[float] = field(default_factory=Counter)
    _sum_s: float = 0.0
    _tokens_at: deque[tuple[float, int]] = field(default_factory=lambda: deque([(time.monotonic(), 0)]))

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.statuses[path, status] += 1
        if status == 200:
            self.seconds.append(seconds)
            self._sum_s += seconds
            self._buckets[next((end for end in SECONDS if seconds <= end), float("inf"))] += 1

    def tick(self) -> None:
        """Record the number of tokens, for the speed; called about once a second."""
        now = time.monotonic()
        self._tokens_at.append((now, self.new_tokens))
        while len(self._tokens_at) > 2 and now - self._tokens_at[0][0] > SPEED_S:
            self._tokens_at.popleft()

    @property
    def tok_per_s(self) -> float:
        """New tokens per second over the last SPEED_S seconds."""
        (begin, tokens_before), (end, tokens_now) = self._tokens_at[0], self._tokens_at[-1]
        return (tokens_now - tokens_before) / (end - begin) if end > begin else 0.0

    def count(self, *statuses: int) -> int:
        """Return how many requests were answered with one of these."""
        return sum(count for (_, status), count in self.statuses.items() if status in statuses)

    @property
    def requests(self) -> int:
        """Requests that were answered, or whose client has left."""
        return self.statuses.total() + self.left

    def totals(self, stats: EngineStats) -> dict[str, float]:
        """Return the metrics of the job."""
        return {
            "requests": self.requests,
            "answered": self.count(200),
            "refused": self.count(429, 503),
            "client_errors": sum(
                n for (_, code), n in self.statuses.items() if 400 <= code < 500 and code != 429
            ),
            "server_errors": self.count(500, 504) + self.broken,
            "clients_left": self.left,
            "n": self.choices,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            **self.sides,
            **({"cost_usd": self.cost_usd} if self.cost_usd else {}),
            "peak_rows": stats.peak_rows,
            **{f"answer_{rank}_s": value for rank, value in percentiles(self.seconds).items()},
        }

    def prometheus(self, stats: EngineStats, open_now: int) -> str:
        """Return the text that Prometheus reads; `open_now`: how many completions are under way or
        waiting."""
        return "".join(line + "\n" for line in self._lines(stats, open_now))

    def _lines(self, stats: EngineStats, open_now: int) -> Iterator[str]:
        yield from _head("runner_requests_total", "counter", "answered requests, by path and status")
        for (path, status), count in sorted(self.statuses.items()):
            yield f'runner_requests_total{{path="{path}",status="{status}"}} {count}'
        numbers = (
            (
                "runner_clients_left_total",
                "counter",
                "clients that left before their answer was complete",
                self.left,
            ),
            ("runner_broken_total", "counter", "streams that ended in an error", self.broken),
            ("runner_prompt_tokens_total", "counter", "prompt tokens of answers", self.prompt_tokens),
            ("runner_new_tokens_total", "counter", "new tokens of answers", self.new_tokens),
            (
                "runner_shared_tokens_total",
                "counter",
                "prompt tokens that were not computed again",
                stats.shared_tokens,
            ),
            (
                "runner_draft_tokens_total",
                "counter",
                "draft tokens of speculative decoding",
                stats.draft_tokens,
            ),
            (
                "runner_accepted_tokens_total",
                "counter",
                "draft tokens that were accepted",
                stats.accepted_tokens,
            ),
            ("runner_open", "gauge", "completions under way or waiting", open_now),
            ("runner_queue", "gauge", "rows that wait for a slot", stats.rows_waiting),
            ("runner_rows_alive", "gauge", "rows that are being decoded", stats.rows_alive),
            ("runner_kv_tokens", "gauge", "tokens in the KV cache", stats.kv_tokens),
            ("runner_kept_tokens", "gauge", "tokens in the prompt cache", stats.kept_tokens),
            (
                "runner_tokens_per_second",
                "gauge",
                f"new tokens over the last {SPEED_S:g} s",
                round(self.tok_per_s, 3),
            ),
        )
        for name, kind, about, value in numbers:
            yield from _head(name, kind, about)
            yield f"{name} {value}"
        yield from _head(
            "runner_answer_seconds", "histogram", "seconds from a request to the end of its answer"
        )
        below = 0
        for end in SECONDS:
            below += self._buckets[end]
            yield f'runner_answer_seconds_bucket{{le="{end:g}"}} {below}'
        count = self._buckets.total()
        yield f'runner_answer_seconds_bucket{{le="+Inf"}} {count}'
        yield f"runner_answer_seconds_sum {self._sum_s:.6f}"
        yield f"runner_answer_seconds_count {count}"


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
