"""Whether a model prefers positions among the choices of a question, from answers to it in several
orders.

Without position bias it does not matter in which of its orders a question got which answer: what
was chosen, as a text, can be permuted among the orders. So the test permutes it, and is exact for
any number of questions, any accuracy and any noise. Its statistic is the sum over positions of the
squared difference between how often each was chosen and how often it would be on average over all
permutations (bench/compare/position_null.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner_compare.statistics.clustered_share import clustered_share_interval
from runner_compare.statistics.stats import ALPHA

# of permutations: p is exact in that it is never too small, whatever their number
DRAWS, SEED = 9_999, 0
MOST_NUMBERS = 4_000_000  # of one block of draws


@dataclass(frozen=True)
class AskedInOrders:
    """The answers to one question."""

    choices: int
    shifts: tuple[int, ...]  # by how many positions its choices were moved on, in each order
    picks: tuple[int | None, ...]  # the position that was chosen in each; None: no choice


@dataclass(frozen=True)
class Position:
    """How often one position was chosen."""

    share: float  # of all answers
    low: float  # 95 % for all positions together
    high: float
    expected: float  # without position bias, for the same choices in these orders


@dataclass(frozen=True)
class PositionBias:
    """What the answers say."""

    positions: list[Position]
    p: float  # that no position is preferred

    @property
    def most_preferred(self) -> int:
        """The position that was chosen most above its expectation."""
        return max(
            range(len(self.positions)), key=lambda at: self.positions[at].share - self.positions[at].expected
        )


def position_bias(asked: Sequence[AskedInOrders], draws: int = DRAWS) -> PositionBias:
    """Return the shares of all positions, and whether one is preferred; every question has two or
    more orders."""
    count = max(question.choices for question in asked)
    moved = [_moved(question) for question in asked]
    total = sum(len(question.picks) for question in asked)
    clusters = [at for at, question in enumerate(asked) for _ in question.picks]
    picks = [pick for question in asked for pick in question.picks]
    expected = [_expected(moved, position) for position in range(count)]
    positions = []
    for at in range(count):
        chosen = [pick == at for pick in picks]
        low, high = clustered_share_interval(chosen, clusters, ALPHA / count)
        positions.append(Position(sum(chosen) / total, low, high, expected[at] / total))
    observed = _distance([sum(pick == at for pick in picks) for at in range(count)], expected)
    return PositionBias(positions, _p(moved, expected, observed, draws))


# [order, answer]: where this answer's text stands there; or -1
Moved = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def _moved(question: AskedInOrders) -> Moved:
    """Return where the text that was chosen in each order stands in each order."""
    texts = [
        None if pick is None else (pick - shift)
        for pick, shift in zip(question.picks, question.shifts, strict=True)
    ]
    return np.array(
        [
            [-1 if text is None else (text + shift) % question.choices for text in texts]
            for shift in question.shifts
        ]
    )


def _expected(moved: Sequence[Moved], position: int) -> float:
    """Return how often a position is chosen on average over all permutations of what was chosen."""
    return float(sum((orders == position).sum() / len(orders) for orders in moved))


def _distance(counts: Sequence[float], expected: Sequence[float]) -> float:
    return float(((np.array(counts) - np.array(expected)) ** 2).sum())


def _p(moved: Sequence[Moved], expected: Sequence[float], observed: float, draws: int) -> float:
    """Return the share of permutations whose counts are at least as far from their expectation."""
    # in others nothing changes
    mixed = [orders for orders in moved if any(row[0] != text for row in orders for text in row)]
    if not mixed:
        return 1.0
    fixed = np.array([_expected([orders for orders in moved if not any(orders is question for question in mixed)], at)
                      for at in range(len(expected))])  # fmt: skip
    generator = np.random.default_rng(SEED)
    at_least, done = 0, 0
    while done < draws:
        block = min(draws - done, max(1, MOST_NUMBERS // sum(map(len, mixed))))
        counts = np.tile(fixed, (block, 1))
        for size in {len(orders) for orders in mixed}:
            # [question, order, answer]
            alike = np.stack([orders for orders in mixed if len(orders) == size])
            order = generator.permuted(np.broadcast_to(np.arange(size), (block, len(alike), size)), axis=2)
            places = alike[np.arange(len(alike))[None, :, None], np.arange(size)[None, None, :], order]
            for position in range(len(expected)):
                counts[:, position] += (places == position).sum((1, 2))
        distances = ((counts - np.array(expected)) ** 2).sum(1)
        at_least += int((distances >= observed * (1 - 1e-9) - 1e-9).sum())
        done += block
    return (1 + at_least) / (1 + draws)
