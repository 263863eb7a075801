"""Does an effective length hold for further texts? `python bench/compare/recall_texts_null.py [--tables 300]`.

Ten equal settings are asked 150 questions at each of five lengths, in one haystack, 5 haystacks or 30. Recall
differs between haystacks by 0.3 probits, independently at each length, and all settings are asked in the same ones.
The truth is recall over all haystacks. A table is false where any setting is shown to reach too far, or to be lost
where it is not. The control is the rule of one haystack: its questions are the units. Settings are found where the
interval is the true length. Then two settings are compared at each length: equal ones, and one that loses 15 points.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from recall_null import ALIKE_SETTINGS, DEPTHS, LENGTHS, MARGIN, MODELS, bar_of
from simulation import Limits, Rate, Solved, Table, begin

from runner_base import ClusterUnit
from runner_compare.model.mean_pairs import create_mean_difference_test
from runner_compare.model.outcomes import QuestionOutcome, RecallPosition
from runner_compare.statistics import ALPHA, Finding, McNemarTest, decide_comparisons_with_holm
from runner_compare.statistics.effective_length import (
    EffectiveLength,
    LengthTests,
    compute_recall_loss_tests,
    find_effective_context_length,
)
from runner_compare.statistics.paired_means import MIN_CLUSTERS, compute_mean_p_values
from runner_compare.ways.verdicts import create_mcnemar_test, run_test_with_truncation_bounds

SETTINGS, CASES, SPREAD = 10, 30, 0.3
TEXTS = (1, 5, 30)
ALIKE_LENGTHS = 0.3  # how much of a question's difficulty is the same at each length
CHOSEN = (
    "forgets all beyond 4,096",
    "loses 30 points beyond 4,096",
    "loses just the margin",
    "loses just more beyond 4,096",
    "loses just more beyond 1,024",
)
LOSS = 0.15


@dataclass
class Counts:
    """What is said of the tables of a line."""

    false: int = 0
    too_long: int = 0  # settings
    too_short: int = 0
    found: int = 0


def draw_right(
    generator: np.random.Generator,
    recalls: list[float],
    settings: int,
    texts: int,
    loss: float = 0.0,
    spread: float = SPREAD,
) -> Solved:
    """Draw right answers [setting, length, depth, case]; the last setting loses so much at each length.

    `recalls` are shares over all haystacks: the bar allows for their spread.
    """
    shape = len(recalls), len(DEPTHS), CASES
    of_texts = spread * generator.standard_normal((len(recalls), 1, texts))
    shifts = of_texts[:, :, np.arange(CASES) % texts]
    hard = math.sqrt(ALIKE_LENGTHS) * generator.standard_normal((1, *shape[1:]))
    shared = generator.standard_normal(shape)
    own = generator.standard_normal((settings, *shape))
    chance = math.sqrt(ALIKE_SETTINGS) * shared + math.sqrt(1 - ALIKE_SETTINGS) * own
    worse = [[recall - loss * (at == settings - 1) for recall in recalls] for at in range(settings)]
    bars = np.array([[bar_of(recall) for recall in row] for row in worse])
    bars = bars[:, :, None, None] * math.sqrt(1 + spread**2)
    right: Solved = hard + math.sqrt(1 - ALIKE_LENGTHS) * chance < bars + shifts
    return right


def outcomes_of(right: Solved, texts: int, by_text: bool) -> tuple[QuestionOutcome, ...]:
    """Return a setting's answers as the task records them."""
    unit = ClusterUnit.text if by_text else ClusterUnit.question
    return tuple(
        QuestionOutcome(
            bool(right[at, place, case]),
            "prompt",
            f"text {case % texts}" if by_text else f"{depth}/{case}",
            recall=RecallPosition("single", length, depth, case % texts if texts > 1 else None, unit),
        )
        for at, length in enumerate(LENGTHS)
        for place, depth in enumerate(DEPTHS)
        for case in range(CASES)
    )


@lru_cache(maxsize=100_000)
def tests_of_questions(wins: int, losses: int, n: int) -> LengthTests:
    """Return the tests of a length where questions are the units."""
    return compute_recall_loss_tests(McNemarTest(wins, losses, n), MARGIN)


def all_tests(right: Solved, texts: int, by_text: bool) -> list[list[list[LengthTests]]]:
    """Return the product's tests of many tables [table, setting, length after the shortest], in arrays."""
    differences = right[:, :, 1:].astype(int) - right[:, :, :1]
    shape = differences.shape
    if not by_text:
        wins, losses = ((differences == sign).sum(axis=(3, 4)) for sign in (1, -1))
        n = shape[3] * shape[4]
        return [
            [
                [tests_of_questions(*both, n) for both in zip(*lengths, strict=True)]
                for lengths in zip(*of_table, strict=True)
            ]
            for of_table in zip(wins.tolist(), losses.tolist(), strict=True)
        ]
    # case number `case` is asked in haystack `case % texts`
    sums = differences.sum(axis=3).reshape(*shape[:3], -1, texts).sum(axis=3).astype(float)
    size = shape[3] * shape[4] / texts
    rows = sums.reshape(-1, texts)
    ps = np.concatenate(
        [compute_mean_p_values(part, np.full_like(part, size), -MARGIN) for part in np.array_split(rows, 50)]
    )
    mean = rows.mean(axis=1) / size
    tests = [
        LengthTests(p / 2 if at > -MARGIN else 1.0, p / 2 if at < -MARGIN else 1.0, at >= -MARGIN)
        for p, at in zip(ps.tolist(), mean.tolist(), strict=True)
    ]
    lengths = shape[2]
    return [
        [tests[first + at : first + at + lengths] for at in range(0, shape[1] * lengths, lengths)]
        for first in range(0, len(tests), shape[1] * lengths)
    ]


def share_level(tests: Sequence[Sequence[LengthTests]]) -> list[EffectiveLength]:
    """Return the effective length of each setting of a table, by the rule of `share_error`."""
    sharing = count = len(tests)
    while True:
        found = [find_effective_context_length(LENGTHS, own, ALPHA / count, ALPHA / sharing) for own in tests]
        left = max(1, count - sum(own.reached == len(LENGTHS) - 1 for own in found))
        if left == sharing:
            return found
        sharing = left


def count_table(counts: Counts, known: Sequence[EffectiveLength], true: int) -> None:
    """Add what is said of a table."""
    too_long = sum(found.at_least > true for found in known)
    too_short = sum(found.at_most < true for found in known)
    counts.false += too_long + too_short > 0
    counts.too_long += too_long
    counts.too_short += too_short
    counts.found += sum(found.at_least == found.at_most == true for found in known)


def effective_lengths(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often tables are false, by questions as units and by texts."""
    heads = ("texts", f"{'the model':30}", "units", "false tables %", "too long", "too short", "found")
    table = Table(f"{SETTINGS} equal settings: {tables:,} tables a line", *heads)
    for model in MODELS:
        for texts in TEXTS if model.name in CHOSEN else ():
            recalls = [model.recall(length, 0.5, "usual") for length in LENGTHS]
            drawn = np.array([draw_right(generator, recalls, SETTINGS, texts) for _ in range(tables)])
            for by_text in (False, True) if texts >= MIN_CLUSTERS else (False,):
                counts = Counts()
                for tests in all_tests(drawn, texts, by_text):
                    count_table(counts, share_level(tests), model.true)
                false = Rate(counts.false, tables)
                shares = [
                    Rate(times, SETTINGS * tables).plain
                    for times in (counts.too_long, counts.too_short, counts.found)
                ]
                unit = "texts" if by_text else "questions"
                table.row(texts, model.name.ljust(30), unit, false, *shares)
                if by_text:
                    limits.false.append(false)


def differences(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often a setting is called different at any length, in one text and over texts."""
    table = Table(
        f"two settings: {tables:,} a line", "texts", "equal, different %", "loses 15 points, found %"
    )
    for texts in (1, 30):
        rates = []
        for loss in (0.0, LOSS):
            found = 0
            for _ in range(tables):
                base, other = draw_right(generator, [0.9] * len(LENGTHS), 2, texts, loss)
                found += is_called_different(other, base, texts)
            rates.append(Rate(found, tables))
        table.row(texts, *rates)
        if texts > 1:
            limits.false.append(rates[0])


def is_called_different(own: Solved, base: Solved, texts: int) -> bool:
    """Whether two settings are called different at any length."""
    both = [outcomes_of(right, texts, texts > 1) for right in (own, base)]
    tests = []
    for length in LENGTHS:
        pairs = [
            pair for pair in zip(*both, strict=True) if pair[0].recall and pair[0].recall.length == length
        ]
        if texts == 1:
            tests.append(run_test_with_truncation_bounds(create_mcnemar_test, pairs))
        else:
            tests.append(
                run_test_with_truncation_bounds(
                    lambda of_length: create_mean_difference_test(of_length, "text"), pairs
                )
            )
    return any(decision.finding is not Finding.open for decision in decide_comparisons_with_holm(tests))


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (tables, generator, started), limits = (begin("recall_texts_null", __doc__, 300, "tables"), Limits())
    effective_lengths(generator, tables, limits)
    differences(generator, tables, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
