"""Permutation test for position bias: whether a model prefers answer choices at certain positions.

Without position bias, the chosen text does not depend on the order of the choices, so the
chosen texts can be permuted among the orders. The test is exact for any number of
questions, any accuracy and any noise. Its statistic is the sum over positions of the
squared difference between how often each was chosen and its mean over all permutations
(bench/compare/position_null.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner_compare.statistics.accuracy_intervals import clustered_accuracy_interval
from runner_compare.statistics.stats import ALPHA

# of permutations: p is exact in that it is never too small, whatever their number
DRAWS, SEED = 9_999, 0
MOST_NUMBERS = 4_000_000  # of one block of draws


@dataclass(frozen=True)
class QuestionInOrders:
    """Answers to one question whose choices were presented in several orders."""

    choices: int
    shifts: tuple[int, ...]  # by how many positions its choices were moved on, in each order
    picks: tuple[int | None, ...]  # the position that was chosen in each; None: no choice


@dataclass(frozen=True)
class PositionPreference:
    """Frequency with which a model chose one position, with a confidence interval."""

    share: float  # of all answers
    low: float  # 95 % for all positions together
    high: float
    expected: float  # without position bias, for the same choices in these orders


@dataclass(frozen=True)
class PositionBias:
    """Result of the position-bias test: the choice frequency of each position, and the p-value."""

    positions: list[PositionPreference]
    p: float  # that no position is preferred

    @property
    def most_preferred(self) -> int:
        """Position whose choice frequency is furthest above the expected frequency."""
        return max(
            range(len(self.positions)), key=lambda at: self.positions[at].share - self.positions[at].expected
        )


def measure_position_bias(
    questions: Sequence[QuestionInOrders], num_permutations: int = DRAWS
) -> PositionBias:
    """Test whether a model prefers a position. Each question needs answers in two or more orders."""
    count = max(question.choices for question in questions)
    moved = [_compute_picked_choice_positions(question) for question in questions]
    total = sum(len(question.picks) for question in questions)
    clusters = [at for at, question in enumerate(questions) for _ in question.picks]
    picks = [pick for question in questions for pick in question.picks]
    expected = [_expected_count(moved, position) for position in range(count)]
    positions = []
    for at in range(count):
        chosen = [pick == at for pick in picks]
        low, high = clustered_accuracy_interval(chosen, clusters, ALPHA / count)
        positions.append(PositionPreference(sum(chosen) / total, low, high, expected[at] / total))
    observed = _squared_distance([sum(pick == at for pick in picks) for at in range(count)], expected)
    return PositionBias(positions, _compute_permutation_p_value(moved, expected, observed, num_permutations))


# [order, answer]: where this answer's text stands there; or -1
PositionMatrix = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def _compute_picked_choice_positions(question: QuestionInOrders) -> PositionMatrix:
    """Return the position of each chosen text in each order, as a matrix [order, answer].

    Position -1 stands for a missing answer.
    """
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


def _expected_count(text_positions: Sequence[PositionMatrix], position: int) -> float:
    """Return the expected choice frequency of a position if choices do not depend on positions."""
    return float(sum((orders == position).sum() / len(orders) for orders in text_positions))


def _squared_distance(counts: Sequence[float], expected: Sequence[float]) -> float:
    return float(((np.array(counts) - np.array(expected)) ** 2).sum())


def _compute_permutation_p_value(
    text_positions: Sequence[PositionMatrix],
    expected_counts: Sequence[float],
    observed_distance: float,
    num_permutations: int,
) -> float:
    # in others nothing changes
    mixed = [orders for orders in text_positions if any(row[0] != text for row in orders for text in row)]
    if not mixed:
        return 1.0
    unmixed = [orders for orders in text_positions if not any(orders is question for question in mixed)]
    fixed = np.array([_expected_count(unmixed, at) for at in range(len(expected_counts))])
    generator = np.random.default_rng(SEED)
    at_least, done = 0, 0
    while done < num_permutations:
        block = min(num_permutations - done, max(1, MOST_NUMBERS // sum(map(len, mixed))))
        counts = np.tile(fixed, (block, 1))
        for size in {len(orders) for orders in mixed}:
            # [question, order, answer]
            alike = np.stack([orders for orders in mixed if len(orders) == size])
            order = generator.permuted(np.broadcast_to(np.arange(size), (block, len(alike), size)), axis=2)
            places = alike[np.arange(len(alike))[None, :, None], np.arange(size)[None, None, :], order]
            for position in range(len(expected_counts)):
                counts[:, position] += (places == position).sum((1, 2))
        distances = ((counts - np.array(expected_counts)) ** 2).sum(1)
        at_least += int((distances >= observed_distance * (1 - 1e-9) - 1e-9).sum())
        done += block
    return (1 + at_least) / (1 + num_permutations)
