"""Names, units and descriptions of the metrics of task=serve."""

from __future__ import annotations

from runner_compare import BetterDirection, Metric
from runner_compare.metrics import metric_types

METRICS: tuple[Metric, ...] = (
    # a server of ours
    *metric_types.define_counts(BetterDirection.neither, "requests", "answered", "clients_left"),
    *metric_types.define_counts(BetterDirection.lower, "refused", "client_errors", "server_errors"),
    metric_types.define_metric("peak_rows", form=".0f"),
    metric_types.define_metric(
        "served_s", form=",.1f", better=BetterDirection.neither, pooling=metric_types.PoolingRule.sum
    ),
    *(
        metric_types.define_metric(f"answer_{rank}_s", f"answer {rank}", ".3g")
        for rank in ("p50", "p95", "p99")
    ),
)
