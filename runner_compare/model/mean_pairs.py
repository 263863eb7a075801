"""Compares pairs of answers where single verdicts do not say enough: families of questions, or
several answers each."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import ClusterUnit
from runner_compare.model.data import CLUSTER, NotPaired, Question, QuestionOutcome, Run, TooFew
from runner_compare.statistics import MeanFlips
from runner_compare.statistics.paired_means import MIN_CLUSTERS

TOOL_ACCURACY = "tool_accuracy"  # a metric that only jobs have that offered functions

Pairs = Sequence[tuple[QuestionOutcome, QuestionOutcome]]


def has_means(pairs: Pairs) -> bool:
    """Whether questions have several answers or belong to families, so that McNemar's test would
    not do."""
    return any(outcome.cluster is not None or outcome.samples > 1 for pair in pairs for outcome in pair)


def compare_means(pairs: Pairs, field: str) -> MeanFlips:
    """Compare the shares of right answers to each question; `field` names what the families of
    questions share."""
    clusters = clusters_of(
        [(outcome.cluster, base_outcome.cluster) for outcome, base_outcome in pairs], field
    )
    count = len(pairs) if clusters is None else len(set(clusters))
    if count < MIN_CLUSTERS:
        what = "questions" if clusters is None else f"families by {field}"
        raise TooFew(f"too few {what} to test: {count}, at least {MIN_CLUSTERS}")
    return MeanFlips(
        [outcome.mean - base_outcome.mean for outcome, base_outcome in pairs],
        clusters,
        "" if clusters is None else field,
        max(outcome.samples for pair in pairs for outcome in pair),
        sum(base_outcome.solved for _, base_outcome in pairs),
    )


def with_functions(questions: Sequence[Question], pairs: Pairs) -> Pairs:
    """Return answers to questions that offer functions with their families.

    Jobs of earlier versions have recorded none: then the family is the first function of the right
    calls, and where nothing should be called the question. Families of one question each are none.
    """
    if not pairs or any(outcome.tools is None for pair in pairs for outcome in pair):
        return pairs
    families = [
        own.cluster or base.cluster or _function_of(question)
        for question, (own, base) in zip(questions, pairs, strict=True)
    ]
    are_single = len(set(families)) == len(families)
    return [
        (own._replace(cluster=None), base._replace(cluster=None))
        if are_single
        else (own._replace(cluster=own.cluster or family), base._replace(cluster=base.cluster or family))
        for family, (own, base) in zip(families, pairs, strict=True)
    ]


def _function_of(question: Question) -> str:
    name, bracket, _ = question[2].partition("(")  # the right calls, such as `f(a=1); g()`
    return name if bracket else question[1]


def clusters_of(pairs: Sequence[tuple[str | None, str | None]], field: str) -> list[str] | None:
    """Return the cluster of each pair, from the side that has recorded it; None if no side has."""
    if not any(cluster is not None for pair in pairs for cluster in pair):
        return None
    clusters = []
    for family, base_family in pairs:
        known = base_family if family is None else family
        if known is None:
            raise NotPaired(f"some questions belong to no family by {field}")
        if base_family is not None and base_family != known:
            raise NotPaired(
                f"a question belongs to other families by {field}: {known} here, {base_family} in the baseline"
            )
        clusters.append(known)
    return clusters


def _usual_field(run: Run, pairs: Pairs) -> str:
    if TOOL_ACCURACY in run.metrics:
        return "function"
    units = {outcome.cluster_unit for pair in pairs for outcome in pair}
    return next((unit.value for unit in ClusterUnit if unit in units), "cluster")


def cluster_field(run: Run, base: Run, pairs: Pairs = ()) -> str:
    """Return the name of the field that the families share; `pairs`: the answers, if there are
    any."""
    fields = [side.value(CLUSTER) for side in (run, base)]
    usual = _usual_field(run, pairs)
    return next((field for field in fields if field not in (None, "null", "None", "")), usual) or usual
