"""A short run of the simulation of pooled verdicts: they keep their level, and see what no single task shows."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_pooled_verdicts_are_true_and_see_more_than_single_tasks() -> None:
    from pool_null import SETTINGS, chances, draw, look, on_top, opposite
    from simulation import Rate

    from runner.core.pooling import Weights

    generator = np.random.default_rng(1)
    tasks = SETTINGS["small and large"]
    opposed = list(map(chances, tasks, opposite(tasks, Weights.tasks)))
    seen = look(draw(generator, tasks, opposed, 100), Weights.tasks, 0.0)
    assert Rate(seen.better + seen.worse, 100).low <= 0.05
    assert Rate(seen.covered, 100).high >= 0.94
    assert seen.summed > 50, "the control: summed wins and losses answer another question"
    ten = SETTINGS["ten"]
    seen = look(draw(generator, ten, [on_top(task, -0.025) for task in ten], 60), Weights.questions, -0.025)
    assert seen.worse > 2 * seen.any_single


def test_as_many_questions_as_planned_decide_about_the_mean() -> None:
    from pool_null import SETTINGS, decides, grown, planned
    from simulation import Rate

    generator, tasks = np.random.default_rng(1), SETTINGS["four unequal"]
    ns = tuple(40 * task.n for task in tasks)
    count = planned(tuple(round(n * task.disagree) for n, task in zip(ns, tasks, strict=True)), ns, 0.05)
    rate = Rate(decides(generator, grown(tasks, count), 0.05, 200), 200)
    assert rate.low < 0.83
    assert rate.high > 0.77
