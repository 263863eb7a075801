"""Combines per-question accuracies of several tasks into one test, for clusters or several answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from runner_compare.statistics.methods.mcnemar import McNemarTest
from runner_compare.statistics.methods.mean_flips import MeanFlipTest


def pool_tests_over_tasks(tests: Sequence[MeanFlipTest | McNemarTest]) -> MeanFlipTest:
    """Combine the tests of several tasks into one test over all questions.

    Clusters with the same field and name are one cluster, also across tasks: a run that does badly
    with a template does so in each task. Questions without clusters stay single.
    """
    means = [test if isinstance(test, MeanFlipTest) else _convert_to_mean_test(test) for test in tests]
    differences = [value for test in means for value in test.differences]
    clusters: list[Hashable] | None = None
    if any(test.clusters is not None for test in means):
        clusters = [cluster for number, test in enumerate(means) for cluster in _name_clusters(test, number)]
        assert len(clusters) == len(differences)
    return MeanFlipTest(
        differences,
        clusters,
        " or ".join(dict.fromkeys(test.by for test in means if test.by)),
        means[0].samples,
        sum(test.baseline_correct for test in means),
        any(test.is_strict for test in means),
    )


def _convert_to_mean_test(test: McNemarTest) -> MeanFlipTest:
    """Return the test of the same questions, each without a cluster."""
    ties = test.n - test.wins - test.losses
    differences = [1.0] * test.wins + [-1.0] * test.losses + [0.0] * ties
    return MeanFlipTest(differences, baseline_correct=test.baseline_correct)


def _name_clusters(test: MeanFlipTest, task_number: int) -> list[Hashable]:
    if test.clusters is None:
        return [(task_number, question) for question in range(len(test.differences))]
    return [(test.by, cluster) for cluster in test.clusters]
