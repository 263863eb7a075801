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
from runner_compare import points
from runner_compare.statistics import Decision, Finding, Test, judge

LOSES_MORE = ("nf4", "fp4")  # number formats for which published tests find some loss
UNKNOWN = "accuracy unknown here"
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
        free = [it for it in left if not any(order.is_better(other, it) for other in left)] or left
        free = [it for it in free if not any(order.dominates(other, it) for other in left)] or free
        first = [
            it for it in free if not any(order.loses_less(other, it) for other in free)
        ] or free
        ranked.append(min(first, key=order.cost))
        left.remove(ranked[-1])
    for place, (number, after) in enumerate(pairwise(ranked), start=1):
        candidates[
            number
        ].before_next = f"{place} before {place + 1}: {order.reason(number, after, place)}"
    return [candidates[number] for number in ranked]


class _Order:
    """Which of two candidates comes first, and why; candidates are known by their numbers."""

    def __init__(self, candidates: Sequence[Candidate], memory_is_limited: bool) -> None:
        self.candidates = candidates
        tests: dict[tuple[int, int], Test] = {}
        for pair in combinations(range(len(candidates)), 2):
            one, other = (candidates[number] for number in pair)
            if one.accuracy is not None and other.accuracy is not None:
                test = compare(one.accuracy, other.accuracy, one.model == other.model)
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

    def is_better(self, one: int, other: int) -> bool:
        """Whether a test shows that one is more accurate than the other."""
        effect, sign = self.shown.get((one, other), (None, 1))
        return effect is not None and effect.finding is (
            Finding.better if sign > 0 else Finding.worse
        )

    def dominates(self, one: int, other: int) -> bool:
        """Whether one is no worse in all that was measured of both, better in some, and not known
        to answer worse."""
        ours, theirs = self.candidates[one], self.candidates[other]
        effect, sign = self.shown.get((one, other), (None, 1))
        if (ours.model != theirs.model and effect is None) or self.loses_less(other, one):
            return False  # its answers are not known to be as good
        pairs = [(-sign * effect.value, 0.0)] if effect is not None else []
        if (closenesses := self.closenesses(one, other)) is not None:
            pairs.append((closenesses[0].kl, closenesses[1].kl))
        costs = [
            (ours.measured_each_s, theirs.measured_each_s),
            (ours.measured_mib, theirs.measured_mib),
        ]
        measured = [
            (cost, its_cost)
            for cost, its_cost in costs
            if cost is not None and its_cost is not None
        ]
        better = [pair[0] < pair[1] for pair in pairs]
        if ours.measured_mib is not None and theirs.measured_mib is not None:
            better.append(ours.measured_mib < theirs.measured_mib)
        is_better = any(better) or (ours.measured_each_s is not None and _is_faster(ours, theirs))
        return bool(measured) and all(it[0] <= it[1] for it in [*pairs, *measured]) and is_better

    def closenesses(
        self, one: int, other: int
    ) -> tuple[RecordedCloseness, RecordedCloseness] | None:
        """Return two KLs to the same reference, which may be one of the two; None if these are not
        known."""
        ours, theirs = self.candidates[one], self.candidates[other]
        mine, its = ours.closeness, theirs.closeness
        if its is not None and its.job_id in ours.reference_of:
            return its.of_reference(), its
        if mine is not None and mine.job_id in theirs.reference_of:
            return mine, mine.of_reference()
        return (
            (mine, its)
            if mine is not None and its is not None and mine.is_comparable(its)
            else None
        )

    def loses_less(self, one: int, other: int) -> bool:
        """Whether one's KL is shown to be lower, or else published tests find less loss for its
        number format.

        What was published does not count beside a KL that was measured here.
        """
        ours, theirs = self.candidates[one], self.candidates[other]
        if (closenesses := self.closenesses(one, other)) is not None:
            return closenesses[0].is_closer(closenesses[1])
        if ours.closeness is not None or theirs.closeness is not None:
            return False
        formats = ours.quantization not in LOSES_MORE and theirs.quantization in LOSES_MORE
        return ours.model == theirs.model and formats and (one, other) not in self.shown

    def cost(self, number: int) -> tuple[bool, int, bool, int, int]:
        """Return what decides between candidates whose accuracy does not."""
        it = self.candidates[number]
        return (
            not it.is_asked,
            self.time_ranks[number],
            not it.is_timed,
            self.memory_ranks[number],
            number,
        )

    def reason(self, one: int, after: int, place: int) -> str:
        """Say why a candidate is before the next one."""
        ours, theirs = self.candidates[one], self.candidates[after]
        if self.is_better(one, after):
            return f"more accurate: {self._difference(one, after)}"
        known = self._known(one, after, place)
        closenesses = self.closenesses(one, after)
        if closenesses is not None and self.loses_less(one, after):
            mine, its = closenesses
            if mine.is_reference:
                return f"closer to {mine.reference}, which it is itself: the other has {its.value}; {known}"
            return f"closer to {mine.reference}: {mine.value} instead of {its.value}; {known}"
        if self.loses_less(one, after):
            return f"published tests find less loss for quantization={ours.quantization}; {known}"
        if self.dominates(one, after):
            return f"{_measured(ours, theirs)}; {known}"
        if ours.is_asked != theirs.is_asked:
            return f"{place} is the model that you have named; {known}"
        if self.time_ranks[one] != self.time_ranks[after] or ours.is_timed != theirs.is_timed:
            return f"{_faster(ours, theirs)}; {known}"
        if self.memory_ranks[one] != self.memory_ranks[after]:
            return f"less memory, {ours.known_mib:,.0f} MiB instead of {theirs.known_mib:,.0f}; {known}"
        return f"nothing tells them apart; {known}"

    def _known(self, one: int, after: int, place: int) -> str:
        ours, theirs = self.candidates[one].accuracy, self.candidates[after].accuracy
        if ours is None or theirs is None:
            missing = [place + number for number, it in enumerate((ours, theirs)) if it is None]
            return UNKNOWN if len(missing) == 2 else f"accuracy of {missing[0]} unknown here"
        if (one, after) not in self.shown:
            return "their recorded accuracies cannot be compared"
        return f"no difference in accuracy shown ({ours.words} and {theirs.words})"

    def _difference(self, one: int, after: int) -> str:
        effect, sign = self.shown[one, after]
        value, low, high = sign * effect.value, *sorted((sign * effect.low, sign * effect.high))
        n = (
            f"the same {effect.n:,} questions"
            if effect.counts["wins"] is not None
            else "questions that are not paired"
        )
        p = f"{effect.p_holm:.2g}"
        return f"{points(value)} points [{points(low)}, {points(high)}] on {n} (p = {p})"


def _measured(ours: Candidate, theirs: Candidate) -> str:
    """Say in what a candidate was measured to be better than one that is better in nothing."""
    words = []
    if (
        ours.measured_each_s is not None
        and theirs.measured_each_s is not None
        and _is_faster(ours, theirs)
    ):
        words.append(
            f"{ours.measured_each_s:,.2f} s a question instead of {theirs.measured_each_s:,.2f}"
        )
    if ours.measured_mib is not None and theirs.measured_mib is not None:
        words.append(f"{ours.measured_mib:,.0f} MiB instead of {theirs.measured_mib:,.0f}")
    return f"no worse in all that was recorded here of both: {', '.join(words)}"


def _faster(ours: Candidate, theirs: Candidate) -> str:
    """Say which times put a candidate before another one; a prediction counts with its possible
    error."""
    assert ours.each_s is not None
    if theirs.each_s is None or theirs.time is None:
        return f"{ours.each_s:,.2f} s a question, while the time of the other is unknown"
    if _is_faster(ours, theirs):
        return f"faster by the estimates, {ours.each_s:,.2f} s a question instead of {theirs.each_s:,.2f}"
    if ours.is_timed == theirs.is_timed:
        return (
            f"at most {ours.each_s_at_most:,.2f} s a question by the estimates instead of "
            f"{theirs.each_s_at_most:,.2f}"
        )
    error = f"{theirs.each_s:,.2f} ± {theirs.time.spread:.0%}"
    return f"{ours.each_s:,.2f} s a question, while {error} of the other is less certain"


def _is_faster(ours: Candidate, theirs: Candidate) -> bool:
    """Whether the times of two candidates differ by more than their errors."""
    return (
        ours.each_s_at_most is not None
        and theirs.each_s_at_least is not None
        and (ours.each_s_at_most < theirs.each_s_at_least)
    )


def _time_ranks(candidates: Sequence[Candidate]) -> list[int]:
    """Return the rank of each time from the shortest on; a time within the error of a rank's first
    shares it."""
    ranks, first, rank_of_last = [0] * len(candidates), None, -1
    ends = [
        math.inf if candidate.each_s_at_most is None else candidate.each_s_at_most
        for candidate in candidates
    ]
    for number in sorted(range(len(candidates)), key=ends.__getitem__):
        it = candidates[number]
        is_known = it.each_s_at_most is not None
        is_later = (
            first is None or _is_faster(first, it) or is_known != (first.each_s_at_most is not None)
        )
        if is_later:
            first, rank_of_last = it, rank_of_last + 1
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
