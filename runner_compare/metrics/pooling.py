"""The metrics of several runs together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from operator import mul

from runner_compare.metrics.kinds import Pooling
from runner_compare.metrics.known import described


def score(metrics: Mapping[str, float]) -> tuple[int, int] | None:
    """Return how many answers were right, of how many; None if a run counted none, or says what no
    count can be."""
    correct, n = (metrics.get(key, math.nan) for key in ("correct", "n"))
    if not 0 <= correct <= n < math.inf:  # nor where one is no number
        return None
    return int(correct), int(n)


def pool(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of several runs together: those that all of them have."""
    parts = list(runs)
    pooled = {}
    shared = [key for key in parts[0] if all(key in part for part in parts)]
    for key in shared:
        values, metric = [part[key] for part in parts], described(key)
        match metric.pooling:
            case Pooling.sum:
                pooled[key] = sum(values)
            case Pooling.max:
                pooled[key] = max(values)
            case Pooling.per_token if metric.tokens in shared and all(values):
                tokens = [part[metric.tokens] for part in parts]
                pooled[key] = sum(tokens) / sum(
                    count / speed for count, speed in zip(tokens, values, strict=True)
                )
            case Pooling.weighted if sum(part.get(metric.tokens, 0.0) for part in parts):
                weights = [part.get(metric.tokens, 0.0) for part in parts]
                pooled[key] = math.fsum(map(mul, values, weights)) / sum(weights)
            case Pooling.mean | Pooling.per_token | Pooling.weighted:
                pooled[key] = sum(values) / len(values)
            case Pooling.dropped:
                pass
    scored = score(pooled)
    return pooled | ({"accuracy": scored[0] / scored[1]} if scored and scored[1] else {})
