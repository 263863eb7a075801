"""Metrics of a server elsewhere, and of a student and a teacher."""

from __future__ import annotations

from runner_compare import OF_CALLS, Better, Metric
from runner_compare.metrics import kinds

OF_SIDES = ("answers", "calls", *OF_CALLS)

METRICS: tuple[Metric, ...] = (
    # a server elsewhere, a student and a teacher
    kinds.metric("cost_usd", "cost USD", ".4f", better=Better.lower, pooling=kinds.Pooling.sum),
    *kinds.counts(Better.neither, *(f"{who}_{what}" for who in ("student", "teacher") for what in OF_SIDES)),
)
