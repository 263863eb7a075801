"""Metrics of plug-ins, computed from a job's samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runner_base import Result, Sample, load_object, plug_ins
from runner_compare import Metric


def add_metrics(names: Sequence[str], samples: Mapping[int, Sample], result: Result) -> None:
    """Add metrics of the answers that count to a result; one that fails is a problem of the job,
    and ends nothing."""
    counted = [samples[index] for index in sorted(samples) if not samples[index].left_out]
    for name in names:
        of_samples = load_object("metric", name, Metric).of_samples
        assert of_samples is not None  # checked with the config
        try:
            value = float(of_samples(counted))
        except Exception as error:  # noqa: BLE001 – whatever another package's code raises
            result.problems.append(f"{plug_ins('metric')[name]} failed ({type(error).__name__}: {error})")
            continue
        if math.isfinite(value):
            result.metrics[name] = value
        else:
            result.problems.append(f"{plug_ins('metric')[name]} is {value}")
