"""Ranks candidate settings, and explains why each candidate ranks above the next one.

A candidate is more accurate only if a test shows it, adjusted for the number of pairs.
Otherwise these criteria decide in order:

1. KL divergence from the same reference, if the recorded intervals do not overlap or one is the reference
2. published tests of the number format, unless accuracies of both or a KL of one are recorded
3. dominance: at least as good in every shared measurement, and better in some
4. the model that the user has named
5. time, if the difference exceeds the errors
6. memory, if it is limited or short

The number of parameters does not indicate accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

from runner.options.advise.accuracies import compare_accuracies
from runner.options.advise.candidates import Candidate
from runner.options.advise.recorded_kl import RecordedKl
from runner_base.notes import Note, note
from runner_compare.statistics import Decision, Finding, Test, decide_comparisons_with_holm

LOSES_MORE = ("nf4", "fp4")  # number formats for which published tests find some loss
MEMORY_TOLERANCE = 0.05  # predictions of memory are no better than that
TIGHT = 0.9  # of the allowed memory: beyond it, memory is short


def rank_candidates(candidates: Sequence[Candidate], is_memory_limited: bool = False) -> list[Candidate]:
    """Rank the candidates, best first. Each candidate gets the reason why it ranks above the next one.

    `is_memory_limited`: the user requests little memory.
    """
    order = _PairwiseOrder(candidates, is_memory_limited)
    left, ranked = list(range(len(candidates))), list[int]()
    while left:
        # if tests of different questions went round in a circle, none would be free of a better one
        free = [
            unranked
            for unranked in left
            if not any(order.is_more_accurate(other, unranked) for other in left)
        ] or left
        free = [
            unranked for unranked in free if not any(order.is_dominating(other, unranked) for other in left)
        ] or free
        first = [
            unranked
            for unranked in free
            if not any(order.has_lower_quality_loss(other, unranked) for other in free)
        ] or free
        ranked.append(min(first, key=order.sort_key))
        left.remove(ranked[-1])
    for number, after in pairwise(ranked):
        reason = order.explain_candidate_order(number, after)
        why = reason.values.get("why")
        is_level = isinstance(why, Note) and why.code == "alike"
        other = candidates[after].list_differing_overrides(candidates[number])
        candidates[number].before_next = (
            note("level", other=other, reason=reason)
            if is_level
            else note("before", other=other, reason=reason)
        )
    return [candidates[number] for number in ranked]


class _PairwiseOrder:
    """Compares two candidates and explains which one is better. Candidates are identified by their index."""

    def __init__(self, candidates: Sequence[Candidate], memory_is_limited: bool) -> None:
        self.candidates = candidates
        tests: dict[tuple[int, int], Test] = {}
        for pair in combinations(range(len(candidates)), 2):
            candidate, other_candidate = (candidates[number] for number in pair)
            if candidate.accuracy is not None and other_candidate.accuracy is not None:
                test = compare_accuracies(
                    candidate.accuracy, other_candidate.accuracy, candidate.model == other_candidate.model
                )
                if test is not None:
                    tests[pair] = test
        self.shown: dict[
            tuple[int, int], tuple[Decision, int]
        ] = {}  # of any two, and -1 if it is seen from the other
        for pair, decision in zip(tests, decide_comparisons_with_holm(tests.values()), strict=True):
            self.shown |= {pair: (decision, 1), pair[::-1]: (decision, -1)}
        self.time_ranks = _rank_candidate_times(candidates)
        self.memory_ranks = [0] * len(candidates)
        if memory_is_limited or any(
            candidate.best_known_mib > TIGHT * candidate.allowed_mib for candidate in candidates
        ):
            self.memory_ranks = _rank_with_tolerance([candidate.best_known_mib for candidate in candidates])

    def is_more_accurate(self, candidate_index: int, other_index: int) -> bool:
        effect, sign = self.shown.get((candidate_index, other_index), (None, 1))
        return effect is not None and effect.finding is (Finding.better if sign > 0 else Finding.worse)

    def is_dominating(self, candidate_index: int, other_index: int) -> bool:
        """Return whether a candidate is better in one criterion and not worse in any other.

        The candidate must also not be known to be less accurate.
        """
        candidate, other_candidate = self.candidates[candidate_index], self.candidates[other_index]
        effect, sign = self.shown.get((candidate_index, other_index), (None, 1))
        if (candidate.model != other_candidate.model and effect is None) or self.has_lower_quality_loss(
            other_index, candidate_index
        ):
            return False  # its answers are not known to be as good
        pairs = [(-sign * effect.value, 0.0)] if effect is not None else []
        if (closenesses := self.find_comparable_kl_divergences(candidate_index, other_index)) is not None:
            pairs.append((closenesses[0].kl, closenesses[1].kl))
        costs = [
            (candidate.recorded_s_per_question, other_candidate.recorded_s_per_question),
            (candidate.measured_mib, other_candidate.measured_mib),
        ]
        measured = [(cost, its_cost) for cost, its_cost in costs if cost is not None and its_cost is not None]
        better = [pair[0] < pair[1] for pair in pairs]
        if candidate.measured_mib is not None and other_candidate.measured_mib is not None:
            better.append(candidate.measured_mib < other_candidate.measured_mib)
        is_better = any(better) or (
            candidate.recorded_s_per_question is not None and _is_faster(candidate, other_candidate)
        )
        return bool(measured) and all(pair[0] <= pair[1] for pair in [*pairs, *measured]) and is_better

    def find_comparable_kl_divergences(
        self, candidate_index: int, other_index: int
    ) -> tuple[RecordedKl, RecordedKl] | None:
        """Return the KL divergences of two candidates from the same reference model, or None if they are not
        comparable.

        One of the candidates may be the reference model.
        """
        candidate, other_candidate = self.candidates[candidate_index], self.candidates[other_index]
        closeness, other_closeness = candidate.closeness, other_candidate.closeness
        if other_closeness is not None and other_closeness.job_id in candidate.reference_of:
            return other_closeness.reference_kl(), other_closeness
        if closeness is not None and closeness.job_id in other_candidate.reference_of:
            return closeness, closeness.reference_kl()
        return (
            (closeness, other_closeness)
            if closeness is not None
            and other_closeness is not None
            and closeness.is_comparable(other_closeness)
            else None
        )

    def has_lower_quality_loss(self, first: int, second: int) -> bool:
        """Return whether the first candidate loses less quality, by its KL divergence or by published
        results.

        A KL measured here has precedence over published tests.
        """
        candidate, other_candidate = self.candidates[first], self.candidates[second]
        if (closenesses := self.find_comparable_kl_divergences(first, second)) is not None:
            return closenesses[0].is_lower(closenesses[1])
        if candidate.closeness is not None or other_candidate.closeness is not None:
            return False
        formats = candidate.quantization not in LOSES_MORE and other_candidate.quantization in LOSES_MORE
        return candidate.model == other_candidate.model and formats and (first, second) not in self.shown

    def sort_key(self, candidate_index: int) -> tuple[bool, int, bool, int, int]:
        """Return the sort key for candidates whose accuracies do not differ significantly."""
        candidate = self.candidates[candidate_index]
        return (
            not candidate.is_asked,
            self.time_ranks[candidate_index],
            not candidate.has_recorded_time,
            self.memory_ranks[candidate_index],
            candidate_index,
        )

    def explain_candidate_order(self, better_index: int, worse_index: int) -> Note:
        if self.is_more_accurate(better_index, worse_index):
            return self._describe_accuracy_difference(better_index, worse_index)
        why, known = (
            self._describe_deciding_criterion(better_index, worse_index),
            self._make_accuracy_comparison_note(better_index, worse_index),
        )
        return note("reason", why=why, known=known)

    def _describe_deciding_criterion(self, first: int, second: int) -> Note:
        candidate, next_candidate = self.candidates[first], self.candidates[second]
        closenesses = self.find_comparable_kl_divergences(first, second)
        if closenesses is not None and self.has_lower_quality_loss(first, second):
            own, other = closenesses
            if own.is_reference:
                return note("is_reference", own=own, other=other)
            return note("closer", own=own, other=other)
        if self.has_lower_quality_loss(first, second):
            formats = candidate.quantization, next_candidate.quantization
            return note("published_loss", quantization=formats[0], other=formats[1])
        if self.is_dominating(first, second):
            return _make_time_and_memory_note(candidate, next_candidate)
        if candidate.is_asked != next_candidate.is_asked:
            return note("named")
        if (
            self.time_ranks[first] != self.time_ranks[second]
            or candidate.has_recorded_time != next_candidate.has_recorded_time
        ):
            return _describe_speed_difference(candidate, next_candidate)
        if self.memory_ranks[first] != self.memory_ranks[second]:
            return note("less_memory", mib=candidate.best_known_mib, other_mib=next_candidate.best_known_mib)
        return note("alike")

    def _make_accuracy_comparison_note(self, first: int, second: int) -> Note:
        candidate, next_candidate = self.candidates[first], self.candidates[second]
        accuracy, next_accuracy = candidate.accuracy, next_candidate.accuracy
        if accuracy is None and next_accuracy is None:
            return note("accuracy_unknown")
        if accuracy is None or next_accuracy is None:
            other = () if accuracy is None else next_candidate.list_differing_overrides(candidate)
            return note("accuracy_of_one_unknown", other=other)
        if (first, second) not in self.shown:
            return note("accuracies_incomparable")
        return note("no_difference", own=accuracy, other=next_accuracy)

    def _describe_accuracy_difference(self, first: int, second: int) -> Note:
        effect, sign = self.shown[first, second]
        low, high = sorted(sign * end for end in effect.simultaneous_interval)
        return note(
            "more_accurate",
            value=sign * effect.value,
            interval=(low, high),
            questions=effect.n,
            is_paired=effect.counts["wins"] is not None,
            p=effect.p_holm,
        )


def _make_time_and_memory_note(candidate: Candidate, other: Candidate) -> Note:
    each_s, other_s = candidate.recorded_s_per_question, other.recorded_s_per_question
    seconds = None
    if each_s is not None and other_s is not None and _is_faster(candidate, other):
        seconds = each_s, other_s
    mib = None
    if candidate.measured_mib is not None and other.measured_mib is not None:
        mib = candidate.measured_mib, other.measured_mib
    return note("no_worse", seconds=seconds, mib=mib)


def _describe_speed_difference(candidate: Candidate, other: Candidate) -> Note:
    """Return a note that explains a ranking by time, including the errors of the estimates."""
    each_s, other_s = candidate.s_per_question, other.s_per_question
    if other_s is None or other.time is None:
        return note("time_unknown", each_s=each_s)
    if _is_faster(candidate, other):
        return note("faster", each_s=each_s, other_s=other_s)
    if candidate.has_recorded_time == other.has_recorded_time:
        return note("faster_at_most", each_s=candidate.max_s_per_question, other_s=other.max_s_per_question)
    return note(
        "recorded_time",
        each_s=each_s,
        other_s=other_s,
        other=other.list_differing_overrides(candidate),
        spread=other.time.spread,
    )


def _is_faster(first: Candidate, second: Candidate) -> bool:
    """Return whether a candidate is faster than another by more than the estimation errors of both times."""
    return (
        first.max_s_per_question is not None
        and second.min_s_per_question is not None
        and (first.max_s_per_question < second.min_s_per_question)
    )


def _rank_candidate_times(candidates: Sequence[Candidate]) -> list[int]:
    """Rank candidates by time, fastest first. Candidates whose times differ by less than their errors share a
    rank.
    """
    ranks, first, rank_of_last = [0] * len(candidates), None, -1
    ends = [
        math.inf if candidate.max_s_per_question is None else candidate.max_s_per_question
        for candidate in candidates
    ]
    for number in sorted(range(len(candidates)), key=ends.__getitem__):
        candidate = candidates[number]
        is_known = candidate.max_s_per_question is not None
        is_later = (
            first is None
            or _is_faster(first, candidate)
            or is_known != (first.max_s_per_question is not None)
        )
        if is_later:
            first, rank_of_last = candidate, rank_of_last + 1
        ranks[number] = rank_of_last
    return ranks


def _rank_with_tolerance(values: Sequence[float]) -> list[int]:
    """Rank values, smallest first. Values that differ by at most 5 % share a rank."""
    ranks, first, rank_of_last = [0] * len(values), -1.0, -1
    for number in sorted(range(len(values)), key=values.__getitem__):
        if rank_of_last < 0 or values[number] > first * (1 + MEMORY_TOLERANCE):
            first, rank_of_last = values[number], rank_of_last + 1
        ranks[number] = rank_of_last
    return ranks
