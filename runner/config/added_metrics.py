"""Checks the config key `metrics`, which names metrics that plug-ins compute from a job's samples."""

from __future__ import annotations

from collections.abc import Iterable

from runner_base import check_value, load_plug_in_object
from runner_base.plugins import check_plug_in_exists
from runner_compare import Metric, known_metrics


def check_plugin_metrics(metric_names: Iterable[str]) -> None:
    """Raise ConfigError for a metric name that no plug-in defines, or whose metric is not computed from
    samples.
    """
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
        need = "a task computes this metric itself, not from samples. Omit it"
        check_value(
            load_plug_in_object("metric", name, Metric).of_samples is not None,
            "metrics",
            name,
            need,
            code="unsupported",
        )
