"""Means over questions and seeds: jobs that differ only in their seed answer the same questions.

Another seed gives other answers and, in a team that learns, another graph. So a mean over jobs has
two errors: other questions would give another mean, and so would other seeds. Each has its own
bound, by Student's t with its own degrees of freedom, and the squares of both are added.
Satterthwaite's rule, with one bound for both, was tried: of two or three seeds with a few points
between them it covers the truth too seldom (team_tokens.py). What single answers vary by is in
both, so the error is rather too large than too small. One seed shows nothing about others: then
only questions count.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, variance

from runner_compare.statistics import ratios
from runner_compare.statistics.clustered_share import guaranteed_interval
from runner_compare.statistics.stats import ALPHA, POWER, edge, student_quantile

MANY = 10**6  # degrees of freedom that are as good as any number
LEAST_P = 1e-300  # of which the normal quantile is finite

MIN_FREEDOM = (
    4  # of what seeds vary by: fewer seeds do not show what they could detect (bench/compare/power_null.py)
)
DRAWS = 20_000  # of questions and seeds: a power has an error of 0.3 points

Cells = Sequence[Sequence[float]]  # a row for each seed, and in each row a value for each question


@dataclass(frozen=True)
class ErrorPart:
    """What one cause adds to the error of a mean."""

    variance: float
    freedom: int  # the degrees of freedom of that variance
    bend: float = 0.0  # the skewness of what was averaged, over the root of its number

    def bound(self, alpha: float, is_above: bool) -> float:
        """Return by how much the mean may be above (or below) the truth: Student's bound and Hall's
        together."""
        if not self.variance:
            return 0.0
        student = student_quantile(alpha, self.freedom)
        hall = ratios.skewed_again(student if is_above else -student, self.bend)
        return max(student, hall if is_above else -hall) * math.sqrt(self.variance)


@dataclass(frozen=True)
class CrossedMean:
    """A mean over questions and seeds, and the parts of its error."""

    mean: float
    parts: tuple[ErrorPart, ...]  # the first is that of the questions; a single seed adds none

    @classmethod
    def of(cls, values: Cells, clusters: Sequence[Hashable] | None = None) -> CrossedMean:
        """Compute it from the values of each seed; questions of one cluster count as one."""
        by_question = [fmean(of_question) for of_question in zip(*values, strict=True)]
        parts = (of_questions(by_question, clusters), *of_seeds([fmean(of_seed) for of_seed in values]))
        return cls(fmean(by_question), parts)

    @classmethod
    def difference(
        cls, cells: Cells, base_cells: Cells, clusters: Sequence[Hashable] | None = None
    ) -> CrossedMean:
        """Compute that of cells minus base cells on the same questions; the seeds of the sides are
        independent."""
        by_question = [
            fmean(of_question) - fmean(base_of_question)
            for of_question, base_of_question in zip(
                zip(*cells, strict=True), zip(*base_cells, strict=True), strict=True
            )
        ]
        of_sides = [
            part for side in (cells, base_cells) for part in of_seeds([fmean(of_seed) for of_seed in side])
        ]
        return cls(fmean(by_question), (of_questions(by_question, clusters), *of_sides))

    @property
    def error(self) -> float:
        """Its standard error."""
        return math.sqrt(math.fsum(part.variance for part in self.parts))

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval; infinite for a single question."""
        if math.isinf(self.error):
            return -math.inf, math.inf
        return self.mean - bound(self.parts, ALPHA, True), self.mean + bound(self.parts, ALPHA, False)

    def p(self) -> float:
        """Return the two-sided p of a true mean of 0, to which the interval belongs."""
        return 1.0 if math.isinf(self.error) else p_of_gap(self.parts, self.mean)


def bound(parts: Sequence[ErrorPart], alpha: float, is_above: bool) -> float:
    """Return by how much a mean with these parts of its error may be above (or below) the truth."""
    return math.hypot(*(part.bound(alpha, is_above) for part in parts))


def p_of_gap(parts: Sequence[ErrorPart], gap: float) -> float:
    """Return the two-sided p of a gap between mean and truth: the level at which the bound reaches
    it."""
    if not gap:
        return 1.0
    least = edge(lambda log_p: bound(parts, math.exp(log_p), gap > 0) < abs(gap), 0.0, math.log(LEAST_P))
    return math.exp(least)


def of_questions(by_question: Sequence[float], clusters: Sequence[Hashable] | None = None) -> ErrorPart:
    """Return what questions add to the error of their mean; of families, what families add."""
    sums, sizes = ratios.cluster_sums(by_question, clusters)
    bend = ratios.skewness(sums, sizes) / math.sqrt(len(sums))
    return ErrorPart(ratios.ratio_error(sums, sizes) ** 2, max(1, len(sums) - 1), bend)


def of_seeds(means: Sequence[float]) -> list[ErrorPart]:
    """Return what seeds add to the error of the mean of their means; nothing for a single one."""
    return [ErrorPart(variance(means) / len(means), len(means) - 1)] if len(means) > 1 else []


def share_over_seeds(solved: Cells, clusters: Sequence[Hashable] | None = None) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy over seeds: the score interval with the error of
    questions and seeds."""
    mean = CrossedMean.of(solved, clusters)
    units = len(solved[0]) if clusters is None else len(set(clusters))
    if units < 2:
        return 0.0, 1.0
    spread, of_units = mean.mean * (1 - mean.mean), student_quantile(ALPHA, units - 1)
    # relative to the error of a single answer: never less than all answers are worth; without
    # errors, as units are
    straight = [replace(part, bend=0.0) for part in mean.parts]
    least = of_units / math.sqrt(sum(map(len, solved)))
    relative = (
        max(least, bound(straight, ALPHA, True) / math.sqrt(spread))
        if spread
        else of_units / math.sqrt(units)
    )

    def is_inside(true: float) -> bool:
        return abs(mean.mean - true) <= relative * math.sqrt(true * (1 - true))

    return edge(is_inside, mean.mean, 0.0), edge(is_inside, mean.mean, 1.0)


def guaranteed_over_seeds(solved: Cells, clusters: Sequence[str | None] | None = None) -> tuple[float, float]:
    """Return an interval whose ends count questions exactly, as those of a single job, and seeds by
    Student's t.

    No end is exact for seeds: a few do not show a rare one that is bad, and an end that allows for
    it says nothing.
    """
    by_question = [fmean(of_question) for of_question in zip(*solved, strict=True)]
    mean, seeds = (fmean(by_question), bound(of_seeds([fmean(of_seed) for of_seed in solved]), ALPHA, True))
    exact_low, exact_high = guaranteed_interval(by_question, clusters or [*map(str, range(len(by_question)))])
    low, high = share_over_seeds(solved, clusters)
    below, above = math.hypot(mean - exact_low, seeds), math.hypot(exact_high - mean, seeds)
    return max(0.0, min(low, mean - below)), min(1.0, max(high, mean + above))


def with_seeds(p: float, gap: float, seeds: Sequence[ErrorPart]) -> tuple[ErrorPart, ...] | None:
    """Return the parts of the error of a gap that questions alone give p; None where they say
    nothing against it."""
    quantile = -NormalDist().inv_cdf(max(p, LEAST_P) / 2)
    return (ErrorPart((gap / quantile) ** 2, MANY), *seeds) if quantile > 0 and gap else None


def detectable_over_seeds(
    of_questions_alone: float, seeds: Sequence[ErrorPart], alpha: float
) -> float | None:
    """Return the smallest true difference that is found in 80 % of draws of questions and seeds;
    None above 1.

    A difference is found if it is more than the bound plus what chance takes from it: so the
    smallest one is a quantile of their sum. Few seeds show little of how far seeds are apart: that
    differs from draw to draw, too.
    """
    import numpy as np

    generator, normal = np.random.default_rng(0), NormalDist()
    quantile = -normal.inv_cdf(alpha / 2)
    questions = of_questions_alone / (quantile + normal.inv_cdf(POWER))  # the standard error
    squares = np.full(DRAWS, (quantile * questions) ** 2)
    chance = questions * generator.standard_normal(DRAWS)
    for part in seeds:
        seen = part.variance * generator.chisquare(part.freedom, DRAWS) / part.freedom
        squares += seen * student_quantile(alpha, part.freedom) ** 2
        chance += math.sqrt(part.variance) * generator.standard_normal(DRAWS)
    least = float(np.quantile(np.sqrt(squares) + chance, POWER))
    return least if least <= 1 else None
