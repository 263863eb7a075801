"""Several answers to one question: the majority's answer, and estimates for fewer answers.

Each answer votes for the number that was found in it; an answer that has no number or was cut off
does not vote. The number with the most votes is elected; ties go to the number that came first.
Expressions that are equal count as one number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from runner.scorers.verdicts import Judgement
from runner_base import Verdict
from runner_compare.statistics import all_at, majority_at, pass_at


@dataclass(frozen=True)
class Vote:
    """The result of the votes of one question's answers."""

    answer: str | None  # the number; None without votes
    verdict: Verdict
    winner: int  # the first answer that voted for it; the first of all without votes
    tied: bool  # other numbers had as many votes
    # the votes for each right number: one number, unless it has several spellings
    right: tuple[int, ...]
    wrong: tuple[int, ...]  # the votes for each wrong number
    n: int
    solved: int  # the answers that are right, with or without a vote

    def pass_at(self, k: int) -> float:
        """Return the probability that k of the answers include a right one."""
        return pass_at(k, self.n, self.solved)

    def all_at(self, k: int) -> float:
        """Return the probability that k of the answers are all right."""
        return all_at(k, self.n, self.solved)

    def majority_at(self, k: int) -> float:
        """Return the probability that k of the answers elect a right number."""
        shares = [
            majority_at(
                k, self.n, own_votes, tuple(sorted([*self.right[:at], *self.right[at + 1 :], *self.wrong]))
            )
            for at, own_votes in enumerate(self.right)
        ]
        return float(sum(shares, Fraction(0)))


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
        return Vote(None, verdict, 0, False, (), (), len(judged), solved)
    most_votes = max(votes.values())
    # in the order of their first answers
    leading = [number for number, count in votes.items() if count == most_votes]
    is_right = {number: judged[index].verdicts[by] is Verdict.correct for number, index in firsts.items()}
    right, wrong = (
        tuple(votes[vote] for vote in votes if is_right[vote] is expected) for expected in (True, False)
    )
    winner, verdict = firsts[leading[0]], judged[firsts[leading[0]]].verdicts[by]
    return Vote(leading[0], verdict, winner, len(leading) > 1, right, wrong, len(judged), solved)
