"""Effects of means: shares of right answers, in families of questions or of several answers to each question."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

from runner_compare.statistics.effects import Effect, Method, verdict_counts
from runner_compare.statistics.mean_plans import detectable_loss, questions_for_margin
from runner_compare.statistics.paired_means import MeanDifference
from runner_compare.statistics.planning import can_plan_from


def paired_means(
    differences: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    by: str = "",
    samples: int = 1,
    baseline_correct: int = 0,
) -> Effect:
    """Compare mean verdicts, of so many samples each, by each question's difference; `by` names the clusters' field."""
    it = MeanDifference.of(differences, clusters)
    wins, losses = sum(one > 0 for one in differences), sum(one < 0 for one in differences)
    count = len(it.sums)
    grouping = f", mean of {samples} samples" * (samples > 1) + f", in {count:,} families by {by}" * bool(by)
    detects = partial(detectable_loss, it.sums, it.sizes, samples)
    return Effect(
        Method.mean_flips,
        "accuracy",
        it.difference,
        *it.interval(),
        it.p,
        it.n,
        it.n,
        verdict_counts(wins, losses, it.n - wins - losses, baseline_correct)
        | {"clusters": count if by else None, "samples": samples, "grouping": grouping, "few": it.is_few},
        detects=partial(detects, False),
        detects_at_worst=partial(detects, True),
        p_at=it.p_at,
        needs=partial(questions_for_margin, it.sums, it.sizes) if can_plan_from(it.clusters_worth) else None,
    )
