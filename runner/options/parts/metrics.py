"""Metrics of a checkpoint in parts, and of a pipeline of processes."""

from __future__ import annotations

from runner_compare import Better, Metric, metric

METRICS: tuple[Metric, ...] = (
    # a checkpoint in parts, and a pipeline of processes
    *(metric(key, form=",.0f") for key in ("num_parts", "written_parts")),
    metric("largest_part_mib", form=",.1f"),
    metric("written_mib", form=",.1f", better=Better.neither),
    metric("balance", form=".3f", better=Better.lower),
    metric("share", better=Better.lower),
    metric("problems", better=Better.lower),
    metric("write_gb_per_s", form=".2f"),
    *map(metric, ("tensors", "files", "total_params", "split_s", "archive_mib")),
    *map(metric, ("raw_mib_per_s", "read_mib_per_s", "write_mib_per_s")),
    *(metric(key, better=Better.neither) for key in ("unique_mib", "merged_mib", "raw_mib", "read_mib")),
    metric("processes", form=".0f"),
    metric("bubble_share", form=".0%", better=Better.lower),
)
