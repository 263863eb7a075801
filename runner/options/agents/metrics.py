"""Names, units and descriptions of the metrics of agent teams."""

from __future__ import annotations

from runner_compare import OF_CALLS, BetterDirection, Metric
from runner_compare.metrics import metric_types

TRAINING = ("before", "after")

METRICS: tuple[Metric, ...] = (
    *metric_types.define_counts(BetterDirection.lower, "calls", "code_failed"),
    metric_types.define_metric(
        "samples_per_question", "samples a question", ".1f", better=BetterDirection.neither
    ),
    metric_types.define_metric("play_s", "playing", ",.1f", pooling=metric_types.PoolingRule.sum),
    *metric_types.define_counts(
        BetterDirection.neither, *(f"train_{what}" for what in ("questions", "solved", "calls", *OF_CALLS))
    ),
    metric_types.define_metric(
        "train_cost_usd",
        "training cost USD",
        ".4f",
        better=BetterDirection.lower,
        pooling=metric_types.PoolingRule.sum,
    ),
    *metric_types.define_counts(
        BetterDirection.neither,
        *(f"{kind}_edges_{when}" for kind in ("spatial", "temporal") for when in TRAINING),
    ),
)
