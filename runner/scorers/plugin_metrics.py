"""Metrics of plug-ins, computed from a job's samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runner_base import Result, Sample, find_plug_ins, load_plug_in_object
from runner_compare import Metric


def add_plugin_metrics(metric_names: Sequence[str], samples: Mapping[int, Sample], result: Result) -> None:
    """Compute plug-in metrics from all samples that count. If a metric fails, add a note instead."""
    counted = [samples[index] for index in sorted(samples) if not samples[index].left_out]
    for name in metric_names:
        of_samples = load_plug_in_object("metric", name, Metric).of_samples
        assert of_samples is not None  # checked with the config
        try:
            value = float(of_samples(counted))
        except Exception as error:  # noqa: BLE001 – whatever another package's code raises
            result.problems.append(
                f"{find_plug_ins('metric')[name]} failed ({type(error).__name__}: {error})"
            )
            continue
        if math.isfinite(value):
            result.metrics[name] = value
        else:
            result.problems.append(f"{find_plug_ins('metric')[name]} is {value}")
