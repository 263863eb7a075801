"""Means of several tasks as one difference: which can be pooled, and what counts as one cluster."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from runner_compare.features.pooled.compute import require_poolable_mean_accuracies
from runner_compare.model.data import NotPaired
from runner_compare.statistics import McNemarTest, MeanFlipTest
from runner_compare.statistics.methods.pooled_means import pool_tests_over_tasks
from runner_compare.statistics.pooling import PoolingWeights

DIFFERENCES = [-1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
TEMPLATES = ["a", "a", "b", "b", "c", "c", "d", "d"]
CLUSTERED = MeanFlipTest(DIFFERENCES, TEMPLATES, "template", 1, 5)


def test_clusters_of_the_same_name_are_one_cluster() -> None:
    other = MeanFlipTest(DIFFERENCES[::-1], [*TEMPLATES[:6], "e", "e"], "template", 1, 6)
    pooled = pool_tests_over_tasks([CLUSTERED, other])
    assert (pooled.mean.n, len(pooled.mean.sums)) == (16, 5)
    assert sorted(pooled.mean.sizes) == [2, 2, 4, 4, 4]
    assert (pooled.by, pooled.baseline_correct) == ("template", 11)
    assert pooled.mean.difference == pytest.approx(-1 / 8)


def test_questions_with_several_answers_stay_single() -> None:
    several = MeanFlipTest([0.25, -0.5, 0.0, 0.25, 0.0, 0.75], None, "", 4, 3)
    pooled = pool_tests_over_tasks([several, several])
    assert len(pooled.mean.sums) == pooled.mean.n == 12
    assert (pooled.by, pooled.samples) == ("", 4)


def test_clusters_of_another_field_and_single_questions_are_other_clusters() -> None:
    topics = MeanFlipTest(DIFFERENCES, TEMPLATES, "topic", 1, 6)
    pooled = pool_tests_over_tasks([CLUSTERED, topics, McNemarTest(3, 1, 10, 5)])
    assert (pooled.mean.n, len(pooled.mean.sums)) == (26, 4 + 4 + 10)
    assert sorted(pooled.mean.sizes) == [1] * 10 + [2] * 8
    assert pooled.baseline_correct == 5 + 6 + 5
    assert pooled.mean.difference == pytest.approx((-1 - 1 + 2) / 26)
    assert {"template", "topic"} <= {*pooled.by.split()}


@pytest.mark.parametrize(
    ("tests", "weights", "can_be_pooled"),
    [
        ([CLUSTERED, CLUSTERED], PoolingWeights.questions, True),
        ([CLUSTERED, CLUSTERED], PoolingWeights.tasks, True),
        ([McNemarTest(3, 1, 100, 50), McNemarTest(3, 1, 100, 50)], PoolingWeights.tasks, True),
        ([CLUSTERED, McNemarTest(3, 1, 100, 50)], PoolingWeights.questions, True),
        ([CLUSTERED, McNemarTest(3, 1, 100, 50)], PoolingWeights.tasks, False),
        ([CLUSTERED, MeanFlipTest(DIFFERENCES, TEMPLATES, "topic")], PoolingWeights.questions, True),
        ([CLUSTERED, MeanFlipTest(DIFFERENCES, TEMPLATES, "template", 4)], PoolingWeights.questions, False),
        ([CLUSTERED, MeanFlipTest([0.0] * 6, TEMPLATES[:6], "template")], PoolingWeights.questions, True),
        ([CLUSTERED, MeanFlipTest([0.0] * 6, TEMPLATES[:6], "template")], PoolingWeights.tasks, False),
    ],
)
def test_which_tests_can_be_pooled(
    tests: list[MeanFlipTest | McNemarTest], weights: PoolingWeights, can_be_pooled: bool
) -> None:
    with nullcontext() if can_be_pooled else pytest.raises(NotPaired):
        require_poolable_mean_accuracies(tests, weights)
