"""Computes token costs: tokens per question, correct answers per 1,000 tokens, and savings of agent teams.

Every metric has a 95 % interval over questions (or clusters) and, with several seeds, over
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import NamedTuple

from runner_compare.statistics.seed_means import CrossedMean, SeedQuestionMatrix
from runner_compare.statistics.stats import ALPHA

PER = 1000  # tokens


class Estimate(NamedTuple):
    """An estimated value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class TokenFinding(StrEnum):
    """Finding on whether a run needs fewer or more tokens than its baseline."""

    saves = "saves"
    costs_more = "costs more"
    open = "no difference shown"


@dataclass(frozen=True)
class TokenCells:
    """Tokens and verdicts of a run as matrices: one row per seed, one column per question."""

    prompt: SeedQuestionMatrix
    new: SeedQuestionMatrix
    solved: SeedQuestionMatrix  # the share of right answers to the question: of a single one 1 or 0
    clusters: Sequence[Hashable] | None = None  # the family of each question

    @property
    def total_tokens(self) -> SeedQuestionMatrix:
        return [
            [prompt_tokens + new_tokens for prompt_tokens, new_tokens in zip(*rows, strict=True)]
            for rows in zip(self.prompt, self.new, strict=True)
        ]


@dataclass(frozen=True)
class TokenCost:
    """Token cost of a run's scored questions."""

    questions: int
    seeds: int
    prompt_a_question: float
    new_a_question: float
    tokens_a_question: Estimate
    correct_per_1000: Estimate

    @classmethod
    def from_cells(cls, cells: TokenCells, accuracy: Estimate) -> TokenCost | None:
        """Compute the token cost, given the accuracy with its interval; None without token counts."""
        both = cells.total_tokens
        mean = CrossedMean.from_values(both, cells.clusters)
        if mean.mean <= 0:
            return None
        tokens = Estimate(mean.mean, *mean.compute_interval())
        correlation = compute_correlation_between_means(cells.solved, both, cells.clusters)
        low, high = compute_estimate_ratio_interval(accuracy, tokens, correlation)
        per_1000 = Estimate(*(PER * value for value in (accuracy.value / tokens.value, low, high)))
        prompt, new = (fmean(map(fmean, side)) for side in (cells.prompt, cells.new))
        return cls(len(both[0]), len(both), prompt, new, tokens, per_1000)


@dataclass
class TokenSaving:
    """Tokens per question that a run saves compared with its baseline, on shared questions."""

    questions: int
    prompt: Estimate  # baseline minus run: above 0, the run saves
    new: Estimate
    both: Estimate
    share: float  # of the baseline's tokens; below 0, what it costs more
    p: float
    training_tokens: float = 0.0  # what training cost beyond that of the baseline
    p_holm: float = 1.0
    finding: TokenFinding = TokenFinding.open

    @classmethod
    def from_cells(
        cls, cells: TokenCells, base_cells: TokenCells, training_tokens: float = 0.0
    ) -> TokenSaving:
        prompt, new, both = (
            CrossedMean.from_difference(*sides, cells.clusters)
            for sides in (
                (base_cells.prompt, cells.prompt),
                (base_cells.new, cells.new),
                (base_cells.total_tokens, cells.total_tokens),
            )
        )
        units = len(base_cells.total_tokens[0]) if cells.clusters is None else len(set(cells.clusters))
        # that of as many equal signs: so few questions can show no more
        p = max(both.p_value(), 2.0 ** (1 - units))
        low, high = both.compute_interval()
        if p >= ALPHA:  # the test decides
            low, high = min(low, 0.0), max(high, 0.0)
        whole = fmean(map(fmean, base_cells.total_tokens))
        return cls(
            len(base_cells.total_tokens[0]),
            Estimate(prompt.mean, *prompt.compute_interval()),
            Estimate(new.mean, *new.compute_interval()),
            Estimate(both.mean, low, high),
            both.mean / whole if whole else 0.0,
            p,
            training_tokens,
        )

    @property
    def break_even_question_count(self) -> Estimate | None:
        """Number of questions after which the token savings exceed the training tokens.

        None if training used no tokens, or if the run saves none.
        """
        if self.training_tokens <= 0 or self.finding is not TokenFinding.saves:
            return None
        value, low, high = self.both
        questions = [
            compute_break_even_questions(self.training_tokens, 0.0, saved) for saved in (value, high, low)
        ]
        return Estimate(*(math.inf if question is None else question for question in questions))


def compute_break_even_questions(
    train_tokens: float, tokens_per_question: float, other_tokens_per_question: float
) -> float | None:
    """Return the number of questions after which token savings exceed the training tokens.

    None if the run saves no tokens.
    """
    saved = other_tokens_per_question - tokens_per_question
    return train_tokens / saved if saved > 0 else None


def estimate_cost_per_correct_answer(
    cells: TokenCells, accuracy: Estimate, cost: float, prompt_fraction: float
) -> Estimate | None:
    """Return the cost per correct answer with its interval; None without tokens or correct answers.

    The cost includes wrong answers. `prompt_fraction` is the part of the cost that is due to
    prompt tokens. Tokens of a question are a sample, like its answers. Variation of the time of
    the same job is not included.
    """
    means = [fmean(map(fmean, side)) for side in (cells.prompt, cells.new)]
    weights = [
        part / mean if mean > 0 else 0.0
        for part, mean in zip((prompt_fraction, 1 - prompt_fraction), means, strict=True)
    ]
    spent = [
        [weights[0] * prompt + weights[1] * new for prompt, new in zip(*rows, strict=True)]
        for rows in zip(cells.prompt, cells.new, strict=True)
    ]
    mean = CrossedMean.from_values(spent, cells.clusters)
    if mean.mean <= 0 or accuracy.value <= 0:
        return None
    correlation = compute_correlation_between_means(cells.solved, spent, cells.clusters)
    low, high = compute_estimate_ratio_interval(
        accuracy, Estimate(mean.mean, *mean.compute_interval()), correlation
    )
    ends = (cost * accuracy.value / mean.mean / end if end > 0 else math.inf for end in (high, low))
    return Estimate(cost, *ends)


def compute_correlation_between_means(
    cells: SeedQuestionMatrix, other_cells: SeedQuestionMatrix, clusters: Sequence[Hashable] | None = None
) -> float:
    """Return the correlation between two means over the same questions and seeds; 0 without
    variation.
    """
    errors = [CrossedMean.from_values(side, clusters).standard_error for side in (cells, other_cells)]
    if not all(errors) or any(map(math.isinf, errors)):
        return 0.0
    sums = [
        [first / errors[0] + second / errors[1] for first, second in zip(*rows, strict=True)]
        for rows in zip(cells, other_cells, strict=True)
    ]
    return max(-1.0, min(1.0, CrossedMean.from_values(sums, clusters).standard_error ** 2 / 2 - 1))


def compute_estimate_ratio_interval(
    numerator: Estimate, denominator: Estimate, correlation: float
) -> tuple[float, float]:
    """Return the confidence interval of a ratio of two estimates, given their correlation.

    Donner and Zou's method of variance estimates recovery (Statistical Methods in Medical
    Research 21, 2012): an end of the interval is the ratio R at which the interval of numerator
    - R * denominator ends at 0. So it stays asymmetric where that of the accuracy is: with all
    questions solved, the ratio may still be lower. The upper end is infinite if the denominator
    may be 0.
    """
    product = numerator.value * denominator.value

    def compute_ratio_interval_bound(numerator_error: float, denominator_error: float, sign: int) -> float:
        squares = denominator.value**2 - denominator_error**2
        if squares <= 0 or math.isinf(denominator_error):
            return 0.0 if sign < 0 else math.inf
        middle = product - correlation * numerator_error * denominator_error
        radicand = middle**2 - squares * (numerator.value**2 - numerator_error**2)
        return max(0.0, (middle + sign * math.sqrt(max(0.0, radicand))) / squares)

    low = compute_ratio_interval_bound(
        numerator.value - numerator.low, denominator.high - denominator.value, -1
    )
    high = compute_ratio_interval_bound(
        numerator.high - numerator.value, denominator.value - denominator.low, 1
    )
    return min(low, numerator.value / denominator.value), max(high, numerator.value / denominator.value)
