"""Compares the mean accuracy per question of two runs whose questions have clusters or several answers."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import ClusterUnit
from runner_compare.model.data import CLUSTER, NotPaired, Question, QuestionOutcome, Run, TooFewPairs
from runner_compare.statistics import MeanFlipTest
from runner_compare.statistics.paired_means import MIN_CLUSTERS

TOOL_ACCURACY = "tool_accuracy"  # a metric that only jobs have that offered functions

Pairs = Sequence[tuple[QuestionOutcome, QuestionOutcome]]


def needs_mean_test(pairs: Pairs) -> bool:
    """Return whether questions have clusters or several answers. McNemar's test is then invalid."""
    return any(outcome.cluster is not None or outcome.num_answers > 1 for pair in pairs for outcome in pair)


def create_mean_difference_test(pairs: Pairs, cluster_field_name: str) -> MeanFlipTest:
    """Create the test for the mean difference in accuracy per question.

    `cluster_field_name` is the sample field that defines clusters.
    """
    clusters = get_pair_clusters(
        [(outcome.cluster, base_outcome.cluster) for outcome, base_outcome in pairs], cluster_field_name
    )
    count = len(pairs) if clusters is None else len(set(clusters))
    if count < MIN_CLUSTERS:
        what = "questions" if clusters is None else f"clusters by {cluster_field_name}"
        raise TooFewPairs(f"{count} {what} are too few for a test, which needs {MIN_CLUSTERS}")
    return MeanFlipTest(
        [outcome.accuracy - base_outcome.accuracy for outcome, base_outcome in pairs],
        clusters,
        "" if clusters is None else cluster_field_name,
        max(outcome.num_answers for pair in pairs for outcome in pair),
        sum(base_outcome.solved for _, base_outcome in pairs),
    )


def cluster_questions_by_expected_function(questions: Sequence[Question], pairs: Pairs) -> Pairs:
    """Use the expected function as the cluster of each tool-calling question.

    In records of earlier versions the cluster is the first expected function, or the question
    if no call is expected. Clusters of one question each are omitted.
    """
    if not pairs or any(outcome.tools is None for pair in pairs for outcome in pair):
        return pairs
    families = [
        own.cluster or base.cluster or _first_expected_function(question)
        for question, (own, base) in zip(questions, pairs, strict=True)
    ]
    are_single = len(set(families)) == len(families)
    return [
        (own._replace(cluster=None), base._replace(cluster=None))
        if are_single
        else (own._replace(cluster=own.cluster or family), base._replace(cluster=base.cluster or family))
        for family, (own, base) in zip(families, pairs, strict=True)
    ]


def _first_expected_function(question: Question) -> str:
    name, bracket, _ = question[2].partition("(")  # the right calls, such as `f(a=1); g()`
    return name if bracket else question[1]


def get_pair_clusters(
    pairs: Sequence[tuple[str | None, str | None]], cluster_field_name: str
) -> list[str] | None:
    """Return the cluster of each question pair. If only one of the two runs recorded clusters, use that run.

    None if neither run recorded clusters.
    """
    if not any(cluster is not None for pair in pairs for cluster in pair):
        return None
    clusters = []
    for family, base_family in pairs:
        known = base_family if family is None else family
        if known is None:
            raise NotPaired(f"the field {cluster_field_name} assigns no cluster to some questions")
        if base_family is not None and base_family != known:
            raise NotPaired(
                f"the two runs recorded different clusters in {cluster_field_name} for one question: "
                f"{known} in this run, {base_family} in the baseline"
            )
        clusters.append(known)
    return clusters


def _choose_default_cluster_field(run: Run, pairs: Pairs) -> str:
    if TOOL_ACCURACY in run.metrics:
        return "function"
    units = {outcome.cluster_unit for pair in pairs for outcome in pair}
    return next((unit.value for unit in ClusterUnit if unit in units), "cluster")


def find_cluster_field(run: Run, base: Run, pairs: Pairs = ()) -> str:
    """Return the name of the sample field that defines the clusters."""
    fields = [side.get_value(CLUSTER) for side in (run, base)]
    usual = _choose_default_cluster_field(run, pairs)
    return next((field for field in fields if field not in (None, "null", "None", "")), usual) or usual
