"""Short runs of the simulations of planned questions and of pooled tasks."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_a_plan_from_a_small_sample_holds_its_power_and_the_observed_share_does_not(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned questions: the plan holds its power, and the control falls short."""
    import planning_null

    monkeypatch.setattr(planning_null, "KNOWN", [(0.1, 0.05)])
    monkeypatch.setattr(planning_null, "FIRST", [(20, 0.1)])
    assert all(rate.low < 0.83 and rate.high > 0.77 for rate in planning_null.known(generator, 300))
    many, few = planning_null.after_a_first_sample(generator, 300)
    assert few == []
    assert all(rate.low < 0.83 and rate.high > 0.77 for rate in many)
    assert planning_null.plan(0, 0, 20, False, True) < planning_null.plan(0, 0, 20, False, False)


def test_pooled_verdicts_are_true_and_see_more_than_single_tasks(generator: np.random.Generator) -> None:
    """Pooled verdicts: they keep their level, and see what no single task shows."""
    from pool_null import SETTINGS, chances, draw, look, on_top, opposite
    from simulation import Rate

    from runner_compare.statistics.pooling import PoolingWeights

    tasks = SETTINGS["small and large"]
    opposed = list(map(chances, tasks, opposite(tasks, PoolingWeights.tasks)))
    seen = look(draw(generator, tasks, opposed, 100), PoolingWeights.tasks, 0.0)
    assert Rate(seen.better + seen.worse, 100).low <= 0.05
    assert Rate(seen.covered, 100).high >= 0.94
    assert seen.summed > 50, "the control: summed wins and losses answer another question"
    ten = SETTINGS["ten"]
    seen = look(
        draw(generator, ten, [on_top(task, -0.025) for task in ten], 60), PoolingWeights.questions, -0.025
    )
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


def test_pooled_likelihoods_are_true_and_see_more_than_single_tasks() -> None:
    """Pooled likelihoods: they keep their level, and see what no single task shows."""
    from pool_texts_null import Task, level, planned, power

    from runner_compare.statistics.pooling import PoolingWeights

    tasks, generator = [Task(60, "lopsided", 3.0), Task(60, "skewed")], np.random.default_rng(1)
    false, missed, student, odd, least = level(generator, tasks, PoolingWeights.tasks, {}, 120)
    assert all(rate.low <= 0.05 for rate in false)
    assert all(rate.low <= 0.06 for rate in missed)
    assert odd.times == 0
    assert student.times >= missed[0].times, "the control: Student's interval misses more often"
    found, single = power(generator, [Task(60, "skewed")] * 3, PoolingWeights.questions, {}, 60, 0.8 * least)
    assert found.times > single.times
    growth, shown = planned(
        generator, [Task(100, "skewed")] * 3, PoolingWeights.questions, {}, 40, 0.5 * least
    )
    assert growth > 0
    assert shown is not None
    assert shown.high >= 0.8
    assert planned(generator, tasks[:1], PoolingWeights.tasks, {}, 4, least) == (0.0, None), (
        "60 texts say too little"
    )
    one_is_small = [Task(50, "lopsided", 5.0), Task(800, "normal")]
    assert planned(generator, one_is_small, PoolingWeights.questions, {}, 8, least) == (0.0, None), (
        "so do 50 of 850"
    )
