"""Names, units and descriptions of the metrics of task=quantize."""

from __future__ import annotations

from runner_compare import BetterDirection, Metric
from runner_compare.metrics import metric_types

METRICS: tuple[Metric, ...] = (
    metric_types.define_metric("made_mib", form=",.1f"),
    metric_types.define_metric("bits_per_weight", form=".2f"),
    metric_types.define_metric("make_s", form=",.1f"),
    metric_types.define_metric("calibration_tokens", form=",.0f", better=BetterDirection.neither),
    metric_types.define_metric("maker_peak_rss_mib", form=",.0f"),
)
