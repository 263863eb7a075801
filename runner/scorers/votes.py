"""Several answers to one question: the majority's answer, and estimates for fewer answers.

Each answer votes for the number that was found in it; an answer that has no number or was cut off
does not vote. The number with the most votes is elected; ties go to the number that came first.
Expressions that are equal count as one number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.scorers.verdicts import Judgement
from runner_base import Verdict
from runner_compare.statistics import VoteCounts


@dataclass(frozen=True)
class Vote(VoteCounts):
    """The result of the votes of one question's answers."""

    answer: str | None  # the number; None without votes
    verdict: Verdict
    winner: int  # the first answer that voted for it; the first of all without votes
    tied: bool  # other numbers had as many votes


def elect(
    judged: Sequence[Judgement],
    by: str,
    among: Callable[[str, Sequence[str]], str] = lambda number, _: number,
) -> Vote:
    """Count the votes of a question's answers, by an extractor or a scorer; a single answer elects
    its own number.

    Of several answers, one that was cut off has no vote, even if its last number happens to be
    right. `among` returns which of other numbers with the same verdict a number is equal to, or
    itself.
    """
    votes: Counter[str] = Counter()
    firsts: dict[str, int] = {}
    for index, answer in enumerate(judged):
        number = answer.found[by]
        has_vote = len(judged) == 1 or not answer.cut_off[by]
        if has_vote and number is not None and answer.verdicts[by] in (Verdict.correct, Verdict.wrong):
            alike = [
                known for known, first in firsts.items() if judged[first].verdicts[by] is answer.verdicts[by]
            ]
            number = among(number, alike)
            votes[number] += 1
            firsts.setdefault(number, index)
    solved = sum(answer.verdicts[by] is Verdict.correct for answer in judged)
    if not votes:
        verdict = Verdict.cut_off if all(answer.cut_off[by] for answer in judged) else Verdict.no_answer
        return Vote((), (), len(judged), solved, None, verdict, 0, False)
    most_votes = max(votes.values())
    # in the order of their first answers
    leading = [number for number, count in votes.items() if count == most_votes]
    is_right = {number: judged[index].verdicts[by] is Verdict.correct for number, index in firsts.items()}
    right, wrong = (
        tuple(votes[vote] for vote in votes if is_right[vote] is expected) for expected in (True, False)
    )
    winner, verdict = firsts[leading[0]], judged[firsts[leading[0]]].verdicts[by]
    return Vote(right, wrong, len(judged), solved, leading[0], verdict, winner, len(leading) > 1)
