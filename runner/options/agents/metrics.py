"""Metrics of a team of agents."""

from __future__ import annotations

from runner_compare import OF_CALLS, Better, Metric
from runner_compare.metrics import kinds

TRAINING = ("before", "after")

METRICS: tuple[Metric, ...] = (
    *kinds.counts(Better.lower, "calls", "code_failed"),
    kinds.metric("samples_per_question", "samples a question", ".1f", better=Better.neither),
    kinds.metric("play_s", "playing", ",.1f", pooling=kinds.Pooling.sum),
    *kinds.counts(Better.neither, *(f"train_{what}" for what in ("questions", "solved", "calls", *OF_CALLS))),
    kinds.metric(
        "train_cost_usd", "training cost USD", ".4f", better=Better.lower, pooling=kinds.Pooling.sum
    ),
    *kinds.counts(
        Better.neither, *(f"{kind}_edges_{when}" for kind in ("spatial", "temporal") for when in TRAINING)
    ),
)
