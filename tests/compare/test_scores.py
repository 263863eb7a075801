"""Metrics of one score share one error of 5 %."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from compared import Known

from runner_compare.metrics import BetterDirection
from runner_compare.model.data import Run
from runner_compare.model.scores import count_tables_with_same_score
from runner_compare.render.effects import format_effects_legend
from runner_compare.statistics import Finding, MetricFlipTest, decide_comparisons_with_holm


def run(task: str, number: str | None = None) -> Run:
    return Run(task, task, task, "1", "", {}, {}, number=number)


def test_tables_of_one_task_are_one_score() -> None:
    runs = [
        run("sums"),
        run("sums:f1", "f1"),
        run("sums:length", "length"),
        run("sums:likelihood"),
        run("dates"),
    ]
    assert count_tables_with_same_score(runs) == {
        "sums": 4,
        "sums:f1": 4,
        "sums:length": 4,
        "sums:likelihood": 4,
        "dates": 1,
    }


def shift(name: str, differences: list[float]) -> MetricFlipTest:
    """One comparison of a number of each question."""
    ours = [0.5 + it / 2 for it in differences]
    theirs = [0.5 - it / 2 for it in differences]
    return MetricFlipTest(name, differences, [1.0] * len(differences), BetterDirection.higher, ours, theirs)


def test_a_metric_has_its_part_of_the_error() -> None:
    test = shift("f1", [0.1] * 30 + [-0.1] * 10 + [0.0] * 60)
    (alone,), (shared,) = (
        decide_comparisons_with_holm([test]),
        decide_comparisons_with_holm([test], metrics=3),
    )
    assert shared.p_holm == pytest.approx(min(1.0, 3 * alone.p_holm))
    assert (alone.comparisons, shared.comparisons) == (1, 3)
    assert alone.detectable is not None
    assert shared.detectable is not None
    assert shared.detectable > alone.detectable, "the power is that of the level that decides"
    assert "1 comparison of this table for each of 3 metrics of the same score" in format_effects_legend(
        [shared]
    )
    assert "metrics of the same score" not in format_effects_legend([alone])


@pytest.mark.thorough
def test_equal_models_are_called_different_in_any_of_three_metrics_in_at_most_5_percent() -> None:
    generator, any_alone, any_shared, tables = np.random.default_rng(5), 0, 0, 300
    for _ in range(tables):
        drawn = generator.normal(0, 0.2, (3, 80)).tolist()
        for metrics in (1, 3):
            effects = [
                shift(name, row).effect for name, row in zip(("f1", "match", "length"), drawn, strict=True)
            ]
            # for normal noise
            ps = [math.erfc(abs(it.value / it.counts["error"]) / math.sqrt(2)) for it in effects]
            tests = [Known(replace(it, p=p)) for it, p in zip(effects, ps, strict=True)]
            found = any(
                it.finding is not Finding.open
                for test in tests
                for it in decide_comparisons_with_holm([test], metrics=metrics)
            )
            any_shared += found * (metrics == 3)
            any_alone += found * (metrics == 1)
    assert any_alone / tables > 0.09, "the control: three tests of 5 % each"
    assert any_shared / tables <= 0.05 + 2 * (0.05 * 0.95 / tables) ** 0.5
