"""A short run of the simulation of pooled likelihoods: they keep their level, and see what no single task shows."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_pooled_likelihoods_are_true_and_see_more_than_single_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    import fast_flips
    from pool_texts_null import Task, level, planned, power

    from runner.core import ratios
    from runner.core.pooling import Weights

    monkeypatch.setattr(ratios, "sign_flip_p", fast_flips.sign_flip_p)
    tasks, generator = [Task(60, "lopsided", 3.0), Task(60, "skewed")], np.random.default_rng(1)
    false, missed, student, odd, least = level(generator, tasks, Weights.tasks, {}, 120)
    assert all(rate.low <= 0.05 for rate in false)
    assert all(rate.low <= 0.06 for rate in missed)
    assert odd.times == 0
    assert student.times >= missed[0].times, "the control: Student's interval misses more often"
    found, single = power(generator, [Task(60, "skewed")] * 3, Weights.questions, {}, 60, 0.8 * least)
    assert found.times > single.times
    growth, shown = planned(generator, [Task(100, "skewed")] * 3, Weights.questions, {}, 40, 0.5 * least)
    assert growth > 0
    assert shown is not None
    assert shown.high >= 0.8
    assert planned(generator, tasks[:1], Weights.tasks, {}, 4, least) == (0.0, None), "60 texts say too little"
    one_is_small = [Task(50, "lopsided", 5.0), Task(800, "normal")]
    assert planned(generator, one_is_small, Weights.questions, {}, 8, least) == (0.0, None), "so do 50 of 850"
