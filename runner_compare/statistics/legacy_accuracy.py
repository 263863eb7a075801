"""Convert records of earlier versions, whose accuracy was the accuracy of a majority vote.

Today the accuracy is the mean over the answers, and the vote is `maj_at_k`. An old record
has that mean, as pass@1, but neither its interval nor the other metrics, which were those
of the vote.
"""

from __future__ import annotations

import math

from runner_compare.metrics import ACCURACY, BOUNDS, ENDS
from runner_compare.statistics.stats import wilson_interval

MEAN = "pass_at_k/1"
OF_VOTES = (*BOUNDS, *(f"accuracy_all{end}" for end in ENDS), "accuracy/strict", "accuracy/flexible")


def replace_vote_accuracy(metrics: dict[str, float]) -> dict[str, float]:
    """Return metrics in which accuracy is the mean over all answers instead of a majority vote.

    The interval is Wilson's for one answer per question, or per cluster: several answers are
    worth as much or more. Other records are returned unchanged.
    """
    mean, accuracy, n = (metrics.get(key) for key in (MEAN, ACCURACY[0], "n"))
    if mean is None or accuracy is None or not n or math.isclose(mean, accuracy, abs_tol=1e-12):
        return metrics
    units = int(metrics.get("families", n))
    figures = dict(zip(ACCURACY, (mean, *wilson_interval(mean * units, units)), strict=True))
    return {key: value for key, value in metrics.items() if key not in OF_VOTES} | figures
