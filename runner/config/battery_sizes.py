"""Numbers of questions of a battery (conf/battery.yaml): enough to decide about the margin over all tasks."""

from __future__ import annotations

import math
from typing import Any

from runner_base import ConfigError

DISAGREEMENT = 0.1  # share of questions that only one of two equally good models solves
NUM_TASKS = 4  # that have so many questions each
ALPHA, POWER = 0.05, 0.8
Z_SUM = 1.959964 + 0.841621  # standard errors between no loss and the margin, for ALPHA and POWER


def plan_battery_questions(margin_points: Any, num_groups: int = 1) -> int:
    """Return the number of questions of each of a task's groups, e.g. of its four categories.

    If the questions were independent, all tasks together would show that an equally good model loses
    less than the margin with 80 % probability. Clusters lower it (bench/compare/gate_pooled_null.py).
    """
    try:
        margin = float(margin_points) / 100
    except (TypeError, ValueError):
        margin = math.nan
    if not 0 < margin < 1:
        raise ConfigError(
            "the battery needs a margin in points of accuracy. Set, for example, gate.margin=3",
            key="gate.margin",
            value=margin_points,
            code="bad_value",
        )
    return math.ceil(DISAGREEMENT * (Z_SUM / margin) ** 2 / NUM_TASKS / num_groups)
