"""What k of n answers to a question come to: pass@k (one is right), pass^k (all are), maj@k (they
elect a right one).

All are exact, unbiased means over all ways to choose k of the n answers: the numbers of a tie share
it equally, as they would with a random order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb


@dataclass(frozen=True)
class VoteCounts:
    """The votes of the answers to one question."""

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
def majority_at(k: int, n: int, own_votes: int, rivals: tuple[int, ...]) -> Fraction:
    """Return the probability that k of n answers elect a number with `own_votes`, a tie shared
    equally.

    It is counted, not simulated. For each number of votes that the number may get, `ways` counts
    how the rivals can get no more than that: by their total votes, and by how many of them are tied
    with it.
    """
    abstaining = n - own_votes - sum(rivals)
    assert abstaining >= 0
    assert 1 <= k <= n
    probability = Fraction(0)
    for votes in range(1, min(own_votes, k) + 1):
        # (votes for rivals, rivals that have as many)
        ways: Counter[tuple[int, int]] = Counter({(0, 0): 1})
        for rival in rivals:
            ways_with_rival: Counter[tuple[int, int]] = Counter()
            for (rival_votes, tied_rivals), count in ways.items():
                for votes_of_rival in range(min(rival, votes, k - votes - rival_votes) + 1):
                    ways_with_rival[
                        rival_votes + votes_of_rival, tied_rivals + (votes_of_rival == votes)
                    ] += count * comb(rival, votes_of_rival)
            ways = ways_with_rival
        for (rival_votes, tied_rivals), count in ways.items():
            probability += Fraction(
                comb(own_votes, votes) * count * comb(abstaining, k - votes - rival_votes), 1 + tied_rivals
            )
    return probability / comb(n, k)
