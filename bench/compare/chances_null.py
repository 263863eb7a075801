"""How often is a comparison by pass@k or maj@k wrong? `python bench/compare/chances_null.py [--pairs 300]`.

Each question has a chance of a right answer, alike for both sides, and so many answers are drawn from it; a wrong one
is one of three. First both sides are equal: how often does a pass@k, maj@k or pass^k call them different? In `unlike
spread` one side has two kinds of questions and the other a single one, with the same mean of the figure, so that the
differences are skewed. In `families` questions belong together, and a side's chance differs from family to family:
the control counts them as questions of their own. Then one side is worse: how often is that found?
"""

from __future__ import annotations

import sys

import numpy as np
from simulation import Drawn, Limits, Numbers, Rate, Table, begin

from runner_compare.model.data import QuestionOutcome, Run
from runner_compare.model.repeated_answers import AnswerVotes, RepeatedAnswerMetric
from runner_compare.statistics import Finding, decide_comparisons_with_holm
from runner_compare.ways.numbers import create_metric_test

NAMES = ("pass@1", "pass@4", "maj@4", "pass^4")
SIZES = [(100, 4), (300, 8)]  # questions and answers to each
WRONG = 3  # texts among which wrong answers choose
FAMILIES, MOVED = 50, 0.25  # how many, and by how much a side's chance in a family differs
LOSS = 0.2  # of the chance, where one side is worse


def outcomes(
    generator: np.random.Generator, chances: Numbers, answers: int, name: str, family: int
) -> list[QuestionOutcome]:
    """Draw the answers to questions with these chances, with the figure of each question; family: 0
    for questions of their own."""
    chance, drawn = RepeatedAnswerMetric.from_name(name), []
    assert chance is not None
    for question, right in enumerate(generator.binomial(answers, chances).tolist()):
        wrong = generator.multinomial(answers - right, [1 / WRONG] * WRONG).tolist()
        votes = AnswerVotes(right, tuple(sorted(count for count in wrong if count)))
        cluster = str(question // family) if family else None
        value = chance.estimate_metric_for_question(right, answers, votes)
        drawn.append(QuestionOutcome(2 * right > answers, "p", cluster, (right, answers), value))
    return drawn


def finding(sides: list[list[QuestionOutcome]], name: str) -> Finding:
    """Return what a comparison by the figure says of the first side."""
    reader, runs = Drawn(), []
    for number, side in enumerate(sides):
        runs.append(Run(str(number), str(number), "task", "1", "", {}, {}, number=name))
        reader.answers[str(number)] = {
            (index, f"question {index}", ""): outcome for index, outcome in enumerate(side)
        }
    (decision,) = decide_comparisons_with_holm([create_metric_test(runs[0], runs[1], reader)])
    return decision.finding


def chances(generator: np.random.Generator, kind: str, questions: int, name: str) -> tuple[Numbers, Numbers]:
    """Draw the chances of both sides, of which the figures have the same mean."""
    if kind == "unlike spread":
        known = generator.random(questions) < mean_figure(0.5, name)
        return np.full(questions, 0.5), known.astype(float)
    same: Numbers = generator.beta(0.7, 0.7, questions)
    if kind != "families":
        return same, same
    same = np.full(questions, 0.5)
    moved = generator.uniform(-MOVED, MOVED, (2, FAMILIES)).repeat(questions // FAMILIES, axis=1)
    return same + moved[0], same + moved[1]


def mean_figure(chance: float, name: str, draws: int = 40_000) -> float:
    """Return the mean of a figure of questions with one chance, over many draws."""
    key = chance, name
    if key not in KNOWN:
        drawn = outcomes(np.random.default_rng(1), np.full(draws, chance), 4, name, 0)
        KNOWN[key] = float(np.mean([outcome.number for outcome in drawn]))
    return KNOWN[key]


KNOWN: dict[tuple[float, str], float] = {}


def rates(
    generator: np.random.Generator, kind: str, size: tuple[int, int], name: str, pairs: int
) -> tuple[Rate, Rate, Rate]:
    """Return how often equal sides are told apart, the same with each question on its own, and how
    often a worse side is found."""
    (questions, answers), false, alone, found = size, 0, 0, 0
    family = questions // FAMILIES if kind == "families" else 0
    for _ in range(pairs):
        ours, theirs = chances(generator, kind, questions, name)
        sides = [outcomes(generator, side, answers, name, family) for side in (ours, theirs)]
        false += finding(sides, name) is not Finding.open
        apart = [[outcome._replace(cluster=None) for outcome in side] for side in sides]
        alone += finding(apart, name) is not Finding.open
        worse = outcomes(generator, ours * (1 - LOSS), answers, name, family)
        found += finding([worse, sides[1]], name) is Finding.worse
    return Rate(false, pairs), Rate(alone, pairs), Rate(found, pairs)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("chances_null", __doc__, 300), Limits()
    heads = ("questions", "answers", "questions are  ", "figure", "false verdicts %")
    table = Table(f"{pairs:,} pairs a line", *heads, "without families", "20 % less is found")
    for size in SIZES:
        for kind in ("alike", "unlike spread", "families"):
            for name in NAMES:
                # the means of unlike sides are equal for four answers
                of_size = (size[0], 4) if kind == "unlike spread" else size
                false, alone, found = rates(generator, kind, of_size, name, pairs)
                limits.false.append(false)
                table.row(*of_size, kind, name, false, alone.plain, found.plain)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
