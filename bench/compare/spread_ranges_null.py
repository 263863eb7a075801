"""Does the range of a plan hold what the truth needs? `python bench/compare/spread_ranges_null.py [--samples 400]`.

A plan for questions in clusters, with several answers each, or for texts is made from the spread that a first
sample shows. Its range has to hold the plan that a very large sample gives. The control is a range from the
kurtosis of normal samples, which takes no heavy tail into account.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median

import numpy as np
from likelihood_null import REAL_TEXTS, real_texts
from simulation import Limits, Rate, Table, begin

from runner_compare.statistics import ALPHA, SignFlipTest
from runner_compare.statistics.effects import Test
from runner_compare.statistics.methods.mean_flips import MeanFlipTest
from runner_compare.statistics.planning import compute_standard_error_bound_factors

MARGIN = 0.05
LARGE = 4_000  # clusters or texts of the sample that gives the truth
# clusters, questions in each (0: 2 to 19), disagreement, spread of what a cluster prefers, answers to each question
CLUSTERED = [
    (80, 5, 0.1, 0.0, 1),
    (80, 10, 0.2, 0.3, 1),
    (200, 0, 0.1, 0.3, 1),
    (200, 1, 0.1, 0.0, 4),
    (100, 2, 0.05, 0.2, 1),
]
TEXTS = (80, 200)


def draw_clusters(
    generator: np.random.Generator, clusters: int, size: int, rate: float, spread: float, answers: int
) -> MeanFlipTest:
    """Draw the differences of two equal runs; a cluster may prefer one of them."""
    differences: list[float] = []
    names: list[int] = []
    for cluster in range(clusters):
        count = size or int(generator.integers(2, 20))
        prefers = np.clip(0.5 + generator.normal(0.0, spread), 0.0, 1.0)
        differ = generator.random((answers, count)) < rate
        signs = np.where(generator.random((answers, count)) < prefers, 1.0, -1.0)
        differences += (differ * signs).mean(axis=0).tolist()
        names += [cluster] * count
    return MeanFlipTest(differences, names, "template", answers)


def count_misses(
    draw: Callable[[int], Test], n: int, margin: float, samples: int
) -> tuple[Rate, Rate, Rate, str]:
    """Return how often the range misses the truth, how often it does by the control, how often it
    has no upper end, and its median width."""
    truth = draw(LARGE).plan_sample_size_for_margin(margin, ALPHA)
    assert truth is not None
    misses = control = without_end = 0
    widths = []
    for _ in range(samples):
        test = draw(n)
        low, high = test.estimate_sample_size_interval(margin, ALPHA) or (None, None)
        planned = test.plan_sample_size_for_margin(margin, ALPHA)
        assert low is not None
        assert planned is not None
        misses += low > truth or (high is not None and high < truth)
        without_end += high is None
        if high is not None:
            widths.append(high / low)
        least, most = compute_standard_error_bound_factors(3.0, n, 3.0)
        assert most is not None
        control += not planned * least**2 <= truth <= planned * most**2
    width = f"x {median(widths):.1f}" if widths else ""
    return Rate(misses, samples), Rate(control, samples), Rate(without_end, samples), width


def of_clusters(generator: np.random.Generator, samples: int) -> list[Rate]:
    """Print and return how often the ranges of clusters and of several answers miss the truth."""
    heads = ("clusters", "questions", "answers", "disagree", "misses %", "control %", "no end", "width")
    table, missed = (Table(f"clusters, a margin of 5 points: {samples} first samples a line", *heads), [])
    for clusters, size, rate, spread, answers in CLUSTERED:

        def draw(count: int, keys: tuple[int, float, float, int] = (size, rate, spread, answers)) -> Test:
            return draw_clusters(generator, count, *keys)

        misses, control, without_end, width = count_misses(draw, clusters, MARGIN, samples)
        missed.append(misses)
        table.row(
            clusters, size or "2..19", answers, f"{rate:.0%}", misses, control, without_end.plain, width
        )
    return missed


def of_texts(generator: np.random.Generator, samples: int) -> list[Rate]:
    """Print and return how often the ranges of texts miss the truth: normal differences, heavy
    tails, and those of two quantizations of the embedded model."""

    def flat(
        draw: Callable[[int], np.ndarray[tuple[int, ...], np.dtype[np.float64]]],
    ) -> Callable[[int], Test]:
        return lambda n: SignFlipTest(draw(n).tolist(), [1.0] * n, "token")

    worlds: dict[str, Callable[[int], Test]] = {
        "normal": flat(lambda n: generator.normal(size=n)),
        "Student's t, 5": flat(lambda n: generator.standard_t(5, size=n)),
        "lognormal": flat(lambda n: generator.lognormal(size=n) - np.exp(0.5)),
    }
    for name, (differences, tokens) in real_texts().items():

        def draw(n: int, values: object = differences, sizes: object = tokens) -> Test:
            chosen = generator.integers(REAL_TEXTS, size=n)
            return SignFlipTest(
                np.asarray(values)[chosen].tolist(), np.asarray(sizes)[chosen].tolist(), "token"
            )

        worlds[name] = draw
    heads = f"{'texts':14}", "first n", "misses %", "control %", "no end", "width"
    table, missed = Table(f"texts: {samples} first samples a line", *heads), []
    for name, world in worlds.items():
        large = world(LARGE)
        assert isinstance(large, SignFlipTest)
        margin = 3.2 * large.standard_error * (LARGE / 200) ** 0.5
        for n in TEXTS:
            misses, control, without_end, width = count_misses(world, n, margin, samples)
            missed.append(misses)
            table.row(name, n, misses, control, without_end.plain, width)
    return missed


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (samples, generator, started), limits = (begin("spread_ranges_null", __doc__, 400, "samples"), Limits())
    limits.missed += of_clusters(generator, samples)
    limits.missed += of_texts(generator, samples)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
