"""What answers cost in tokens: tokens a question, right answers per 1,000 tokens, and what one team
saves of another's.

Every figure has a 95 % interval over questions (or families of questions) and, where several seeds
answered them, over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import NamedTuple

from runner_compare.statistics.over_seeds import Cells, CrossedMean
from runner_compare.statistics.stats import ALPHA

PER = 1000  # tokens


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class TokenFinding(StrEnum):
    """The possible findings about the tokens of two teams."""

    saves = "saves"
    costs_more = "costs more"
    open = "no difference shown"


@dataclass(frozen=True)
class TokenCells:
    """The tokens and verdicts of a run: a row for each seed, and in each row a value for each
    question."""

    prompt: Cells
    new: Cells
    solved: Cells  # the share of right answers to the question: of a single one 1 or 0
    clusters: Sequence[Hashable] | None = None  # the family of each question

    @property
    def both(self) -> Cells:
        return [
            [prompt_tokens + new_tokens for prompt_tokens, new_tokens in zip(*rows, strict=True)]
            for rows in zip(self.prompt, self.new, strict=True)
        ]


@dataclass(frozen=True)
class TokenCost:
    """What the scored questions of a run cost."""

    questions: int
    seeds: int
    prompt_a_question: float
    new_a_question: float
    tokens_a_question: Estimate
    correct_per_1000: Estimate

    @classmethod
    def of(cls, cells: TokenCells, accuracy: Estimate) -> TokenCost | None:
        """Compute it, with the interval that the accuracy has elsewhere; None if no tokens were
        counted."""
        both = cells.both
        mean = CrossedMean.of(both, cells.clusters)
        if mean.mean <= 0:
            return None
        tokens = Estimate(mean.mean, *mean.interval())
        correlation = correlation_of_means(cells.solved, both, cells.clusters)
        low, high = ratio_of_estimates(accuracy, tokens, correlation)
        per_1000 = Estimate(*(PER * value for value in (accuracy.value / tokens.value, low, high)))
        prompt, new = (fmean(map(fmean, side)) for side in (cells.prompt, cells.new))
        return cls(len(both[0]), len(both), prompt, new, tokens, per_1000)


@dataclass
class TokenSaving:
    """How many tokens a question a run takes less than its baseline, on the questions that both
    answered."""

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
    def of(cls, cells: TokenCells, base_cells: TokenCells, training_tokens: float = 0.0) -> TokenSaving:
        """Compare the tokens of two runs question by question."""
        prompt, new, both = (
            CrossedMean.difference(*sides, cells.clusters)
            for sides in (
                (base_cells.prompt, cells.prompt),
                (base_cells.new, cells.new),
                (base_cells.both, cells.both),
            )
        )
        units = len(base_cells.both[0]) if cells.clusters is None else len(set(cells.clusters))
        # that of as many equal signs: so few questions can show no more
        p = max(both.p(), 2.0 ** (1 - units))
        low, high = both.interval()
        if p >= ALPHA:  # the test decides
            low, high = min(low, 0.0), max(high, 0.0)
        whole = fmean(map(fmean, base_cells.both))
        return cls(
            len(base_cells.both[0]),
            Estimate(prompt.mean, *prompt.interval()),
            Estimate(new.mean, *new.interval()),
            Estimate(both.mean, low, high),
            both.mean / whole if whole else 0.0,
            p,
            training_tokens,
        )

    @property
    def paid_back_after(self) -> Estimate | None:
        """After how many questions training has paid for itself; None if it cost nothing, or
        nothing is saved."""
        if self.training_tokens <= 0 or self.finding is not TokenFinding.saves:
            return None
        value, low, high = self.both
        questions = [break_even(self.training_tokens, 0.0, saved) for saved in (value, high, low)]
        return Estimate(*(math.inf if question is None else question for question in questions))


def break_even(
    train_tokens: float, tokens_per_question: float, other_tokens_per_question: float
) -> float | None:
    """Return after how many questions training has cost less than it saves; None if it never
    does."""
    saved = other_tokens_per_question - tokens_per_question
    return train_tokens / saved if saved > 0 else None


def right_answer_cost(
    cells: TokenCells, accuracy: Estimate, cost: float, prompt_part: float
) -> Estimate | None:
    """Return what a right answer costs, with the wrong ones, and its interval over questions; None
    if there are no tokens or no right answers.

    `prompt_part` is the part of the cost that is due to prompt tokens. Like the answers, the tokens
    of a question are a sample. That the same job may take longer another time is not counted.
    """
    means = [fmean(map(fmean, side)) for side in (cells.prompt, cells.new)]
    weights = [
        part / mean if mean > 0 else 0.0
        for part, mean in zip((prompt_part, 1 - prompt_part), means, strict=True)
    ]
    spent = [
        [weights[0] * prompt + weights[1] * new for prompt, new in zip(*rows, strict=True)]
        for rows in zip(cells.prompt, cells.new, strict=True)
    ]
    mean = CrossedMean.of(spent, cells.clusters)
    if mean.mean <= 0 or accuracy.value <= 0:
        return None
    correlation = correlation_of_means(cells.solved, spent, cells.clusters)
    low, high = ratio_of_estimates(accuracy, Estimate(mean.mean, *mean.interval()), correlation)
    ends = (cost * accuracy.value / mean.mean / end if end > 0 else math.inf for end in (high, low))
    return Estimate(cost, *ends)


def correlation_of_means(ones: Cells, others: Cells, clusters: Sequence[Hashable] | None = None) -> float:
    """Return the correlation of two means over the same questions and seeds; 0 if one of them does
    not vary."""
    errors = [CrossedMean.of(side, clusters).error for side in (ones, others)]
    if not all(errors) or any(map(math.isinf, errors)):
        return 0.0
    sums = [
        [first / errors[0] + second / errors[1] for first, second in zip(*rows, strict=True)]
        for rows in zip(ones, others, strict=True)
    ]
    return max(-1.0, min(1.0, CrossedMean.of(sums, clusters).error ** 2 / 2 - 1))


def ratio_of_estimates(top: Estimate, bottom: Estimate, correlation: float) -> tuple[float, float]:
    """Return the interval of a ratio from the intervals of both parts and the correlation of their
    estimates.

    By Donner and Zou's method of variance estimates recovery (Statistical Methods in Medical
    Research 21, 2012): an end of the interval is the ratio R at which the interval of top - R *
    bottom ends at 0. So it stays asymmetric where that of the accuracy is: with all questions
    solved, the ratio may still be lower. The upper end is infinite if the bottom may be 0.
    """
    product = top.value * bottom.value

    def root(above: float, below: float, sign: int) -> float:
        """The end at which the top is off by `above` and the bottom, in the other direction, by
        `below`."""
        squares = bottom.value**2 - below**2
        if squares <= 0 or math.isinf(below):
            return 0.0 if sign < 0 else math.inf
        middle = product - correlation * above * below
        radicand = middle**2 - squares * (top.value**2 - above**2)
        return max(0.0, (middle + sign * math.sqrt(max(0.0, radicand))) / squares)

    low = root(top.value - top.low, bottom.high - bottom.value, -1)
    high = root(top.high - top.value, bottom.value - bottom.low, 1)
    return min(low, top.value / bottom.value), max(high, top.value / bottom.value)
