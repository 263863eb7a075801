"""Is the power what is printed? `python bench/compare/power_null.py [--pairs 400] [--seed 0]`.

A first pair of equal runs says which loss could be detected with 80 % power. Then pairs with just that loss are drawn
and compared as runner-compare does, and the losses that are found are counted: in families of questions, with several
answers to each question, over seeds, and of numbers. The loss is spread evenly over all answers, or it takes whole
families (of numbers: a few questions that get the worst number), as the sentence says. Before the first pair either
nothing differs, or a tenth of the answers do, or families differ as models do (bench/compare/cluster_null.py).

A first pair says a loss with a noise of its own: two first pairs of one kind say losses that differ, and the power at
each is another one. What is promised is the mean over them. With few first pairs that noise, which the intervals below
do not contain, takes a line away from 80 %; so each line has 40 of them, and shares its pairs among them.

Then 20 families lose 20 points: how often does each test find it? And how wide is the interval of 57 to 62 families?
Last, discrete truths of a mean of 0 are drawn at random, most of them with a rare value of -1 or 1: how often is one
called a difference? Values rarer than four in n are shown, and do not count: the test does not see them.
"""

from __future__ import annotations

import sys

import numpy as np
from cluster_null import ENOUGH, Families
from cluster_null import answers as family_answers
from numbers_null import KINDS, LOWER, MANY, lost, verdict
from simulation import Limits, Numbers, Rate, Table, begin

from runner_compare.statistics import (
    ALPHA,
    Finding,
    MeanFlipTest,
    SeedTest,
    Test,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.paired_means import MeanDifference, compute_mean_p_values
from runner_compare.statistics.stats import student_p_value

FIRST = 40  # first pairs a line: each says another loss
FAMILIES = (10, 25, 40, 59, 60, 100)
OF_TEN, DIFFER = 10, 0.1  # questions a family; answers that differ by chance
ANSWERED = ((20, 4), (50, 4), (200, 4))  # questions, answers to each
SEEDS, SEED_QUESTIONS, SEED_SPREAD = 5, 200, 0.03
NUMBERS_OF = (50, 200)
TRUTHS, TRUTH_SIZES, TRUTH_DRAWS = 60, (6, 10, 20, 40, 59, 60, 100), 2_000


def compared(differences: Numbers, families: Families | None, samples: int = 1) -> MeanFlipTest:
    """Compare by means, as runner-compare does."""
    names = None if families is None else families.tolist()
    return MeanFlipTest(differences.tolist(), names, "family" * (families is not None), samples)


def noise(generator: np.random.Generator, questions: int, samples: int, rate: float) -> Numbers:
    """Draw the difference of each answer of two equal runs."""
    drawn: Numbers = generator.choice(
        [-1.0, 0.0, 1.0], size=(questions, samples), p=[rate / 2, 1 - rate, rate / 2]
    )
    return drawn


def with_loss(
    generator: np.random.Generator,
    answers: Numbers,
    families: Families | None,
    loss: float,
    rate: float,
    whole: bool,
) -> Numbers:
    """Let answers or whole families be lost; what is lost already cannot be, so that a few more
    have to be."""
    share = loss / (1 - rate / 2) if not whole else loss
    if whole:
        units = np.arange(len(answers)) if families is None else families
        is_lost = (generator.random(units.max() + 1) < share)[units][:, None] & np.ones(answers.shape, bool)
        return np.where(is_lost, -1.0, answers)
    return np.where(
        generator.random(answers.shape) < share, np.minimum(answers, 0.0) - (answers <= 0), answers
    ).clip(-1)


def promise(it: Test, whole: bool) -> float | None:
    """Return what a comparison could detect by its own words."""
    return it.find_worst_case_detectable(ALPHA) if whole else it.detectable_difference(ALPHA)


def is_found(it: Test) -> bool:
    """Whether a loss is found."""
    (decision,) = decide_comparisons_with_holm([it])
    return decision.finding is Finding.worse


def of_means(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return the powers of families and of several answers to a question."""
    heads = "units", "answers each", "differ", "the loss    ", "says points", "found %"
    table, rates = (
        Table(f"means: {pairs:,} pairs a line with the loss that a first pair calls detectable", *heads),
        [],
    )
    shapes = [(count, OF_TEN, 1) for count in FAMILIES] + [(count, 1, samples) for count, samples in ANSWERED]
    for units, size, samples in shapes:
        families = None if size == 1 else np.repeat(np.arange(units), size)
        for rate in (0.0, DIFFER):
            for whole in (False, True):
                said, found, of = [], 0, 0
                for _ in range(FIRST if rate else 1):
                    first = noise(generator, units * size, samples, rate).mean(axis=1)
                    loss = promise(compared(first, families, samples), whole)
                    if loss is None:
                        continue
                    said.append(loss)
                    for _ in range(pairs // (FIRST if rate else 1)):
                        drawn = noise(generator, units * size, samples, rate)
                        drawn = with_loss(generator, drawn, families, loss, rate, whole)
                        found += is_found(compared(drawn.mean(axis=1), families, samples))
                        of += 1
                if not said:
                    table.row(units, size * samples, f"{rate:.0%}", "whole" if whole else "even", "none")
                    continue
                rates.append(Rate(found, of))
                points = f"{100 * np.median(said):.1f}"
                table.row(
                    units, size * samples, f"{rate:.0%}", "whole" if whole else "even", points, rates[-1]
                )
    return rates


def over_five_seeds(generator: np.random.Generator, loss: float) -> SeedTest:
    """Compare the means over seeds of two runs, of which one loses so much."""
    sides = []
    for lower in (loss, 0.0):
        accuracies = (0.7 - lower + SEED_SPREAD * generator.standard_normal(SEEDS)).clip(0, 1)
        sides.append((generator.random((SEEDS, SEED_QUESTIONS)) < accuracies[:, None]).astype(float))
    by_question = compared(sides[0].mean(axis=0) - sides[1].mean(axis=0), None, SEEDS)
    return SeedTest(by_question, *(side.mean(axis=1).tolist() for side in sides))


def of_seeds(generator: np.random.Generator, pairs: int) -> list[Rate]:
    """Print and return the power over five seeds a side."""
    table = Table(
        f"{SEEDS} seeds, {SEED_QUESTIONS} questions: {pairs:,} pairs", "seeds", "says points", "found %"
    )
    said, found, each = [], 0, max(1, pairs // FIRST)
    for _ in range(FIRST):
        loss = promise(over_five_seeds(generator, 0.0), False)
        assert loss is not None
        said.append(loss)
        found += sum(is_found(over_five_seeds(generator, loss)) for _ in range(each))
    rate = Rate(found, FIRST * each)
    table.row(SEEDS, f"{100 * np.median(said):.1f}", rate)
    return [rate]


def of_numbers(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print the powers of numbers; return those of a move of all, and of few questions that lose
    all."""
    heads = ("n", f"{'number':18}", "says", "found, all moved %", "says at worst", "found, few fall %")
    table, all_moved, few_fall = Table(f"numbers: {pairs:,} pairs a line", *heads), [], []
    for n in NUMBERS_OF:
        for name, draw in KINDS.items():
            better = -1 if name in LOWER else 1
            many, _ = draw(generator, MANY)
            worst = float(many.min() if better > 0 else many.max())
            gap = abs(float(many.mean()) - worst)
            moved, fell, said, of, of_few = 0, 0, [], 0, 0
            for _ in range(FIRST):
                first = verdict(*draw(generator, n), better)
                if first.detectable is None or first.detectable_at_worst is None:
                    continue  # too few questions differ: nothing is said
                said.append((first.detectable, first.detectable_at_worst))
                of += pairs // FIRST
                for _ in range(pairs // FIRST):
                    ours, theirs = draw(generator, n)
                    moved += verdict(ours - better * said[-1][0], theirs, better).finding is Finding.worse
                    if said[-1][1] < gap:
                        ours, theirs = draw(generator, n)
                        fallen = lost(generator, ours, said[-1][1] / gap, worst)
                        fell += verdict(fallen, theirs, better).finding is Finding.worse
                        of_few += 1
            if not said:
                table.row(n, name, "none", "-", "none", "-")
                continue
            all_moved.append(Rate(moved, of))
            cells = [f"{value:.3g}" for value in np.median(said, axis=0)]
            if of_few:
                few_fall.append(Rate(fell, of_few))
            table.row(n, name, cells[0], all_moved[-1], cells[1], few_fall[-1] if of_few else "-")
    return all_moved, few_fall


def twenty_points(generator: np.random.Generator, pairs: int) -> None:
    """Print how often 20 families that lose 20 points are found to be worse, and how wide intervals
    are around 60."""
    heads = "families", "as it decides %", "Student's t alone %"
    table = Table(f"accuracy 80 % and 60 %: {pairs:,} pairs a line", *heads)
    for families in (10, 20, 40):
        found, by_student = 0, 0
        for _ in range(pairs):
            solved, family = family_answers(generator, families, OF_TEN, False, [0.8, 0.6])
            differences = solved[1].astype(float) - solved[0]
            it = MeanDifference.from_differences(differences.tolist(), family.tolist())
            found += it.difference < 0 and it.p < ALPHA
            means = differences.reshape(families, OF_TEN).mean(axis=1)
            t = means.mean() / (means.std(ddof=1) / families**0.5)
            by_student += t < 0 and student_p_value(float(t), families - 1) < ALPHA
        table.row(families, Rate(found, pairs), Rate(by_student, pairs))
    table = Table("the width of the interval, 80 % and 60 %: median", "families", "points")
    for families in (57, 58, 59, 60, 61, 62):
        widths = []
        for _ in range(min(pairs, 60)):
            solved, family = family_answers(generator, families, OF_TEN, False, [0.8, 0.6])
            low, high = MeanDifference.from_differences(
                (solved[1].astype(float) - solved[0]).tolist(), family.tolist()
            ).compute_interval()
            widths.append(high - low)
        table.row(families, f"{100 * np.median(widths):.1f}")


def random_truth(generator: np.random.Generator, families: int) -> tuple[Numbers, Numbers]:
    """Draw a discrete truth of mean 0 between -1 and 1: its values, and the chance of each.

    The first one is rare.
    """
    while True:
        count = int(generator.integers(3, 6))
        rare = min(0.5, generator.choice([0.5, 1.0, 2.0, 3.0, 5.0]) / families)
        values = generator.uniform(-1, 1, count) * generator.choice([0.05, 0.2, 1.0], count)
        values[0] = generator.choice([-1.0, 1.0, 0.6])
        chances = np.append(rare, (1 - rare) * generator.dirichlet(np.ones(count - 1)))
        values[1:] -= chances @ values / (1 - rare)
        if np.abs(values).max() <= 1:
            return values, chances


def of_random_truths(generator: np.random.Generator) -> list[Rate]:
    """Print how often random truths of mean 0 are called a difference: on average, and the worst of
    them. Return the averages of those whose rare value is not rarer than four in n."""
    heads = "families", "of all truths %", "of the worst one %", "rare value: 4 in n and more %"
    table, rates = (
        Table(f"{TRUTHS} random truths of mean 0, {TRUTH_DRAWS:,} comparisons of each", *heads),
        [],
    )
    for families in TRUTH_SIZES:
        wrong, often = [], []
        for _ in range(TRUTHS):
            values, chances = random_truth(generator, families)
            sums = generator.choice(values, p=chances, size=(TRUTH_DRAWS, families))
            wrong.append(int((compute_mean_p_values(sums, np.ones_like(sums), 0.0) < ALPHA).sum()))
            if chances[0] * families >= ENOUGH:
                often.append(wrong[-1])
        cells = [Rate(sum(wrong), TRUTHS * TRUTH_DRAWS), Rate(max(wrong), TRUTH_DRAWS)]
        rates += [Rate(sum(often), len(often) * TRUTH_DRAWS)] * bool(often)
        table.row(families, *cells, rates[-1] if often else "-")
    return rates


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("power_null", __doc__, 400), Limits()
    limits.planned += of_means(generator, pairs)
    limits.planned += of_seeds(generator, pairs)
    twenty_points(generator, pairs)
    limits.false += of_random_truths(generator)
    all_moved, few_fall = of_numbers(generator, pairs)
    limits.planned += all_moved
    limits.powers += few_fall
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
