"""Names and descriptions of the metrics of task=multiple_choice, besides those of likelihoods."""

from __future__ import annotations

from runner_compare import BetterDirection, Metric
from runner_compare.metrics import metric_types

METRICS: tuple[Metric, ...] = (
    metric_types.define_metric("chance", "accuracy of a random choice", ".1%"),
    *metric_types.define_metric_with_interval(
        "gold_probability", "probability of the right choices", ".1%", BetterDirection.higher
    ),
    # answers by the rule that found the letter, such as `letters/stated`
    *metric_types.define_counts(BetterDirection.neither, "letters"),
)
