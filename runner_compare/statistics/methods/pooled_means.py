"""Mean verdicts of several tasks as one difference: of questions in clusters, or with several
answers each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from runner_compare.statistics.methods.mean_flips import MeanFlips


def pooled_means(tests: Sequence[MeanFlips]) -> MeanFlips:
    """Return the test of all questions together.

    Clusters of the same name are one cluster, also if they occur in several tasks: a run that does
    badly with a template does so in each of them. Questions without clusters stay single.
    """
    differences = [value for test in tests for value in test.differences]
    clusters: list[Hashable] | None = None
    if any(test.clusters is not None for test in tests):
        clusters = [cluster for test in tests for cluster in test.clusters or ()]
        assert len(clusters) == len(differences)
    first = tests[0]
    return MeanFlips(
        differences,
        clusters,
        first.by,
        first.samples,
        sum(test.baseline_correct for test in tests),
        any(test.is_strict for test in tests),
    )
