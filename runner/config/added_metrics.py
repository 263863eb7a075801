"""Checks the metric names in the config key `metrics`. Plug-ins compute these metrics from
samples.
"""

from __future__ import annotations

from collections.abc import Iterable

from runner_base import check_value, load_plug_in_object
from runner_base.plugins import check_plug_in_exists
from runner_compare import Metric, known_metrics


def check_plugin_metrics(metric_names: Iterable[str]) -> None:
    """Raise ConfigError unless a plug-in defines each metric and computes it from samples."""
    for name in metric_names:
        check_plug_in_exists("metrics", "metric", name)
        is_new = name not in known_metrics()
        check_value(
            is_new,
            "metrics",
            name,
            "the runner already has a metric with this name. Rename the plug-in's metric",
            code="conflict",
        )
        need = "this metric cannot be computed from samples; a task computes it. Remove the name from metrics"
        check_value(
            load_plug_in_object("metric", name, Metric).of_samples is not None,
            "metrics",
            name,
            need,
            code="unsupported",
        )
