"""Names, units and descriptions of metrics about models on servers, draft models and fallback models."""

from __future__ import annotations

from runner_compare import OF_CALLS, BetterDirection, Metric
from runner_compare.metrics import metric_types

OF_SIDES = ("answers", "calls", *OF_CALLS)

METRICS: tuple[Metric, ...] = (
    # a server elsewhere, a student and a teacher
    metric_types.define_metric(
        "cost_usd", "cost USD", ".4f", better=BetterDirection.lower, pooling=metric_types.PoolingRule.sum
    ),
    *metric_types.define_counts(
        BetterDirection.neither, *(f"{who}_{what}" for who in ("student", "teacher") for what in OF_SIDES)
    ),
)
