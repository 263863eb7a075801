"""Names, units and descriptions of metrics about split checkpoints and pipelines of processes."""

from __future__ import annotations

from runner_compare import BetterDirection, Metric
from runner_compare.metrics import metric_types

METRICS: tuple[Metric, ...] = (
    # a checkpoint in parts, and a pipeline of processes
    *(metric_types.define_metric(key, form=",.0f") for key in ("num_parts", "written_parts")),
    metric_types.define_metric("largest_part_mib", form=",.1f"),
    metric_types.define_metric("written_mib", form=",.1f", better=BetterDirection.neither),
    metric_types.define_metric("balance", form=".3f", better=BetterDirection.lower),
    metric_types.define_metric("share", better=BetterDirection.lower),
    metric_types.define_metric("problems", better=BetterDirection.lower),
    metric_types.define_metric("write_gb_per_s", form=".2f"),
    *map(metric_types.define_metric, ("tensors", "files", "total_params", "split_s", "archive_mib")),
    *map(metric_types.define_metric, ("raw_mib_per_s", "read_mib_per_s", "write_mib_per_s")),
    *(
        metric_types.define_metric(key, better=BetterDirection.neither)
        for key in ("unique_mib", "merged_mib", "raw_mib", "read_mib")
    ),
    metric_types.define_metric("processes", form=".0f"),
    metric_types.define_metric("bubble_share", form=".0%", better=BetterDirection.lower),
)
