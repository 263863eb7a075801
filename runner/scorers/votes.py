"""Several answers to one question: the majority's, and what fewer answers would have come to.

Each answer votes for the number that was found in it; one without a number, or that was cut off, votes for none. The
number with the most votes is elected, and of several with as many, the one that came first. pass@k and maj@k are means
over all ways to choose k of the n answers, exact and without a bias: of a tie, each number has an equal share, which is
what the rule comes to where the order is left to chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb

from runner.config.task import Extractor
from runner.core.result import BranchText, Verdict
from runner.scorers.verdicts import judge, was_cut_off


@dataclass(frozen=True)
class Vote:
    """What the answers to one question have elected."""

    answer: str | None  # the number; None where nobody has voted
    verdict: Verdict
    winner: int  # the first of the answers that voted for it; the first one of all where nobody has voted
    tied: bool  # other numbers had as many votes
    right: tuple[int, ...]  # how many voted for each right number: one, unless it is found in several spellings
    wrong: tuple[int, ...]  # how many voted for each wrong one
    n: int

    def pass_at(self, k: int) -> float:
        """Return the chance that among k of the answers is a right one."""
        return pass_at(k, self.n, sum(self.right))

    def majority_at(self, k: int) -> float:
        """Return the chance that k of the answers elect a right number."""
        shares = [
            majority_at(k, self.n, mine, tuple(sorted([*self.right[:at], *self.right[at + 1 :], *self.wrong])))
            for at, mine in enumerate(self.right)
        ]
        return float(sum(shares, Fraction(0)))


def elect(answers: Sequence[BranchText], gold: str, extractor: Extractor) -> Vote:
    """Count the votes of a question's answers; a single answer elects what it says.

    One of several that was cut off has no vote, also where the last number in it happens to be the right one.
    """
    judged = [judge(one.text, one.finish_reason, gold, extractor) for one in answers]
    votes: Counter[str] = Counter()
    firsts: dict[str, int] = {}
    for place, (found, verdict) in enumerate(judged):
        number = found[extractor.value]
        votes_too = len(answers) == 1 or not was_cut_off(found, answers[place].finish_reason, extractor)
        if votes_too and number is not None and verdict in (Verdict.correct, Verdict.wrong):
            votes[number] += 1
            firsts.setdefault(number, place)
    if not votes:
        all_cut_off = all(
            was_cut_off(found, one.finish_reason, extractor) for (found, _), one in zip(judged, answers, strict=True)
        )
        return Vote(None, Verdict.cut_off if all_cut_off else Verdict.no_answer, 0, False, (), (), len(judged))
    most = max(votes.values())
    leading = [number for number, count in votes.items() if count == most]  # in the order in which they came
    is_right = {number: judged[place][1] is Verdict.correct for number, place in firsts.items()}
    right, wrong = (tuple(votes[it] for it in votes if is_right[it] is side) for side in (True, False))
    winner = firsts[leading[0]]
    return Vote(leading[0], judged[winner][1], winner, len(leading) > 1, right, wrong, len(judged))


def sizes(n: int) -> list[int]:
    """Return the numbers of answers that are told of: 1, 2, 4 … and n."""
    return sorted({n, *(1 << power for power in range(n.bit_length()))})


def pass_at(k: int, n: int, right: int) -> float:
    """Return 1 - C(n - right, k) / C(n, k)."""
    assert 0 <= right <= n
    assert 1 <= k <= n
    return float(1 - Fraction(comb(n - right, k), comb(n, k)))


@lru_cache(maxsize=4096)  # questions come out in few ways
def majority_at(k: int, n: int, mine: int, rivals: tuple[int, ...]) -> Fraction:
    """Return the chance that a number with `mine` of n votes is elected by k of them, a tie shared equally.

    Counted, not drawn. For each number of votes that it may get, the ways in which the rivals get no more of the
    others: by how many votes they have together, and by how many of them have as many as it.
    """
    silent = n - mine - sum(rivals)
    assert silent >= 0
    assert 1 <= k <= n
    chance = Fraction(0)
    for votes in range(1, min(mine, k) + 1):
        ways: Counter[tuple[int, int]] = Counter({(0, 0): 1})  # (votes for rivals, rivals that have as many)
        for rival in rivals:
            grown: Counter[tuple[int, int]] = Counter()
            for (together, level), count in ways.items():
                for theirs in range(min(rival, votes, k - votes - together) + 1):
                    grown[together + theirs, level + (theirs == votes)] += count * comb(rival, theirs)
            ways = grown
        for (together, level), count in ways.items():
            chance += Fraction(comb(mine, votes) * count * comb(silent, k - votes - together), 1 + level)
    return chance / comb(n, k)
