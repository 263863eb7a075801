"""Recoveries against hand-computed values, against intervals of differences, and their coverage."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from runner_compare.statistics.paired_means import MeanDifference
from runner_compare.statistics.pooling import PoolingWeights
from runner_compare.statistics.recovery import PairedAccuracies, Recovery, compute_recovery
from runner_compare.statistics.stats import compute_wilson_interval

DRAWS = 200


def recover(*tasks: PairedAccuracies, weights: PoolingWeights = PoolingWeights.tasks) -> Recovery:
    found = compute_recovery(tasks, weights)
    assert found is not None
    return found


def verdicts(both: int, lost: int, won: int, neither: int) -> PairedAccuracies:
    candidate = [1.0] * both + [0.0] * lost + [1.0] * won + [0.0] * neither
    return PairedAccuracies(candidate, [1.0] * (both + lost) + [0.0] * (won + neither))


def test_values_by_hand() -> None:
    first, second = verdicts(40, 10, 2, 48), verdicts(9, 1, 0, 10)
    assert recover(first).value == pytest.approx(0.42 / 0.50)
    assert recover(first, second).value == pytest.approx((0.42 + 0.45) / (0.50 + 0.50))
    by_questions = recover(first, second, weights=PoolingWeights.questions)
    assert by_questions.value == pytest.approx(51 / 60)
    assert by_questions.n == 120
    assert (by_questions.candidate, by_questions.baseline) == pytest.approx((51 / 120, 60 / 120))


def test_many_questions_give_the_interval_of_fieller() -> None:
    both, lost, won, neither = 15_000, 800, 500, 3_700
    n, quantile = both + lost + won + neither, 1.959964
    top, bottom = (both + won) / n, (both + lost) / n
    variances = top * (1 - top) / n, bottom * (1 - bottom) / n
    covariance = (both / n - top * bottom) / n
    # the roots of (top - r * bottom)² = quantile² * (var(top) - 2 r cov + r² var(bottom))
    a = bottom**2 - quantile**2 * variances[1]
    b = -2 * (top * bottom - quantile**2 * covariance)
    c = top**2 - quantile**2 * variances[0]
    root = math.sqrt(b * b - 4 * a * c)
    found = recover(verdicts(both, lost, won, neither))
    assert (found.low, found.high) == pytest.approx(((-b - root) / 2 / a, (-b + root) / 2 / a), abs=2e-4)


@pytest.mark.parametrize("clusters", [None, [at // 5 for at in range(200)]])
def test_a_perfect_baseline_gives_the_interval_of_the_difference(clusters: list[int] | None) -> None:
    draw = np.random.default_rng(0)
    candidate = (draw.random(200) < 0.9).astype(float).tolist()
    found = recover(PairedAccuracies(candidate, [1.0] * 200, clusters))
    low, high = MeanDifference.from_differences(
        [value - 1 for value in candidate], clusters
    ).compute_interval()
    assert (found.low, found.high) == pytest.approx((1 + low, 1 + high), abs=3e-4)


def test_copies_of_questions_in_one_cluster_count_once() -> None:
    single = verdicts(60, 8, 3, 29)
    copied = PairedAccuracies(
        [value for value in single.candidate for _ in range(4)],
        [value for value in single.baseline for _ in range(4)],
        [at // 4 for at in range(400)],
    )
    independent = PairedAccuracies(copied.candidate, copied.baseline)
    whole, alone, wrong = recover(copied), recover(single), recover(independent)
    # a copied answer moves a smaller step
    assert (whole.low, whole.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    assert whole.low < wrong.low < wrong.high < whole.high


def test_clusters_that_tasks_share_count_together() -> None:
    draw = np.random.default_rng(1)
    harmed = (draw.random(30) < 0.3).repeat(10)
    tasks = []
    for number in range(3):
        candidate = (draw.random(300) > 0.4 * harmed).astype(float).tolist()
        tasks.append([candidate, [1.0] * 300, [(number, at // 10) for at in range(300)]])
    shared = recover(*(PairedAccuracies(a, b, [name for _, name in names]) for a, b, names in tasks))
    separate = recover(*(PairedAccuracies(a, b, names) for a, b, names in tasks))
    assert shared.value == separate.value
    assert shared.high - shared.low > 1.3 * (separate.high - separate.low)


def test_edges() -> None:
    assert compute_recovery([verdicts(0, 0, 5, 45)]) is None
    assert recover(verdicts(1, 0, 49, 0)).high == math.inf
    nothing = recover(verdicts(0, 50, 0, 0))
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert 0.02 < nothing.high < 0.15
    same = recover(verdicts(450, 0, 0, 50))
    assert same.value == 1
    assert 1 - 4 / 450 < same.low < 1 < same.high < 1 + 4 / 450


def test_seeds_that_differ_widen_the_interval() -> None:
    task = verdicts(150, 20, 10, 20)
    alone = recover(task)
    with_seeds = recover(
        PairedAccuracies(
            task.candidate,
            task.baseline,
            answers=3,
            candidate_seeds=(0.7, 0.8, 0.9),
            baseline_seeds=(0.8, 0.85, 0.9),
        )
    )
    assert with_seeds.value == alone.value
    assert with_seeds.low < alone.low < alone.high < with_seeds.high


@pytest.mark.thorough
def test_the_interval_holds_and_the_controls_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Path(__file__).parents[3] / "bench"
    monkeypatch.setattr(sys, "path", [str(bench / "compare"), str(bench), *sys.path])
    import recovery_null as simulation

    draw = np.random.default_rng(0)
    sizes = [simulation.paired(draw, 500, 0.85, 0.9, 0.15) for _ in range(DRAWS)]
    missed = sum(not low <= 0.9 <= high for low, high in (simulation.own([task]) for task in sizes))
    assert compute_wilson_interval(missed, DRAWS)[0] < 0.05
    assert missed >= DRAWS / 100, "an interval that is far too wide"
    unpaired = [simulation.unpaired([task]) for task in sizes]
    assert sum(not low <= 0.9 <= high for low, high in unpaired) < DRAWS / 50
    tasks = [
        [simulation.clustered(draw, 40, harmed, rate) for rate in (0.9, 0.6)]
        for harmed in (draw.random((DRAWS, 40)) < simulation.HARMED)
    ]
    truth = 1 - simulation.HARMED * simulation.LOSS
    pooled = [simulation.own(pair) for pair in tasks]
    assert compute_wilson_interval(sum(not low <= truth <= high for low, high in pooled), DRAWS)[0] < 0.05
    careless = [simulation.without_clusters(pair) for pair in tasks]
    assert compute_wilson_interval(sum(not low <= truth <= high for low, high in careless), DRAWS)[0] > 0.15
