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
    return any(it.cluster is not None or it.samples > 1 for pair in pairs for it in pair)


def compare_means(pairs: Pairs, field: str) -> MeanFlips:
    """Compare the shares of right answers to each question; `field` names what the families of
    questions share."""
    clusters = clusters_of([(ours.cluster, theirs.cluster) for ours, theirs in pairs], field)
    count = len(pairs) if clusters is None else len(set(clusters))
    if count < MIN_CLUSTERS:
        what = "questions" if clusters is None else f"families by {field}"
        raise TooFew(f"too few {what} to test: {count}, at least {MIN_CLUSTERS}")
    return MeanFlips(
        [ours.mean - theirs.mean for ours, theirs in pairs],
        clusters,
        "" if clusters is None else field,
        max(it.samples for pair in pairs for it in pair),
        sum(theirs.solved for _, theirs in pairs),
    )


def clusters_of(pairs: Sequence[tuple[str | None, str | None]], field: str) -> list[str] | None:
    """Return the cluster of each pair, from the side that has recorded it; None if no side has."""
    if not any(cluster is not None for pair in pairs for cluster in pair):
        return None
    clusters = []
    for ours, theirs in pairs:
        one = theirs if ours is None else ours
        if one is None:
            raise NotPaired(f"some questions belong to no family by {field}")
        if theirs is not None and theirs != one:
            raise NotPaired(
                f"a question belongs to other families by {field}: {one} here, {theirs} in the baseline"
            )
        clusters.append(one)
    return clusters


def cluster_field(run: Run, base: Run) -> str:
    """Return the name of the field that the families share."""
    fields = [it.value(CLUSTER) for it in (run, base)]
    return (
        next((field for field in fields if field not in (None, "null", "None", "")), "cluster")
        or "cluster"
    )
