"""Names and descriptions of the metrics of task=code."""

from __future__ import annotations

from runner_compare import BetterDirection, Metric
from runner_compare.metrics import metric_types

METRICS: tuple[Metric, ...] = (
    # programs by outcome, such as `programs/passed`
    *metric_types.define_counts(BetterDirection.neither, "programs"),
    # the interval of pass@k, such as `pass_at_k_low/4`
    *metric_types.define_metric_with_interval("pass_at_k", "", ".1%", BetterDirection.higher)[1:],
)
