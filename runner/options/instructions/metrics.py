"""Names, units and descriptions of the metrics of task=instructions."""

from __future__ import annotations

from runner_compare import BetterDirection, Metric
from runner_compare.metrics import metric_types

METRICS: tuple[Metric, ...] = (
    *metric_types.define_counts(BetterDirection.neither, "instructions"),
    *(
        metric
        for key in ("prompt_loose_accuracy", "instruction_strict_accuracy", "instruction_loose_accuracy")
        for metric in metric_types.define_metric_with_interval(
            key, key.replace("_", " "), ".1%", BetterDirection.higher
        )
    ),
)
