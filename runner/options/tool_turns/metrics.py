"""Names and descriptions of the metrics of task=tool_turns."""

from __future__ import annotations

from runner_compare import Metric
from runner_compare.metrics import metric_types

METRICS: tuple[Metric, ...] = tuple(
    metric_types.define_metric(f"{what}_per_scenario", f"{what.replace('_', ' ')} per scenario", ".2f")
    for what in ("turns", "calls", "failed_calls")
)
