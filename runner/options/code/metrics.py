"""Names and descriptions of the metrics of task=code."""

from __future__ import annotations

from runner_compare import BetterDirection, Metric
from runner_compare.metrics import metric_types

# programs by outcome, such as `programs/passed`
METRICS: tuple[Metric, ...] = (*metric_types.define_counts(BetterDirection.neither, "programs"),)
