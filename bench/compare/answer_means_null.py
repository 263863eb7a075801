"""Does the interval of a mean over several answers hold? `python bench/compare/answer_means_null.py`.

Each question has a chance of a right answer, drawn as a kind of questions says, and so many answers are drawn from it.
The truth is the mean chance over all such questions. Shown is how often the 95 % interval that a job, the comparison
and other tools' logs have contains it. Two controls: Wilson's interval with each answer as an independent question,
which is too narrow; and what was printed before, the accuracy of a strict majority of the answers, with Wilson's
interval: it is about another figure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from simulation import Limits, Numbers, Rate, Table, begin

from runner_compare.statistics.accuracy_intervals import compute_accuracy_metrics
from runner_compare.statistics.stats import compute_wilson_interval

Drawing = Callable[[np.random.Generator, int], Numbers]

KINDS: dict[str, tuple[Drawing, float]] = {  # of questions: how their chances are drawn, and their mean
    "all alike": (lambda _, n: np.full(n, 0.6), 0.6),
    "spread evenly": (lambda generator, n: generator.beta(1, 1, n), 0.5),
    "known or not": (lambda generator, n: generator.beta(0.2, 0.2, n), 0.5),
    "nearly all known": (lambda generator, n: generator.beta(2.7, 0.3, n), 0.9),
    "nearly none known": (lambda generator, n: generator.beta(0.3, 2.7, n), 0.1),
    "1 in 20 is lost": (
        lambda generator, n: np.where(generator.random(n) < 0.05, 0.02, 0.99),
        0.05 * 0.02 + 0.95 * 0.99,
    ),
}
SIZES = [(20, 4), (50, 3), (164, 10), (500, 4)]  # questions and answers to each


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (jobs, generator, started), limits = begin("answer_means_null", __doc__), Limits()
    heads = ("questions", "answers", "kind             ", "truth", "contain the truth %", "mean width")
    table = Table(f"{jobs:,} jobs a line", *heads, "answers as questions", "the majority's")
    for questions, answers in SIZES:
        for kind, (draw, truth) in KINDS.items():
            inside, width = [0, 0, 0], 0.0
            for _ in range(jobs):
                right = generator.binomial(answers, draw(generator, questions))
                figures = compute_accuracy_metrics(
                    (right / answers).tolist(), [None] * questions, [answers] * questions
                )
                low, high = figures["accuracy_low"], figures["accuracy_high"]
                as_questions = compute_wilson_interval(int(right.sum()), questions * answers)
                majority = compute_wilson_interval(int((2 * right > answers).sum()), questions)
                for way, ends in enumerate(((low, high), as_questions, majority)):
                    inside[way] += ends[0] <= truth <= ends[1]
                width += 100 * (high - low) / jobs
            rate, naive, vote = (Rate(times, jobs) for times in inside)
            table.row(
                questions, answers, kind, f"{100 * truth:.1f}", rate, f"{width:.1f}", naive.plain, vote.plain
            )
            limits.missed.append(Rate(jobs - inside[0], jobs))
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
