"""The order of the candidates, and the reason for it between each one and the next.

A candidate is more accurate only if a test says so, adjusted for the number of pairs. Where none
does, these decide in turn: whether another one is at least as good in all that was measured of
both, and better in some; the model that the user has named; the KL to the same reference, where
recorded intervals do not overlap, or one of the two is the reference; the number format for which
published tests find less loss, unless accuracies of both are known here, or a KL of one; the time,
if the two differ by more than their errors; the memory, if it is limited or short. The number of
parameters says nothing about accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

from runner.options.advise.accuracies import compare
from runner.options.advise.candidates import Candidate
from runner.options.advise.closeness import RecordedCloseness
from runner_base.notes import Note, note
from runner_compare.statistics import Decision, Finding, Test, judge

LOSES_MORE = ("nf4", "fp4")  # number formats for which published tests find some loss
MEMORY_TOLERANCE = 0.05  # predictions of memory are no better than that
TIGHT = 0.9  # of the allowed memory: beyond it, memory is short


def rank(candidates: Sequence[Candidate], memory_is_limited: bool = False) -> list[Candidate]:
    """Return the candidates in the order of recommendation, each with the reason why it is before
    the next one.

    `memory_is_limited`: the user asks for little memory.
    """
    order = _Order(candidates, memory_is_limited)
    left, ranked = list(range(len(candidates))), list[int]()
    while left:
        # if tests of different questions went round in a circle, none would be free of a better one
        free = [
            unranked for unranked in left if not any(order.is_better(other, unranked) for other in left)
        ] or left
        free = [
            unranked for unranked in free if not any(order.dominates(other, unranked) for other in left)
        ] or free
        first = [
            unranked for unranked in free if not any(order.loses_less(other, unranked) for other in free)
        ] or free
        ranked.append(min(first, key=order.cost))
        left.remove(ranked[-1])
    for rank_from_1, (number, after) in enumerate(pairwise(ranked), start=1):
        reason = order.reason(number, after, rank_from_1)
        candidates[number].before_next = note("before", rank=rank_from_1, reason=reason)
    return [candidates[number] for number in ranked]


class _Order:
    """Which of two candidates comes first, and why; candidates are known by their numbers."""

    def __init__(self, candidates: Sequence[Candidate], memory_is_limited: bool) -> None:
        self.candidates = candidates
        tests: dict[tuple[int, int], Test] = {}
        for pair in combinations(range(len(candidates)), 2):
            candidate, other_candidate = (candidates[number] for number in pair)
            if candidate.accuracy is not None and other_candidate.accuracy is not None:
                test = compare(
                    candidate.accuracy, other_candidate.accuracy, candidate.model == other_candidate.model
                )
                if test is not None:
                    tests[pair] = test
        self.shown: dict[
            tuple[int, int], tuple[Decision, int]
        ] = {}  # of any two, and -1 if it is seen from the other
        for pair, decision in zip(tests, judge(tests.values()), strict=True):
            self.shown |= {pair: (decision, 1), pair[::-1]: (decision, -1)}
        self.time_ranks = _time_ranks(candidates)
        self.memory_ranks = [0] * len(candidates)
        if memory_is_limited or any(
            candidate.known_mib > TIGHT * candidate.allowed_mib for candidate in candidates
        ):
            self.memory_ranks = _ranks([candidate.known_mib for candidate in candidates])

    def is_better(self, first: int, second: int) -> bool:
        """Whether a test shows that one is more accurate than the other."""
        effect, sign = self.shown.get((first, second), (None, 1))
        return effect is not None and effect.finding is (Finding.better if sign > 0 else Finding.worse)

    def dominates(self, first: int, second: int) -> bool:
        """Whether one is no worse in all that was measured of both, better in some, and not known
        to answer worse."""
        candidate, other_candidate = self.candidates[first], self.candidates[second]
        effect, sign = self.shown.get((first, second), (None, 1))
        if (candidate.model != other_candidate.model and effect is None) or self.loses_less(second, first):
            return False  # its answers are not known to be as good
        pairs = [(-sign * effect.value, 0.0)] if effect is not None else []
        if (closenesses := self.closenesses(first, second)) is not None:
            pairs.append((closenesses[0].kl, closenesses[1].kl))
        costs = [
            (candidate.measured_each_s, other_candidate.measured_each_s),
            (candidate.measured_mib, other_candidate.measured_mib),
        ]
        measured = [(cost, its_cost) for cost, its_cost in costs if cost is not None and its_cost is not None]
        better = [pair[0] < pair[1] for pair in pairs]
        if candidate.measured_mib is not None and other_candidate.measured_mib is not None:
            better.append(candidate.measured_mib < other_candidate.measured_mib)
        is_better = any(better) or (
            candidate.measured_each_s is not None and _is_faster(candidate, other_candidate)
        )
        return bool(measured) and all(pair[0] <= pair[1] for pair in [*pairs, *measured]) and is_better

    def closenesses(self, first: int, second: int) -> tuple[RecordedCloseness, RecordedCloseness] | None:
        """Return two KLs to the same reference, which may be one of the two; None if these are not
        known."""
        candidate, other_candidate = self.candidates[first], self.candidates[second]
        closeness, other_closeness = candidate.closeness, other_candidate.closeness
        if other_closeness is not None and other_closeness.job_id in candidate.reference_of:
            return other_closeness.of_reference(), other_closeness
        if closeness is not None and closeness.job_id in other_candidate.reference_of:
            return closeness, closeness.of_reference()
        return (
            (closeness, other_closeness)
            if closeness is not None
            and other_closeness is not None
            and closeness.is_comparable(other_closeness)
            else None
        )

    def loses_less(self, first: int, second: int) -> bool:
        """Whether one's KL is shown to be lower, or else published tests find less loss for its
        number format.

        What was published does not count beside a KL that was measured here.
        """
        candidate, other_candidate = self.candidates[first], self.candidates[second]
        if (closenesses := self.closenesses(first, second)) is not None:
            return closenesses[0].is_closer(closenesses[1])
        if candidate.closeness is not None or other_candidate.closeness is not None:
            return False
        formats = candidate.quantization not in LOSES_MORE and other_candidate.quantization in LOSES_MORE
        return candidate.model == other_candidate.model and formats and (first, second) not in self.shown

    def cost(self, number: int) -> tuple[bool, int, bool, int, int]:
        """Return what decides between candidates whose accuracy does not."""
        candidate = self.candidates[number]
        return (
            not candidate.is_asked,
            self.time_ranks[number],
            not candidate.is_timed,
            self.memory_ranks[number],
            number,
        )

    def reason(self, first: int, second: int, rank_from_1: int) -> Note:
        """Return why a candidate is before the next one."""
        if self.is_better(first, second):
            return self._difference(first, second)
        why, known = self._why(first, second, rank_from_1), self._known(first, second, rank_from_1)
        return note("reason", why=why, known=known)

    def _why(self, first: int, second: int, rank_from_1: int) -> Note:
        """Return what puts a candidate first whose accuracy does not."""
        candidate, next_candidate = self.candidates[first], self.candidates[second]
        closenesses = self.closenesses(first, second)
        if closenesses is not None and self.loses_less(first, second):
            own, other = closenesses
            if own.is_reference:
                return note("is_reference", own=own, other=other)
            return note("closer", own=own, other=other)
        if self.loses_less(first, second):
            formats = candidate.quantization, next_candidate.quantization
            return note("published_loss", quantization=formats[0], other=formats[1])
        if self.dominates(first, second):
            return _measured(candidate, next_candidate)
        if candidate.is_asked != next_candidate.is_asked:
            return note("named", rank=rank_from_1)
        if self.time_ranks[first] != self.time_ranks[second] or candidate.is_timed != next_candidate.is_timed:
            return _faster(candidate, next_candidate)
        if self.memory_ranks[first] != self.memory_ranks[second]:
            return note("less_memory", mib=candidate.known_mib, other_mib=next_candidate.known_mib)
        return note("alike")

    def _known(self, first: int, second: int, rank_from_1: int) -> Note:
        accuracy, next_accuracy = self.candidates[first].accuracy, self.candidates[second].accuracy
        if accuracy is None and next_accuracy is None:
            return note("accuracy_unknown")
        if accuracy is None or next_accuracy is None:
            return note("accuracy_of_one_unknown", rank=rank_from_1 + (next_accuracy is None))
        if (first, second) not in self.shown:
            return note("accuracies_incomparable")
        return note("no_difference", own=accuracy, other=next_accuracy)

    def _difference(self, first: int, second: int) -> Note:
        effect, sign = self.shown[first, second]
        low, high = sorted(sign * end for end in effect.simultaneous)
        return note(
            "more_accurate",
            value=sign * effect.value,
            interval=(low, high),
            questions=effect.n,
            is_paired=effect.counts["wins"] is not None,
            p=effect.p_holm,
        )


def _measured(candidate: Candidate, other: Candidate) -> Note:
    """Return in what a candidate was measured to be better than one that is better in nothing."""
    each_s, other_s = candidate.measured_each_s, other.measured_each_s
    seconds = None
    if each_s is not None and other_s is not None and _is_faster(candidate, other):
        seconds = each_s, other_s
    mib = None
    if candidate.measured_mib is not None and other.measured_mib is not None:
        mib = candidate.measured_mib, other.measured_mib
    return note("no_worse", seconds=seconds, mib=mib)


def _faster(candidate: Candidate, other: Candidate) -> Note:
    """Return which times put a candidate before another one; a prediction counts with its possible
    error."""
    each_s, other_s = candidate.each_s, other.each_s
    if other_s is None or other.time is None:
        return note("time_unknown", each_s=each_s)
    if _is_faster(candidate, other):
        return note("faster", each_s=each_s, other_s=other_s)
    if candidate.is_timed == other.is_timed:
        return note("faster_at_most", each_s=candidate.each_s_at_most, other_s=other.each_s_at_most)
    source, spread = other.time.source, other.time.spread
    return note("recorded_time", each_s=each_s, other_s=other_s, source=source, spread=spread)


def _is_faster(candidate: Candidate, other: Candidate) -> bool:
    """Whether the times of two candidates differ by more than their errors."""
    return (
        candidate.each_s_at_most is not None
        and other.each_s_at_least is not None
        and (candidate.each_s_at_most < other.each_s_at_least)
    )


def _time_ranks(candidates: Sequence[Candidate]) -> list[int]:
    """Return the rank of each time from the shortest on; a time within the error of a rank's first
    shares it."""
    ranks, first, rank_of_last = [0] * len(candidates), None, -1
    ends = [
        math.inf if candidate.each_s_at_most is None else candidate.each_s_at_most for candidate in candidates
    ]
    for number in sorted(range(len(candidates)), key=ends.__getitem__):
        candidate = candidates[number]
        is_known = candidate.each_s_at_most is not None
        is_later = (
            first is None or _is_faster(first, candidate) or is_known != (first.each_s_at_most is not None)
        )
        if is_later:
            first, rank_of_last = candidate, rank_of_last + 1
        ranks[number] = rank_of_last
    return ranks


def _ranks(values: Sequence[float]) -> list[int]:
    """Return the rank of each value from the smallest on; values within the tolerance of a rank's
    first share it."""
    ranks, first, rank_of_last = [0] * len(values), -1.0, -1
    for number in sorted(range(len(values)), key=values.__getitem__):
        if rank_of_last < 0 or values[number] > first * (1 + MEMORY_TOLERANCE):
            first, rank_of_last = values[number], rank_of_last + 1
        ranks[number] = rank_of_last
    return ranks
