"""Metrics of a server of ours."""

from __future__ import annotations

from runner_compare import Better, Metric
from runner_compare.metrics import kinds

METRICS: tuple[Metric, ...] = (
    # a server of ours
    *kinds.counts(Better.neither, "requests", "answered", "clients_left"),
    *kinds.counts(Better.lower, "refused", "client_errors", "server_errors"),
    kinds.metric("peak_rows", form=".0f"),
    kinds.metric("served_s", form=",.1f", better=Better.neither, pooling=kinds.Pooling.sum),
    *(kinds.metric(f"answer_{rank}_s", f"answer {rank}", ".3g") for rank in ("p50", "p95", "p99")),
)
