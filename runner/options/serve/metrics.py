"""Metrics of a server of ours."""

from __future__ import annotations

from runner_compare import Better, Metric, Pooling, counts, metric

METRICS: tuple[Metric, ...] = (
    # a server of ours
    *counts(Better.neither, "requests", "answered", "clients_left"),
    *counts(Better.lower, "refused", "client_errors", "server_errors"),
    metric("peak_rows", form=".0f"),
    metric("served_s", form=",.1f", better=Better.neither, pooling=Pooling.sum),
    *(metric(f"answer_{rank}_s", f"answer {rank}", ".3g") for rank in ("p50", "p95", "p99")),
)
