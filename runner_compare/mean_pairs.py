"""Compares pairs of answers where single verdicts do not say enough: families of questions, or
several answers each."""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.data import CLUSTER, NotPaired, QuestionOutcome, Run, TooFew
from runner_compare.statistics import MeanFlips
from runner_compare.statistics.paired_means import MIN_CLUSTERS

Pairs = Sequence[tuple[QuestionOutcome, QuestionOutcome]]


def has_means(pairs: Pairs) -> bool:
    """Whether questions have several answers or belong to families, so that McNemar's test would
    not do."""
    return any(
        outcome.cluster is not None or outcome.samples > 1 for pair in pairs for outcome in pair
    )


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


def cluster_field(run: Run, base: Run) -> str:
    """Return the name of the field that the families share."""
    fields = [side.value(CLUSTER) for side in (run, base)]
    return (
        next((field for field in fields if field not in (None, "null", "None", "")), "cluster")
        or "cluster"
    )
