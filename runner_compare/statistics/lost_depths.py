"""Permutation test that finds depths of a text with lower recall than other depths.

If the depth does not matter, an answer at one depth could as well have been found at
another. So answers are permuted among depths: those to a question that was asked at several
depths among these, others among all questions of their kind at the same length. Every range
of neighbouring depths has a distance: how far its recall is below that of all depths of its
length, in standard deviations over the permutations. It counts if it exceeds the largest
distance of all ranges and lengths in most permutations (Westfall and Young,
Resampling-Based Multiple Testing, 1993). So all ranges of all lengths have one error
together, and few questions suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner_compare.statistics.stats import ALPHA

# of permutations: p is exact in that it is never too small, whatever their number
DRAWS, SEED = 9_999, 0
MOST_NUMBERS = 2_000_000  # of one block of draws
ROUNDING = 1e-9

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
IndexMatrix = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True)
class DepthAnswer:
    """Accuracy of the answer to a question about one depth of a long text."""

    length: int
    depth: float
    share: float
    kind: str
    cluster: str | None  # the question, if it was asked at several depths


@dataclass(frozen=True)
class LostDepths:
    """Range of depths with the lowest recall relative to other depths, at one text length."""

    length: int
    first: float
    last: float
    recall: float
    rest: float  # the recall at the other depths of this length
    p: float  # that it is not below the rest, adjusted for all ranges and lengths

    @property
    def is_significant(self) -> bool:
        return self.p < ALPHA


@dataclass(frozen=True)
class _ExchangeableGroup:
    """Answers whose depths are exchanged by the permutation test."""

    depths: IndexMatrix
    shares: FloatArray


def find_depths_with_recall_loss(
    answers: Sequence[DepthAnswer], num_settings: int = 1, num_permutations: int = DRAWS
) -> list[LostDepths]:
    """Return the range of depths with the lowest recall for each length that was tested at several depths.

    `num_settings` is the number of settings that share one error.
    """
    found: list[LostDepths] = []
    distances: list[float] = []
    largest = np.full(num_permutations, -np.inf)
    generator = np.random.default_rng(SEED)
    for length in sorted({answer.length for answer in answers}):
        own = [answer for answer in answers if answer.length == length]
        depths = sorted({answer.depth for answer in own})
        if len(depths) < 2:
            continue
        groups, ranges = _group_exchangeable_answers(own, depths), _list_contiguous_ranges(len(depths))
        expected, deviation = _compute_permutation_mean_and_std(groups, ranges)
        sums = ranges @ _sum_observed_accuracies_by_depth(groups, len(depths))
        of_ranges = (expected - sums) / deviation
        most = int(of_ranges.argmax())
        found.append(
            _compute_depth_range_recall(own, length, [depths[at] for at in np.flatnonzero(ranges[most])])
        )
        distances.append(float(of_ranges[most]))
        drawn = _sum_permuted_accuracies_by_depth(groups, len(depths), num_permutations, generator) @ ranges.T
        np.maximum(largest, ((expected - drawn) / deviation).max(axis=1), out=largest)
    for number, distance in enumerate(distances):
        p = (1 + int((largest >= distance - ROUNDING).sum())) / (1 + num_permutations)
        found[number] = LostDepths(**{**vars(found[number]), "p": min(1.0, p * num_settings)})
    return found


def _compute_depth_range_recall(
    answers_at_length: Sequence[DepthAnswer], length: int, depths: Sequence[float]
) -> LostDepths:
    here = [answer.share for answer in answers_at_length if answer.depth in depths]
    rest = [answer.share for answer in answers_at_length if answer.depth not in depths]
    return LostDepths(length, depths[0], depths[-1], sum(here) / len(here), sum(rest) / len(rest), 1.0)


def _list_contiguous_ranges(num_depths: int) -> IndexMatrix:
    """Return all contiguous ranges except the full one, as a 0/1 matrix with one row per range."""
    at = np.arange(num_depths)
    pairs = [
        (first, last)
        for first in range(num_depths)
        for last in range(first, num_depths)
        if last - first < num_depths - 1
    ]
    return np.array([(first <= at) & (at <= last) for first, last in pairs]).astype(int)


def _group_exchangeable_answers(
    answers_at_length: Sequence[DepthAnswer], depths: Sequence[float]
) -> list[_ExchangeableGroup]:
    """Group the answers at one text length. The permutation test exchanges depths within each group."""
    asked_at: dict[tuple[str, str], set[float]] = {}
    for answer in answers_at_length:
        if answer.cluster is not None:
            asked_at.setdefault((answer.kind, answer.cluster), set()).add(answer.depth)
    groups: dict[tuple[str, str], list[DepthAnswer]] = {}
    for answer in answers_at_length:
        question = answer.kind, answer.cluster or ""
        is_at_several = len(asked_at.get(question, ())) > 1
        groups.setdefault(question if is_at_several else (answer.kind, ""), []).append(answer)
    return [
        _ExchangeableGroup(
            np.array([depths.index(answer.depth) for answer in group]),
            np.array([answer.share for answer in group]),
        )
        for group in groups.values()
    ]


def _sum_observed_accuracies_by_depth(groups: Sequence[_ExchangeableGroup], num_depths: int) -> FloatArray:
    sums = np.zeros(num_depths)
    for group in groups:
        np.add.at(sums, group.depths, group.shares)
    return sums


def _compute_permutation_mean_and_std(
    groups: Sequence[_ExchangeableGroup], ranges: IndexMatrix
) -> tuple[FloatArray, FloatArray]:
    mean, variance = np.zeros(len(ranges)), np.zeros(len(ranges))
    for group in groups:
        size = len(group.shares)
        inside = ranges @ np.bincount(group.depths, minlength=ranges.shape[1])
        mean += inside * group.shares.mean()
        variance += inside * (size - inside) / max(1, size - 1) * group.shares.var()
    # then each permutation has the same sums, and no range a distance
    is_constant = variance < ROUNDING
    return mean, np.where(is_constant, np.inf, np.sqrt(np.maximum(variance, ROUNDING)))


def _sum_permuted_accuracies_by_depth(
    groups: Sequence[_ExchangeableGroup],
    num_depths: int,
    num_permutations: int,
    generator: np.random.Generator,
) -> FloatArray:
    sums = np.zeros((num_permutations, num_depths))
    for size in sorted({len(group.shares) for group in groups}):
        alike = [group for group in groups if len(group.shares) == size]
        shares = np.stack([group.shares for group in alike])
        depths = np.stack([group.depths for group in alike])
        step = max(1, MOST_NUMBERS // shares.size)
        for first in range(0, num_permutations, step):
            last = min(num_permutations, first + step)
            permuted = generator.permuted(np.broadcast_to(shares, (last - first, *shares.shape)), axis=2)
            for at in range(num_depths):
                sums[first:last, at] += permuted[:, depths == at].sum(axis=1)
    return sums
