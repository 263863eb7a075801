"""Metrics of a checkpoint in parts, and of a pipeline of processes."""

from __future__ import annotations

from runner_compare import Better, Metric
from runner_compare.metrics import kinds

METRICS: tuple[Metric, ...] = (
    # a checkpoint in parts, and a pipeline of processes
    *(kinds.metric(key, form=",.0f") for key in ("num_parts", "written_parts")),
    kinds.metric("largest_part_mib", form=",.1f"),
    kinds.metric("written_mib", form=",.1f", better=Better.neither),
    kinds.metric("balance", form=".3f", better=Better.lower),
    kinds.metric("share", better=Better.lower),
    kinds.metric("problems", better=Better.lower),
    kinds.metric("write_gb_per_s", form=".2f"),
    *map(kinds.metric, ("tensors", "files", "total_params", "split_s", "archive_mib")),
    *map(kinds.metric, ("raw_mib_per_s", "read_mib_per_s", "write_mib_per_s")),
    *(
        kinds.metric(key, better=Better.neither)
        for key in ("unique_mib", "merged_mib", "raw_mib", "read_mib")
    ),
    kinds.metric("processes", form=".0f"),
    kinds.metric("bubble_share", form=".0%", better=Better.lower),
)
