"""Mean verdicts of several tasks as one difference: of questions in clusters, or with several
answers each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from runner_compare.statistics.effects import Test
from runner_compare.statistics.methods.mean_flips import MeanFlips
from runner_compare.statistics.pooling import Weights


def why_means_differ(tests: Sequence[Test], weights: Weights) -> str | None:
    """Say why the tests of several tasks cannot be pooled; None if they can, or if none has means."""
    means = [test for test in tests if isinstance(test, MeanFlips)]
    if not means:
        return None
    if len(means) < len(tests):
        return "only some of its sets have clusters of questions or several answers to each"
    if len({test.by for test in means}) > 1:
        fields = ", ".join(dict.fromkeys(test.by or "none" for test in means))
        return f"its sets have different clusters: {fields}"
    if len({test.samples for test in means}) > 1:
        counts = ", ".join(str(test.samples) for test in means)
        return f"its sets have different numbers of answers to each question: {counts}"
    if weights is Weights.tasks and len({len(test.differences) for test in means}) > 1:
        return (
            "its sets have different sizes, and a cluster of several sets would count differently "
            "in each: use --pool questions"
        )
    return None


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
