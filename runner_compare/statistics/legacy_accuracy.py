"""Converts the accuracy in records of earlier versions to the current definition.

Today the accuracy is the mean over the answers, and the majority vote is `maj_at_k`. In an
old record the accuracy is that of the vote, and the mean is pass@1, without its interval and
the other metrics.
"""

from __future__ import annotations

import math

from runner_compare.metrics import ACCURACY, BOUNDS, ENDS
from runner_compare.statistics.stats import compute_wilson_interval

MEAN = "pass_at_k/1"
OF_VOTES = (*BOUNDS, *(f"accuracy_all{end}" for end in ENDS), "accuracy/strict", "accuracy/flexible")


def replace_vote_by_mean_accuracy(metrics: dict[str, float]) -> dict[str, float]:
    """Replace the accuracy of a majority vote by the mean accuracy of all answers.

    The interval is Wilson's for one answer per question, or per cluster: several answers are
    worth as much or more. Other records are returned unchanged.
    """
    mean, accuracy, n = (metrics.get(key) for key in (MEAN, ACCURACY[0], "n"))
    if mean is None or accuracy is None or not n or math.isclose(mean, accuracy, abs_tol=1e-12):
        return metrics
    units = int(metrics.get("families", n))
    figures = dict(zip(ACCURACY, (mean, *compute_wilson_interval(mean * units, units)), strict=True))
    return {key: value for key, value in metrics.items() if key not in OF_VOTES} | figures
