"""Computes loss, KL divergence and agreement by generated position, and tests whether the divergence grows.

runner_base/generated_positions.py defines the bins. Tokens of one answer depend on each
other, so the sample is the answer, or the cluster of answers. Each later bin is compared with
the start of the same answers: answers of different length then change no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner_base import Likelihood
from runner_compare.metrics.likelihoods import AGREEMENT
from runner_compare.statistics.accuracy_intervals import compute_clustered_proportion_interval
from runner_compare.statistics.decisions import Decision, Finding
from runner_compare.statistics.loss_cells import (
    build_loss_curves,
    compute_loss_and_kl_metrics,
    list_measured_positions,
)
from runner_compare.statistics.methods.sign_flips import SignFlipTest
from runner_compare.statistics.ratios import MIN_TEXTS, ratio_of_sums

CELL = "generated_"
START_TOKENS = 64  # later bins are compared with these


@dataclass
class PositionSums:
    """Sums over the tokens of one answer, or of a cluster of answers, in one bin."""

    tokens: float = 0.0
    nats: float = 0.0
    kl: float = 0.0
    agreed: float = 0.0
    has_kl: bool = True

    def add(self, tokens: float, nats: float, kl: float | None = None, agreed: float = 0.0) -> None:
        self.tokens += tokens
        self.nats += nats
        self.kl += kl or 0.0
        self.agreed += agreed
        self.has_kl &= kl is not None


def compute_metrics_by_generated_position(
    likelihoods: Sequence[Likelihood], cluster_by_unit: Mapping[int, str | None]
) -> dict[str, float]:
    """Return loss, KL divergence and agreement of each bin as metrics. Empty if no answers were scored."""
    found: dict[str, float] = {}
    for first, answers in _sum_likelihoods_by_position_bin(likelihoods, cluster_by_unit).items():
        suffix, sums = f"/{CELL}{first}", [*answers.values()]
        tokens = [answer.tokens for answer in sums]
        found |= compute_loss_and_kl_metrics(
            suffix,
            tokens,
            [answer.nats for answer in sums],
            [answer.kl if answer.has_kl else None for answer in sums],
        )
        found[f"scored_tokens{suffix}"] = sum(tokens)
        if all(answer.has_kl for answer in sums):
            agreed = [answer.agreed for answer in sums]
            found[f"{AGREEMENT}{suffix}"] = ratio_of_sums(agreed, tokens)
            if len(sums) >= MIN_TEXTS and (ends := compute_clustered_proportion_interval(agreed, tokens)):
                found |= {
                    f"{AGREEMENT}_{end}{suffix}": value
                    for end, value in zip(("low", "high"), ends, strict=True)
                }
    return found


def _sum_likelihoods_by_position_bin(
    likelihoods: Sequence[Likelihood], cluster_by_unit: Mapping[int, str | None]
) -> dict[int, dict[object, PositionSums]]:
    """Return the sums of each bin by answer, or by cluster if all answers have one."""
    if not likelihoods or any(part.by_answer_position is None for part in likelihoods):
        return {}
    has_clusters = all(cluster_by_unit.get(part.unit) is not None for part in likelihoods)
    bins: dict[int, dict[object, PositionSums]] = {}
    for part in likelihoods:
        sample = cluster_by_unit[part.unit] if has_clusters else part.unit
        for first, *sums in part.by_answer_position or []:
            bins.setdefault(int(first), {}).setdefault(sample, PositionSums()).add(*sums)
    return dict(sorted(bins.items()))


def create_kl_growth_tests(
    likelihoods: Sequence[Likelihood], cluster_by_unit: Mapping[int, str | None]
) -> dict[int, SignFlipTest]:
    """Return a test for each bin after the start: is the divergence there that of the start?

    The effect is the KL at the start of the answers minus the KL in the bin, in nats per token: it is
    negative if the divergence grows. An answer counts by its tokens in the bin, but at most by those of
    the start: more tokens make its difference no more exact. Bins that fewer than 50 samples reach have
    no test.
    """
    differences: dict[int, dict[object, list[float]]] = {}
    has_clusters = all(cluster_by_unit.get(part.unit) is not None for part in likelihoods)
    for part in likelihoods:
        sums = part.by_answer_position or []
        if any(len(of_bin) < 4 for of_bin in sums):
            return {}
        start = [of_bin for of_bin in sums if of_bin[0] < START_TOKENS]
        sample = cluster_by_unit[part.unit] if has_clusters else part.unit
        for first, tokens, _, kl, *_ in sums[len(start) :]:
            start_kl = ratio_of_sums([of_bin[3] for of_bin in start], [of_bin[1] for of_bin in start])
            pair = differences.setdefault(int(first), {}).setdefault(sample, [0.0, 0.0])
            weight = min(tokens, START_TOKENS)
            pair[0] += weight * (start_kl - kl / tokens)
            pair[1] += weight
    tests: dict[int, SignFlipTest] = {}
    for first, pairs in sorted(differences.items()):
        if len(pairs) >= MIN_TEXTS:
            weighted, weights = zip(*pairs.values(), strict=True)
            tests[first] = SignFlipTest(weighted, weights, "token")
    return tests


def find_kl_growth_start(decisions: Mapping[int, Decision]) -> int | None:
    """Return the first bin from which on the divergence of every tested bin is larger than at the start."""
    found = None
    for first in sorted(decisions, reverse=True):
        if decisions[first].finding is not Finding.worse:
            break
        found = first
    return found


def list_generated_positions(metrics: Mapping[str, float]) -> list[int]:
    return list_measured_positions(metrics, CELL)


def generated_position_curves(metrics: Mapping[str, float]) -> dict[str, list[tuple[int, float]]]:
    return build_loss_curves(metrics, CELL, "generated_position")
