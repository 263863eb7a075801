"""Do the intervals about a team's tokens and seeds hold?

`python bench/team_tokens.py [--pairs 400] [--seed 0]`. A job answers questions of which some are harder; hard ones take
other numbers of tokens; and jobs with another seed are apart in accuracy and tokens. The accuracy, the tokens of a
question and the right answers per 1,000 tokens are known, over all such questions and seeds. Shown is how often the
95 % interval of each contains it, and that of accuracy if only questions counted, which is the control. Then two teams
answer the same questions: how often is a saving claimed where there is none, and how often is a difference in accuracy.
The exit code is 1 if an interval contains the truth in fewer than 94 % of the jobs, or a claim is wrong in more than
5 %, beyond noise.
"""

from __future__ import annotations

import math
import sys
import time
from statistics import NormalDist
from typing import Any

import numpy as np
from compare_null import Rate, begin

from runner.core.clustered_share import share_interval
from runner.core.effects import paired_means
from runner.core.over_seeds import of_questions, over_seeds, share_over_seeds
from runner.core.stats import ALPHA
from runner.core.token_costs import Estimate, TokenCells, TokenCost, TokenSaving

COVERAGE = 0.94
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
PAIRS = [(1, 20, 0.0), (1, 200, 0.0), (5, 40, 0.1), (5, 200, 0.3), (3, 200, 0.4)]  # seeds, questions, apart
LINKS = {"more": 0.4, "fewer": -0.4, "as many": 0.0}
HARD, TOKENS, SPREAD = 0.8, 400.0, 0.3  # how much of an answer the question decides; tokens; their own spread

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
    """Simulate and print; 1 if an interval misses too often or a claim is wrong too often, beyond noise."""
    jobs, generator, started = begin("team_tokens", __doc__)
    broken = 0
    print(f"\n{jobs:,} jobs a line: how often the interval contains the truth")
    print("seeds  questions  accuracy  apart  hard take   accuracy   tokens a question   per 1,000   questions only")
    for seeds, questions, accuracy, apart, hard_take in SETTINGS:
        link = LINKS[hard_take]
        tokens = TOKENS * math.exp((link**2 + SPREAD**2 + (0.2 * apart) ** 2) / 2)
        truths = accuracy, tokens, 1000 * accuracy / tokens
        inside = [0, 0, 0, 0]
        for _ in range(jobs):
            solved, taken = answers(generator, seeds, generator.normal(size=questions), accuracy, apart, link)
            ends = share_over_seeds(solved.tolist()) if seeds > 1 else share_interval(
                solved[0].tolist(), [None] * questions
            )  # fmt: skip
            share = Estimate(float(solved.mean()), *ends)
            cost = TokenCost.of(TokenCells(taken.tolist(), np.zeros_like(taken).tolist(), solved.tolist()), share)
            assert cost is not None
            found = share, cost.tokens_a_question, cost.correct_per_1000
            for place, (it, truth) in enumerate(zip(found, truths, strict=True)):
                inside[place] += it.low <= truth <= it.high
            alone = of_questions(solved.mean(axis=0).tolist())
            inside[3] += abs(share.value - accuracy) <= alone.bound(ALPHA, True)
        rates = [Rate(count, jobs) for count in inside]
        shown = "   ".join(f"{100 * it.times / jobs:6.2f} %" for it in rates)
        print(f"{seeds:5d}  {questions:9d}  {accuracy:8.2f}  {apart:5.1f}  {hard_take:9s}  {shown}", flush=True)
        broken += sum(rate.high < COVERAGE for rate in rates[:3])
    print(f"\n{jobs:,} pairs of equal teams a line: how often a difference is claimed")
    print("seeds  questions  apart   tokens                    accuracy                  accuracy by questions only")
    for seeds, questions, apart in PAIRS:
        claims = [0, 0, 0]
        for _ in range(jobs):
            hard = generator.normal(size=questions)
            sides = [answers(generator, seeds, hard, 0.7, apart, 0.4) for _ in range(2)]
            cells = [TokenCells(taken.tolist(), np.zeros_like(taken).tolist(), it.tolist()) for it, taken in sides]
            gaps = (sides[0][0].mean(axis=0) - sides[1][0].mean(axis=0)).tolist()
            by_questions = paired_means(gaps, samples=seeds)
            effect = over_seeds(by_questions, *(it.mean(axis=1).tolist() for it, _ in sides))
            for place, p in enumerate((TokenSaving.of(cells[0], cells[1]).p, effect.p, by_questions.p)):
                claims[place] += p < ALPHA
        rates = [Rate(count, jobs) for count in claims]
        print(f"{seeds:5d}  {questions:9d}  {apart:5.1f}   {rates[0]}   {rates[1]}   {rates[2]}", flush=True)
        broken += sum(rate.low > ALPHA for rate in rates[:2])
    print(f"\nwrong beyond noise: {broken}; {time.perf_counter() - started:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
