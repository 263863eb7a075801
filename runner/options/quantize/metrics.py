"""Metrics of a model that was made."""

from __future__ import annotations

from runner_compare import Better, Metric
from runner_compare.metrics import kinds

METRICS: tuple[Metric, ...] = (
    kinds.metric("made_mib", form=",.1f"),
    kinds.metric("bits_per_weight", form=".2f"),
    kinds.metric("make_s", form=",.1f"),
    kinds.metric("calibration_tokens", form=",.0f", better=Better.neither),
    kinds.metric("maker_peak_rss_mib", form=",.0f"),
)
