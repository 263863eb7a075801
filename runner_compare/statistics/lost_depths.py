"""At which depths of a text recall is below the rest, by permutations.

Where the depth does not matter, what was found at one depth could as well have been found at
another. So the answers are permuted among the depths: those to a question that was asked at several
depths among these, others among all questions of their kind at the same length. Every range of
neighbouring depths has a distance: how much its recall is below that of all depths of its length,
in standard deviations over the permutations. It counts if it is larger than the largest one of all
ranges and lengths in most permutations (Westfall and Young, Resampling-Based Multiple Testing,
1993). So all ranges of all lengths have one error together, and as it follows the answers, few
questions are enough.
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

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Places = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True)
class DepthAnswer:
    """The share of right answers to a question at a depth of a text of some length."""

    length: int
    depth: float
    share: float
    kind: str
    cluster: str | None  # the question, if it was asked at several depths


@dataclass(frozen=True)
class LostDepths:
    """The range of depths that is most below the rest at one length, and whether it is shown to
    be."""

    length: int
    first: float
    last: float
    recall: float
    rest: float  # the recall at the other depths of this length
    p: float  # that it is not below the rest, adjusted for all ranges and lengths

    @property
    def is_shown(self) -> bool:
        """Whether recall is shown to be below the rest."""
        return self.p < ALPHA


@dataclass(frozen=True)
class _Exchangeable:
    """Answers of which each could have been found at the depth of any other: the places of their
    depths, and shares."""

    depths: Places
    shares: Numbers


def lost_depths(answers: Sequence[DepthAnswer], families: int = 1, draws: int = DRAWS) -> list[LostDepths]:
    """Return the range of depths that is most below the rest, for each length with several depths.

    `families`: so many settings with such ranges share one error.
    """
    found: list[LostDepths] = []
    distances: list[float] = []
    largest = np.full(draws, -np.inf)
    generator = np.random.default_rng(SEED)
    for length in sorted({answer.length for answer in answers}):
        own = [answer for answer in answers if answer.length == length]
        depths = sorted({answer.depth for answer in own})
        if len(depths) < 2:
            continue
        groups, ranges = _exchangeable(own, depths), _ranges(len(depths))
        expected, deviation = _moments(groups, ranges)
        sums = ranges @ _sums(groups, len(depths))
        of_ranges = (expected - sums) / deviation
        most = int(of_ranges.argmax())
        found.append(_range_of(own, length, [depths[at] for at in np.flatnonzero(ranges[most])]))
        distances.append(float(of_ranges[most]))
        drawn = _drawn_sums(groups, len(depths), draws, generator) @ ranges.T
        np.maximum(largest, ((expected - drawn) / deviation).max(axis=1), out=largest)
    for number, distance in enumerate(distances):
        p = (1 + int((largest >= distance - ROUNDING).sum())) / (1 + draws)
        found[number] = LostDepths(**{**vars(found[number]), "p": min(1.0, p * families)})
    return found


def _range_of(own: Sequence[DepthAnswer], length: int, depths: Sequence[float]) -> LostDepths:
    """Return a range of depths with its recall; its p is not known yet."""
    here = [answer.share for answer in own if answer.depth in depths]
    rest = [answer.share for answer in own if answer.depth not in depths]
    return LostDepths(length, depths[0], depths[-1], sum(here) / len(here), sum(rest) / len(rest), 1.0)


def _ranges(count: int) -> Places:
    """Return every range of neighbouring depths but that of all: a line each, with 1 for the depths
    that are in it."""
    at = np.arange(count)
    pairs = [
        (first, last) for first in range(count) for last in range(first, count) if last - first < count - 1
    ]
    return np.array([(first <= at) & (at <= last) for first, last in pairs]).astype(int)


def _exchangeable(own: Sequence[DepthAnswer], depths: Sequence[float]) -> list[_Exchangeable]:
    """Return the groups of answers of one length that are permuted among themselves."""
    asked_at: dict[tuple[str, str], set[float]] = {}
    for answer in own:
        if answer.cluster is not None:
            asked_at.setdefault((answer.kind, answer.cluster), set()).add(answer.depth)
    groups: dict[tuple[str, str], list[DepthAnswer]] = {}
    for answer in own:
        question = answer.kind, answer.cluster or ""
        is_at_several = len(asked_at.get(question, ())) > 1
        groups.setdefault(question if is_at_several else (answer.kind, ""), []).append(answer)
    return [
        _Exchangeable(
            np.array([depths.index(answer.depth) for answer in group]),
            np.array([answer.share for answer in group]),
        )
        for group in groups.values()
    ]


def _sums(groups: Sequence[_Exchangeable], count: int) -> Numbers:
    """Return the sum of the shares at each depth, as they were answered."""
    sums = np.zeros(count)
    for group in groups:
        np.add.at(sums, group.depths, group.shares)
    return sums


def _moments(groups: Sequence[_Exchangeable], ranges: Places) -> tuple[Numbers, Numbers]:
    """Return the mean of the sum in each range over all permutations, and its standard
    deviation."""
    mean, variance = np.zeros(len(ranges)), np.zeros(len(ranges))
    for group in groups:
        size = len(group.shares)
        inside = ranges @ np.bincount(group.depths, minlength=ranges.shape[1])
        mean += inside * group.shares.mean()
        variance += inside * (size - inside) / max(1, size - 1) * group.shares.var()
    # then each permutation has the same sums, and no range a distance
    is_constant = variance < ROUNDING
    return mean, np.where(is_constant, np.inf, np.sqrt(np.maximum(variance, ROUNDING)))


def _drawn_sums(
    groups: Sequence[_Exchangeable], count: int, draws: int, generator: np.random.Generator
) -> Numbers:
    """Return the sum at each depth in each permutation."""
    sums = np.zeros((draws, count))
    for size in sorted({len(group.shares) for group in groups}):
        alike = [group for group in groups if len(group.shares) == size]
        shares = np.stack([group.shares for group in alike])
        depths = np.stack([group.depths for group in alike])
        step = max(1, MOST_NUMBERS // shares.size)
        for first in range(0, draws, step):
            last = min(draws, first + step)
            permuted = generator.permuted(np.broadcast_to(shares, (last - first, *shares.shape)), axis=2)
            for at in range(count):
                sums[first:last, at] += permuted[:, depths == at].sum(axis=1)
    return sums
