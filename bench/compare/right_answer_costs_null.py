"""Does the interval of what a right answer costs hold? `python bench/compare/right_answer_costs_null.py [--pairs 600]`.

A job's joules, seconds or money follow from the tokens of its prompts and answers. Hard questions take more or fewer
tokens, or as many, and prompts have a part of the cost. The true cost of a right answer, over all such questions, is
known. The control divides the cost of the job by the ends of the accuracy, as if all questions cost the same.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from simulation import Limits, Rate, Table, begin
from team_tokens import LINKS, SPREAD, TOKENS, answers

from runner_compare.statistics.accuracy_intervals import accuracy_interval
from runner_compare.statistics.token_costs import Estimate, TokenCells, estimate_cost_per_correct_answer

SETTINGS = [  # questions, accuracy, what hard ones take, the part of prompts
    (10, 0.70, "more", 0.2),
    (20, 0.70, "more", 0.0),
    (20, 0.95, "more", 0.2),
    (50, 0.30, "more", 0.2),
    (50, 0.70, "fewer", 0.2),
    (50, 0.95, "more", 0.0),
    (200, 0.10, "more", 0.5),
    (200, 0.70, "more", 0.2),
    (200, 0.90, "as many", 0.8),
    (1000, 0.60, "more", 0.2),
]
PROMPT, PROMPT_SPREAD = 120.0, 0.4


def covered(
    generator: np.random.Generator, jobs: int, setting: tuple[int, float, str, float], wide: float = 1.0
) -> tuple[Rate, Rate]:
    """Return how often the interval misses the truth, and how often that of the control does.

    `wide` is a factor on how much the tokens of answers vary.
    """
    questions, accuracy, hard_take, part = setting
    link = LINKS[hard_take] * wide
    mean_new = TOKENS * math.exp((link**2 + SPREAD**2) / 2)
    truth = 1 / accuracy  # of a question's mean cost
    missed, missed_by_control = 0, 0
    for _ in range(jobs):
        hard = generator.normal(size=questions)
        solved, new = answers(generator, 1, hard, accuracy, 0.0, link)
        prompt = PROMPT * np.exp(PROMPT_SPREAD * generator.normal(size=(1, questions)) - PROMPT_SPREAD**2 / 2)
        job = part * prompt.mean() / PROMPT + (1 - part) * new.mean() / mean_new
        shares = [float(right) for right in solved[0]]
        if not any(shares):
            continue  # no right answer has no cost
        share = Estimate(float(np.mean(shares)), *accuracy_interval(shares, [None] * questions))
        cells = TokenCells(prompt.tolist(), new.tolist(), [shares])
        prompts = part * prompt.mean() / PROMPT / job
        cost = estimate_cost_per_correct_answer(cells, share, job / share.value, float(prompts))
        assert cost is not None
        missed += not cost.low <= truth <= cost.high
        missed_by_control += not job / share.high <= truth <= job / max(share.low, 1e-9)
    return Rate(missed, jobs), Rate(missed_by_control, jobs)


def main() -> int:
    """Simulate and print; 1 if an interval misses too often."""
    (jobs, generator, started), limits = begin("right_answer_costs_null", __doc__, 600), Limits()
    heads = (
        "questions",
        "accuracy",
        "hard take",
        "prompts",
        "interval misses truth %",
        "by accuracy alone %",
    )
    table = Table(f"{jobs:,} jobs a line", *heads)
    for setting in SETTINGS:
        missed, by_control = covered(generator, jobs, setting)
        limits.missed.append(missed)
        table.row(*setting, missed, by_control)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
