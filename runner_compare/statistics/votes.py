"""Exact pass@k (any correct), pass^k (all correct) and maj@k (majority correct) from n answers.

All are exact, unbiased means over all ways to choose k of the n answers. Values with
equally many votes share the election equally, as they would with a random order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb


@dataclass(frozen=True)
class VoteCounts:
    """Number of votes for each answer value, from several answers to one question."""

    # the votes for each right number: one number, unless it has several spellings
    right: tuple[int, ...]
    wrong: tuple[int, ...]  # the votes for each wrong number
    n: int
    solved: int  # the answers that are right, with or without a vote

    def estimate_pass_at_k(self, k: int) -> float:
        """Return the probability that at least one of k answers is correct."""
        return estimate_pass_at_k(k, self.n, self.solved)

    def estimate_pass_hat_k(self, k: int) -> float:
        """Return the probability that all of k answers are correct."""
        return estimate_pass_hat_k(k, self.n, self.solved)

    def estimate_majority_at_k(self, k: int) -> float:
        """Return the probability that the majority vote of k answers is correct."""
        shares = [
            estimate_majority_at_k(
                k, self.n, own_votes, tuple(sorted([*self.right[:at], *self.right[at + 1 :], *self.wrong]))
            )
            for at, own_votes in enumerate(self.right)
        ]
        return float(sum(shares, Fraction(0)))


def reported_answer_counts(n: int) -> list[int]:
    """Return the values of k that are reported for n answers: 1, 2, 4 … and n."""
    return sorted({n, *(1 << power for power in range(n.bit_length()))})


def estimate_pass_at_k(k: int, n: int, num_correct: int) -> float:
    """Return pass@k: 1 - C(n - num_correct, k) / C(n, k)."""
    assert 0 <= num_correct <= n
    assert 1 <= k <= n
    return float(1 - Fraction(comb(n - num_correct, k), comb(n, k)))


def estimate_pass_hat_k(k: int, n: int, num_correct: int) -> float:
    """Return pass^k: C(num_correct, k) / C(n, k)."""
    assert 0 <= num_correct <= n
    assert 1 <= k <= n
    return float(Fraction(comb(num_correct, k), comb(n, k)))


@lru_cache(maxsize=4096)  # many questions have the same counts
def estimate_majority_at_k(
    k: int, n: int, candidate_votes: int, other_vote_counts: tuple[int, ...]
) -> Fraction:
    """Return the probability that one answer value wins a majority vote of k answers.

    `candidate_votes` of the n answers have this value. Ties are shared equally. The probability is
    counted, not simulated. For each number of votes that the value may get, `ways` counts how the
    other values can get no more votes: by their total votes, and by how many of them are tied.
    """
    abstaining = n - candidate_votes - sum(other_vote_counts)
    assert abstaining >= 0
    assert 1 <= k <= n
    probability = Fraction(0)
    for votes in range(1, min(candidate_votes, k) + 1):
        # (votes for rivals, rivals that have as many)
        ways: Counter[tuple[int, int]] = Counter({(0, 0): 1})
        for rival in other_vote_counts:
            ways_with_rival: Counter[tuple[int, int]] = Counter()
            for (rival_votes, tied_rivals), count in ways.items():
                for votes_of_rival in range(min(rival, votes, k - votes - rival_votes) + 1):
                    ways_with_rival[
                        rival_votes + votes_of_rival, tied_rivals + (votes_of_rival == votes)
                    ] += count * comb(rival, votes_of_rival)
            ways = ways_with_rival
        for (rival_votes, tied_rivals), count in ways.items():
            probability += Fraction(
                comb(candidate_votes, votes) * count * comb(abstaining, k - votes - rival_votes),
                1 + tied_rivals,
            )
    return probability / comb(n, k)
