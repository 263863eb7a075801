"""Combines per-question accuracies of several tasks into one test, for clusters or several answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from runner_compare.statistics.methods.mean_flips import MeanFlipTest


def pool_mean_tests(tests: Sequence[MeanFlipTest]) -> MeanFlipTest:
    """Combine the tests of several tasks into one test over all questions.

    Clusters with the same name are one cluster, also across tasks: a run that does badly with a
    template does so in each task. Questions without clusters stay single.
    """
    differences = [value for test in tests for value in test.differences]
    clusters: list[Hashable] | None = None
    if any(test.clusters is not None for test in tests):
        clusters = [cluster for test in tests for cluster in test.clusters or ()]
        assert len(clusters) == len(differences)
    first = tests[0]
    return MeanFlipTest(
        differences,
        clusters,
        first.by,
        first.samples,
        sum(test.baseline_correct for test in tests),
        any(test.is_strict for test in tests),
    )
