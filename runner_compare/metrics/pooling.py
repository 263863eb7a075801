"""Pool the metrics of several runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from operator import mul

from runner_compare.metrics.metric_registry import find_metric
from runner_compare.metrics.metric_types import PoolingRule


def correct_and_total(metrics: Mapping[str, float]) -> tuple[int, int] | None:
    """Return the number of correct answers and of all answers. None if the metrics lack valid
    counts.
    """
    correct, n = (metrics.get(key, math.nan) for key in ("correct", "n"))
    if not 0 <= correct <= n < math.inf:  # nor where one is no number
        return None
    return int(correct), int(n)


def pool_metrics(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Combine the metrics that all runs have, by each metric's pooling rule."""
    parts = list(runs)
    pooled = {}
    shared = [key for key in parts[0] if all(key in part for part in parts)]
    for key in shared:
        values, metric = [part[key] for part in parts], find_metric(key)
        match metric.pooling:
            case PoolingRule.sum:
                pooled[key] = sum(values)
            case PoolingRule.max:
                pooled[key] = max(values)
            case PoolingRule.per_token if metric.tokens in shared and all(values):
                tokens = [part[metric.tokens] for part in parts]
                pooled[key] = sum(tokens) / sum(
                    count / speed for count, speed in zip(tokens, values, strict=True)
                )
            case PoolingRule.weighted if sum(part.get(metric.tokens, 0.0) for part in parts):
                weights = [part.get(metric.tokens, 0.0) for part in parts]
                pooled[key] = math.fsum(map(mul, values, weights)) / sum(weights)
            case PoolingRule.mean | PoolingRule.per_token | PoolingRule.weighted:
                pooled[key] = sum(values) / len(values)
            case PoolingRule.dropped:
                pass
    scored = correct_and_total(pooled)
    return pooled | ({"accuracy": scored[0] / scored[1]} if scored and scored[1] else {})
