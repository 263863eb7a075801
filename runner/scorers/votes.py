"""Several answers to one question: the majority's answer, and estimates for fewer answers.

Each answer votes for the number that was found in it; an answer that has no number or was cut off does not vote. The
number with the most votes is elected; ties go to the number that came first. Expressions that are equal count as one
number. pass@k (one of k is right), pass^k (all are) and maj@k are exact, unbiased means over all ways to choose k of
the n answers: the numbers of a tie share it equally, as they would with a random order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb

from runner.scorers.verdicts import Judgement
from runner_base.result import Verdict


@dataclass(frozen=True)
class Vote:
    """The result of the votes of one question's answers."""

    answer: str | None  # the number; None without votes
    verdict: Verdict
    winner: int  # the first answer that voted for it; the first of all without votes
    tied: bool  # other numbers had as many votes
    right: tuple[int, ...]  # the votes for each right number: one number, unless it has several spellings
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
            majority_at(k, self.n, mine, tuple(sorted([*self.right[:at], *self.right[at + 1 :], *self.wrong])))
            for at, mine in enumerate(self.right)
        ]
        return float(sum(shares, Fraction(0)))


def elect(
    judged: Sequence[Judgement], by: str, among: Callable[[str, Sequence[str]], str] = lambda number, _: number
) -> Vote:
    """Count the votes of a question's answers, by an extractor or a scorer; a single answer elects its own number.

    Of several answers, one that was cut off has no vote, even if its last number happens to be right. `among` returns
    which of other numbers with the same verdict a number is equal to, or itself.
    """
    votes: Counter[str] = Counter()
    firsts: dict[str, int] = {}
    for place, one in enumerate(judged):
        number = one.found[by]
        has_vote = len(judged) == 1 or not one.cut_off[by]
        if has_vote and number is not None and one.verdicts[by] in (Verdict.correct, Verdict.wrong):
            alike = [it for it, first in firsts.items() if judged[first].verdicts[by] is one.verdicts[by]]
            number = among(number, alike)
            votes[number] += 1
            firsts.setdefault(number, place)
    solved = sum(one.verdicts[by] is Verdict.correct for one in judged)
    if not votes:
        verdict = Verdict.cut_off if all(one.cut_off[by] for one in judged) else Verdict.no_answer
        return Vote(None, verdict, 0, False, (), (), len(judged), solved)
    most_votes = max(votes.values())
    leading = [number for number, count in votes.items() if count == most_votes]  # in the order of their first answers
    is_right = {number: judged[place].verdicts[by] is Verdict.correct for number, place in firsts.items()}
    right, wrong = (tuple(votes[it] for it in votes if is_right[it] is expected) for expected in (True, False))
    winner, verdict = firsts[leading[0]], judged[firsts[leading[0]]].verdicts[by]
    return Vote(leading[0], verdict, winner, len(leading) > 1, right, wrong, len(judged), solved)


def sizes(n: int) -> list[int]:
    """Return the numbers of answers to report: 1, 2, 4 … and n."""
    return sorted({n, *(1 << power for power in range(n.bit_length()))})


def pass_at(k: int, n: int, right: int) -> float:
    """Return 1 - C(n - right, k) / C(n, k)."""
    assert 0 <= right <= n
    assert 1 <= k <= n
    return float(1 - Fraction(comb(n - right, k), comb(n, k)))


def all_at(k: int, n: int, right: int) -> float:
    """Return C(right, k) / C(n, k): pass^k."""
    assert 0 <= right <= n
    assert 1 <= k <= n
    return float(Fraction(comb(right, k), comb(n, k)))


@lru_cache(maxsize=4096)  # many questions have the same counts
def majority_at(k: int, n: int, mine: int, rivals: tuple[int, ...]) -> Fraction:
    """Return the probability that k of n answers elect a number with `mine` votes, a tie shared equally.

    It is counted, not simulated. For each number of votes that the number may get, `ways` counts how the rivals can get
    no more than that: by their total votes, and by how many of them are tied with it.
    """
    abstaining = n - mine - sum(rivals)
    assert abstaining >= 0
    assert 1 <= k <= n
    probability = Fraction(0)
    for votes in range(1, min(mine, k) + 1):
        ways: Counter[tuple[int, int]] = Counter({(0, 0): 1})  # (votes for rivals, rivals that have as many)
        for rival in rivals:
            ways_with_rival: Counter[tuple[int, int]] = Counter()
            for (rival_votes, tied_rivals), count in ways.items():
                for theirs in range(min(rival, votes, k - votes - rival_votes) + 1):
                    ways_with_rival[rival_votes + theirs, tied_rivals + (theirs == votes)] += count * comb(
                        rival, theirs
                    )
            ways = ways_with_rival
        for (rival_votes, tied_rivals), count in ways.items():
            probability += Fraction(
                comb(mine, votes) * count * comb(abstaining, k - votes - rival_votes), 1 + tied_rivals
            )
    return probability / comb(n, k)
