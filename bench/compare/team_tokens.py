"""Do the intervals of tokens and seeds hold? `python bench/compare/team_tokens.py [--pairs 400] [--seed 0]`.

A job answers questions of which some are harder; hard ones take other numbers of tokens; and jobs with another seed are
apart in accuracy and tokens. The accuracy, the tokens of a question and the right answers per 1,000 tokens are known,
over all such questions and seeds. Shown is how often the interval of each contains it, and that of accuracy if only
questions counted, which is the control. Then two equal teams answer the same questions: how often is a saving claimed,
and how often a difference in accuracy?
"""

from __future__ import annotations

import math
import sys
from statistics import NormalDist
from typing import Any

import numpy as np
from simulation import Limits, Rate, Table, begin

from runner_compare.statistics import ALPHA, MeanFlipTest, SeedTest
from runner_compare.statistics.accuracy_intervals import accuracy_interval
from runner_compare.statistics.seed_means import (
    compute_accuracy_interval_over_seeds,
    estimate_question_sampling_error,
)
from runner_compare.statistics.token_costs import Estimate, TokenCells, TokenCost, TokenSaving

SETTINGS = [  # seeds, questions, accuracy, how far seeds are apart (in probits), tokens of hard questions
    (1, 20, 0.70, 0.0, "more"),
    (1, 20, 0.97, 0.0, "more"),
    (1, 50, 0.95, 0.0, "fewer"),
    (1, 200, 0.90, 0.0, "more"),
    (1, 1000, 0.60, 0.0, "as many"),
    (2, 100, 0.60, 0.4, "more"),
    (3, 100, 0.80, 0.2, "as many"),
    (3, 200, 0.60, 0.4, "more"),
    (5, 40, 0.97, 0.0, "more"),
    (5, 200, 0.70, 0.0, "more"),
    (5, 200, 0.70, 0.3, "more"),
    (5, 200, 0.95, 0.2, "fewer"),
    (10, 100, 0.60, 0.2, "more"),
]
# seeds, questions, apart
PAIRS = [(1, 20, 0.0), (1, 200, 0.0), (5, 40, 0.1), (5, 200, 0.3), (3, 200, 0.4)]
LINKS = {"more": 0.4, "fewer": -0.4, "as many": 0.0}
# how much of an answer the question decides; tokens; their own spread
HARD, TOKENS, SPREAD = (0.8, 400.0, 0.3)

Numbers = np.ndarray[Any, np.dtype[Any]]


def answers(
    generator: np.random.Generator, seeds: int, hard: Numbers, accuracy: float, apart: float, link: float
) -> tuple[Numbers, Numbers]:
    """Draw which questions each seed solves, and the tokens of each."""
    questions, of_seed = len(hard), apart * generator.normal(size=(seeds, 1))
    own = math.sqrt(1 - HARD**2) * generator.normal(size=(seeds, questions))
    bar = math.sqrt(1 + apart**2) * NormalDist().inv_cdf(accuracy)
    own_tokens = SPREAD * generator.normal(size=(seeds, questions))
    tokens = TOKENS * np.exp(link * hard + own_tokens + 0.2 * apart * generator.normal(size=(seeds, 1)))
    return of_seed + HARD * hard + own < bar, tokens


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (jobs, generator, started), limits = begin("team_tokens", __doc__), Limits()
    heads = "seeds", "questions", "accuracy", "apart", "hard take"
    kinds = "of accuracy", "of tokens a question", "per 1,000", "questions only"
    table = Table(f"{jobs:,} jobs a line: how often the interval contains the truth", *heads, *kinds)
    for seeds, questions, accuracy, apart, hard_take in SETTINGS:
        link = LINKS[hard_take]
        tokens = TOKENS * math.exp((link**2 + SPREAD**2 + (0.2 * apart) ** 2) / 2)
        truths = accuracy, tokens, 1000 * accuracy / tokens
        inside = [0, 0, 0, 0]
        for _ in range(jobs):
            solved, taken = answers(generator, seeds, generator.normal(size=questions), accuracy, apart, link)
            ends = compute_accuracy_interval_over_seeds(solved.tolist()) if seeds > 1 else accuracy_interval(
                solved[0].tolist(), [None] * questions
            )  # fmt: skip
            share = Estimate(float(solved.mean()), *ends)
            cost = TokenCost.from_cells(
                TokenCells(taken.tolist(), np.zeros_like(taken).tolist(), solved.tolist()), share
            )
            assert cost is not None
            found = share, cost.tokens_a_question, cost.correct_per_1000
            for place, (it, truth) in enumerate(zip(found, truths, strict=True)):
                inside[place] += it.low <= truth <= it.high
            alone = estimate_question_sampling_error(solved.mean(axis=0).tolist())
            inside[3] += abs(share.value - accuracy) <= alone.compute_mean_error_bound(ALPHA, True)
        rates = [Rate(count, jobs) for count in inside]
        table.row(seeds, questions, accuracy, apart, hard_take, *(it.plain for it in rates))
        limits.missed += [Rate(jobs - it.times, jobs) for it in rates[:3]]
    title = f"{jobs:,} pairs of equal teams a line: how often a difference is claimed"
    table = Table(
        title, "seeds", "questions", "apart", "tokens %", "accuracy %", "accuracy by questions only %"
    )
    for seeds, questions, apart in PAIRS:
        claims = [0, 0, 0]
        for _ in range(jobs):
            hard = generator.normal(size=questions)
            sides = [answers(generator, seeds, hard, 0.7, apart, 0.4) for _ in range(2)]
            cells = [
                TokenCells(taken.tolist(), np.zeros_like(taken).tolist(), it.tolist()) for it, taken in sides
            ]
            gaps = (sides[0][0].mean(axis=0) - sides[1][0].mean(axis=0)).tolist()
            by_questions = MeanFlipTest(gaps, samples=seeds)
            effect = SeedTest(by_questions, *(it.mean(axis=1).tolist() for it, _ in sides)).effect
            for place, p in enumerate(
                (TokenSaving.from_cells(cells[0], cells[1]).p, effect.p, by_questions.effect.p)
            ):
                claims[place] += p < ALPHA
        rates = [Rate(count, jobs) for count in claims]
        table.row(seeds, questions, apart, *rates)
        limits.false += rates[:2]
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
