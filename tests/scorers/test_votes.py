"""Votes and estimators: the counted results equal those of trying all subsets."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.extractors import Extractor
from runner.scorers.verdicts import judge_answer
from runner.scorers.votes import VoteResult, count_majority_votes
from runner_base.result import Answer, FinishReason, Verdict
from runner_compare.statistics.votes import reported_answer_counts

GOLD = "7"
SILENT = "I do not know"
answers_given = st.lists(st.sampled_from([GOLD, "1", "2", "3", SILENT]), min_size=1, max_size=6)


def answers_of(*answers: str, reason: FinishReason = FinishReason.stop) -> list[Answer]:
    return [Answer(one if one == SILENT else f"so\n#### {one}", [1], reason) for one in answers]


def voted(answers: list[Answer], by: Extractor = Extractor.strict) -> VoteResult:
    return count_majority_votes([judge_answer(one, GOLD) for one in answers], by)


def vote_of(*answers: str) -> VoteResult:
    return voted(answers_of(*answers))


def wins(answers: tuple[str, ...]) -> bool:
    """Whether the gold answer has the most votes; ties go to the first."""
    votes = Counter(one for one in answers if one != SILENT)
    return bool(votes) and max(votes, key=lambda one: votes[one]) == GOLD


@pytest.mark.thorough
@settings(max_examples=60)
@given(answers_given)
def test_pass_and_majority_are_the_means_over_all_subsets_in_all_orders(answers: list[str]) -> None:
    vote = vote_of(*answers)
    for k in range(1, len(answers) + 1):
        subsets = [*combinations(answers, k)]
        assert vote.estimate_pass_at_k(k) == pytest.approx(mean(GOLD in some for some in subsets))
        assert vote.estimate_pass_hat_k(k) == pytest.approx(mean({*some} == {GOLD} for some in subsets))
        assert vote.estimate_majority_at_k(k) == pytest.approx(mean(map(wins, permutations(answers, k))))


def test_the_majority_is_elected_and_the_first_of_a_tie() -> None:
    assert vote_of("1", GOLD, GOLD).answer == GOLD
    assert vote_of("1", GOLD, GOLD).winner == 1
    tie = vote_of("1", GOLD, SILENT, GOLD, "1")
    assert (tie.answer, tie.verdict, tie.tied, tie.winner) == ("1", Verdict.wrong, True, 0)
    assert tie.estimate_majority_at_k(5) == 0.5
    assert vote_of(GOLD, "1").verdict is Verdict.correct


def test_an_answer_without_a_number_has_no_vote() -> None:
    assert vote_of(SILENT, SILENT, GOLD).verdict is Verdict.correct
    assert vote_of(SILENT, SILENT).verdict is Verdict.no_answer
    cut = voted(answers_of(SILENT, SILENT, reason=FinishReason.length))
    assert (cut.verdict, cut.answer) == (Verdict.cut_off, None)
    half_cut = voted(answers_of(SILENT, reason=FinishReason.length) + answers_of(SILENT))
    assert half_cut.verdict is Verdict.no_answer
    half = [Answer("12 and then 7", [1], FinishReason.length), *answers_of("3")]
    assert voted(half, Extractor.flexible).answer == "3", (
        "a text that was cut off has no answer, even if it has a number"
    )


def test_many_answers_are_counted_without_trying_all_subsets() -> None:
    vote = vote_of(*[GOLD] * 30, *["1"] * 30, *["2"] * 20, *[SILENT] * 20)
    assert vote.estimate_majority_at_k(100) == 0.5
    assert vote.estimate_majority_at_k(1) == pytest.approx(0.3)
    assert 0.3 < vote.estimate_majority_at_k(16) < vote.estimate_majority_at_k(32) < 0.5


@pytest.mark.parametrize(("n", "expected"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_sizes(n: int, expected: list[int]) -> None:
    assert reported_answer_counts(n) == expected


def test_an_answer_that_was_cut_off_behind_a_right_step_counts_as_alone_and_has_no_vote() -> None:
    cut_off = Answer(f"so {GOLD}, and", [1], FinishReason.length)
    assert voted([cut_off], Extractor.flexible).estimate_pass_at_k(1) == 1.0, "as for lm-eval"
    several = voted([cut_off, *answers_of("1", "1", SILENT)], Extractor.flexible)
    assert (several.estimate_pass_at_k(1), several.right) == (0.25, ())
    assert several.verdict is Verdict.wrong
