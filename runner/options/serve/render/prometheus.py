"""Formats the server's metrics for /metrics in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator

from runner.options.serve.counters import SECONDS, SPEED_S, ServerCounters
from runner_engine import EngineStats


def format_prometheus_metrics(counters: ServerCounters, stats: EngineStats, num_open_completions: int) -> str:
    return "".join(line + "\n" for line in _format_metric_lines(counters, stats, num_open_completions))


def _format_metric_lines(counters: ServerCounters, stats: EngineStats, num_open: int) -> Iterator[str]:
    yield from _metric_header("runner_requests_total", "counter", "answered requests, by path and status")
    for (path, status), count in sorted(counters.statuses.items()):
        yield f'runner_requests_total{{path="{path}",status="{status}"}} {count}'
    numbers = (
        (
            "runner_clients_left_total",
            "counter",
            "clients that disconnected before their answer was complete",
            counters.left,
        ),
        ("runner_broken_total", "counter", "streams that ended in an error", counters.broken),
        ("runner_prompt_tokens_total", "counter", "prompt tokens of answers", counters.prompt_tokens),
        ("runner_new_tokens_total", "counter", "new tokens of answers", counters.new_tokens),
        (
            "runner_shared_tokens_total",
            "counter",
            "prompt tokens reused from shared prefixes",
            stats.shared_tokens,
        ),
        ("runner_draft_tokens_total", "counter", "draft tokens of speculative decoding", stats.draft_tokens),
        ("runner_accepted_tokens_total", "counter", "draft tokens that were accepted", stats.accepted_tokens),
        ("runner_open", "gauge", "completions under way or waiting", num_open),
        ("runner_queue", "gauge", "sequences waiting for the batch", stats.rows_waiting),
        ("runner_rows_alive", "gauge", "rows that are being decoded", stats.rows_alive),
        ("runner_kv_tokens", "gauge", "tokens in the KV cache", stats.kv_tokens),
        ("runner_kept_tokens", "gauge", "tokens in the prompt cache", stats.kept_tokens),
        ("runner_prompt_cache_bytes", "gauge", "memory of the prompt cache", stats.kept_bytes),
        (
            "runner_prompt_cache_max_bytes",
            "gauge",
            "memory that the prompt cache never exceeds",
            stats.max_kept_bytes,
        ),
        (
            "runner_tokens_per_second",
            "gauge",
            f"generated tokens per second (average of {SPEED_S:g} s)",
            round(counters.tok_per_s, 3),
        ),
    )
    for name, kind, about, value in numbers:
        yield from _metric_header(name, kind, about)
        yield f"{name} {value}"
    yield from _metric_header(
        "runner_answer_seconds", "histogram", "seconds from a request to the end of its answer"
    )
    below = 0
    for end in SECONDS:
        below += counters.buckets[end]
        yield f'runner_answer_seconds_bucket{{le="{end:g}"}} {below}'
    count = counters.buckets.total()
    yield f'runner_answer_seconds_bucket{{le="+Inf"}} {count}'
    yield f"runner_answer_seconds_sum {counters.sum_s:.6f}"
    yield f"runner_answer_seconds_count {count}"


def _metric_header(name: str, kind: str, help_text: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"
