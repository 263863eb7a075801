"""How often is position bias found where there is none? `python bench/compare/position_null.py`.

Questions with four or ten choices are asked in rotations. A model without bias chooses by the text: the right one with
the question's own probability, else a wrong one that this question makes attractive; each answer is drawn anew, and
some are missing. A biased one chooses B instead with a known probability, so that the true shares are known: how often
is it found, and how often do the intervals of all positions together miss a true share, or a true difference from what
is expected without bias?

The control counts what each position was chosen in the first order alone, against equal shares: where the right choices
are not spread evenly, as in a file that has them under A, it calls knowledge a bias.
"""

from __future__ import annotations

import sys

import numpy as np
from simulation import Limits, Rate, Table, begin

from runner.datasets.rotations import compute_rotation_shifts
from runner_compare.statistics import ALPHA
from runner_compare.statistics.position_bias import QuestionInOrders, measure_position_bias

SETTINGS = [  # questions, choices, orders, accuracy, how alike the answers to a question are, all right ones under A
    (10, 4, 4, 0.4, 0.5, False),
    (20, 4, 4, 0.4, 0.5, False),
    (50, 4, 4, 0.4, 0.9, False),
    (200, 4, 4, 0.3, 0.2, False),
    (200, 4, 4, 0.9, 0.9, True),
    (200, 4, 2, 0.7, 0.5, False),
    (200, 4, 2, 0.7, 0.5, True),
    (100, 10, 10, 0.4, 0.5, False),
    (100, 10, 4, 0.4, 0.5, True),
]
BIASES = (0.1, 0.3)  # the probability that B is chosen, whatever stands there
MISSING = 0.02  # of the answers
DRAWS = 199  # a test by so many permutations is as exact as by more, and finds a little less

Asked = list[QuestionInOrders]


def asked(
    generator: np.random.Generator, setting: tuple[int, int, int, float, float, bool], bias: float = 0.0
) -> tuple[Asked, list[float], list[float]]:
    """Draw the answers of a model; return the true share of each position, and how far it is above
    its expectation."""
    questions, choices, orders, accuracy, alike, first = setting
    shifts, answers = tuple(compute_rotation_shifts(choices, orders)), list[QuestionInOrders]()
    shares, expected, is_b = np.zeros(choices), np.zeros(choices), np.arange(choices) == 1
    for _ in range(questions):
        gold = 0 if first else int(generator.integers(choices))
        chances = generator.dirichlet(np.full(choices, 1 - alike + 0.05))  # of the texts
        chances = accuracy * (np.arange(choices) == gold) + (1 - accuracy) * chances
        texts = generator.choice(choices, size=orders, p=chances)
        picks: list[int | None] = []
        for text, shift in zip(texts, shifts, strict=True):
            pick = 1 if generator.random() < bias else (int(text) + shift) % choices
            picks.append(None if generator.random() < MISSING else pick)
        answers.append(QuestionInOrders(choices, shifts, tuple(picks)))
        chosen = [(1 - MISSING) * (bias * is_b + (1 - bias) * np.roll(chances, shift)) for shift in shifts]
        shares += sum(chosen)
        texts_chosen = sum(np.roll(one, -shift) for one, shift in zip(chosen, shifts, strict=True)) / orders
        expected += sum(np.roll(texts_chosen, shift) for shift in shifts)
    shares, expected = shares / questions / orders, expected / questions / orders
    return answers, list(shares), list(shares - expected)


def naive_p(answers: Asked) -> float:
    """Return the p of equal shares in the first order alone, by chi-squared."""
    from scipy.stats import chisquare

    picks = [one.picks[0] for one in answers if one.picks[0] is not None]
    return float(chisquare(np.bincount(picks, minlength=answers[0].choices)).pvalue)


def simulate(generator: np.random.Generator, runs: int, limits: Limits) -> list[Rate]:
    """Print the rates of each setting; return those of the control."""
    heads = "questions", "choices", "orders", "accuracy", "alike", "right ones under A", "bias"
    table = Table(
        f"{runs:,} models a line, a fifth of them with a bias",
        *heads,
        "found %",
        "intervals miss %",
        "first order alone %",
    )
    controls = []
    for setting in SETTINGS:
        for bias in (0.0, *BIASES):
            found = missed = naive = 0
            models = runs // 5 if bias else runs
            for _ in range(models):
                answers, *truth = asked(generator, setting, bias)
                result = measure_position_bias(answers, DRAWS)
                found += result.p < ALPHA
                pairs = zip(result.positions, *truth, strict=True)
                missed += any(
                    not (it.low <= share <= it.high and it.low <= above + it.expected <= it.high)
                    for it, share, above in pairs
                )
                naive += naive_p(answers) < ALPHA
            rates = Rate(found, models), Rate(missed, models), Rate(naive, models)
            limits.missed.append(rates[1])
            if not bias:
                limits.false.append(rates[0])
                controls.append(rates[2])
            table.row(*setting[:5], "yes" if setting[5] else "no", bias, *rates)
    return controls


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (runs, generator, started), limits = begin("position_null", __doc__, 1000, "runs"), Limits()
    controls = simulate(generator, runs, limits)
    worst = max(it.times / it.of for it in controls)
    print(f"\ncontrol: the first order alone calls an unbiased model biased in up to {worst:.0%}")
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
