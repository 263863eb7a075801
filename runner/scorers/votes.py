"""Majority votes over several answers to one question, and estimates for smaller numbers of answers.

Each answer votes for the number that was found in it; an answer that has no number or was
truncated does not vote. The number with the most votes is elected; ties go to the number that
came first. Expressions that are equal count as one number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.scorers.verdicts import Judgement
from runner_base import Verdict
from runner_compare.statistics import VoteCounts


@dataclass(frozen=True)
class VoteResult(VoteCounts):
    """Result of the majority vote over one question's answers."""

    answer: str | None  # the number; None without votes
    verdict: Verdict
    winner: int  # the first answer that voted for it; the first of all without votes
    tied: bool  # other numbers had as many votes


def count_majority_votes(
    judgements: Sequence[Judgement],
    extractor_name: str,
    find_equal: Callable[[str, Sequence[str]], str] = lambda number, _: number,
) -> VoteResult:
    """Count the majority vote among one question's answers.

    Of several answers, a truncated one has no vote, even if its last number happens to be right.
    A single answer always wins. `find_equal` returns the equal one of other numbers with the same
    verdict, or the number itself.
    """
    votes: Counter[str] = Counter()
    firsts: dict[str, int] = {}
    for index, answer in enumerate(judgements):
        number = answer.found[extractor_name]
        has_vote = len(judgements) == 1 or not answer.cut_off[extractor_name]
        if (
            has_vote
            and number is not None
            and answer.verdicts[extractor_name] in (Verdict.correct, Verdict.wrong)
        ):
            alike = [
                known
                for known, first in firsts.items()
                if judgements[first].verdicts[extractor_name] is answer.verdicts[extractor_name]
            ]
            number = find_equal(number, alike)
            votes[number] += 1
            firsts.setdefault(number, index)
    solved = sum(answer.verdicts[extractor_name] is Verdict.correct for answer in judgements)
    if not votes:
        verdict = (
            Verdict.cut_off
            if all(answer.cut_off[extractor_name] for answer in judgements)
            else Verdict.no_answer
        )
        return VoteResult((), (), len(judgements), solved, None, verdict, 0, False)
    most_votes = max(votes.values())
    # in the order of their first answers
    leading = [number for number, count in votes.items() if count == most_votes]
    is_right = {
        number: judgements[index].verdicts[extractor_name] is Verdict.correct
        for number, index in firsts.items()
    }
    right, wrong = (
        tuple(votes[vote] for vote in votes if is_right[vote] is expected) for expected in (True, False)
    )
    winner, verdict = firsts[leading[0]], judgements[firsts[leading[0]]].verdicts[extractor_name]
    return VoteResult(right, wrong, len(judgements), solved, leading[0], verdict, winner, len(leading) > 1)
