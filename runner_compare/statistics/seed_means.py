"""Means over questions and seeds, for jobs that differ only in their seed.

Another seed gives other answers and, in a team that learns, another graph. So a mean over
jobs has two errors: other questions would give another mean, and so would other seeds. Each
has its own bound, by Student's t with its own degrees of freedom, and the squares of both
are added. Satterthwaite's rule, with one bound for both, covers the truth too seldom for
two or three seeds with a few points between them (team_tokens.py). The variation of single
answers is in both, so the error is rather too large than too small. One seed shows nothing
about others: then only questions count.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, variance

from runner_compare.statistics import ratios
from runner_compare.statistics.accuracy_intervals import exact_accuracy_interval
from runner_compare.statistics.stats import ALPHA, POWER, find_interval_end, student_quantile

MANY = 10**6  # degrees of freedom that are as good as any number
LEAST_P = 1e-300  # of which the normal quantile is finite

MIN_FREEDOM = (
    4  # of what seeds vary by: fewer seeds do not show what they could detect (bench/compare/power_null.py)
)
DRAWS = 20_000  # of questions and seeds: a power has an error of 0.3 points

Cells = Sequence[Sequence[float]]  # a row for each seed, and in each row a value for each question


@dataclass(frozen=True)
class ErrorComponent:
    """Contribution of one source (questions or seeds) to the error of a mean."""

    variance: float
    freedom: int  # the degrees of freedom of that variance
    bend: float = 0.0  # the skewness of what was averaged, over the root of its number

    def error_bound(self, alpha: float, is_above: bool) -> float:
        """Return a bound on how far the mean is above (or below) the truth: the larger of
        Student's and Hall's.
        """
        if not self.variance:
            return 0.0
        student = student_quantile(alpha, self.freedom)
        hall = ratios.restore_skewness(student if is_above else -student, self.bend)
        return max(student, hall if is_above else -hall) * math.sqrt(self.variance)


@dataclass(frozen=True)
class CrossedMean:
    """Mean over questions and seeds, with its error components."""

    mean: float
    parts: tuple[ErrorComponent, ...]  # the first is that of the questions; a single seed adds none

    @classmethod
    def from_values(cls, values: Cells, clusters: Sequence[Hashable] | None = None) -> CrossedMean:
        """Compute the mean from each seed's values per question. Clustered questions count as one."""
        by_question = [fmean(of_question) for of_question in zip(*values, strict=True)]
        parts = (question_error(by_question, clusters), *seed_errors([fmean(of_seed) for of_seed in values]))
        return cls(fmean(by_question), parts)

    @classmethod
    def from_difference(
        cls, cells: Cells, base_cells: Cells, clusters: Sequence[Hashable] | None = None
    ) -> CrossedMean:
        """Compute the mean difference of two jobs on the same questions, with independent seeds."""
        by_question = [
            fmean(of_question) - fmean(base_of_question)
            for of_question, base_of_question in zip(
                zip(*cells, strict=True), zip(*base_cells, strict=True), strict=True
            )
        ]
        of_sides = [
            part for side in (cells, base_cells) for part in seed_errors([fmean(of_seed) for of_seed in side])
        ]
        return cls(fmean(by_question), (question_error(by_question, clusters), *of_sides))

    @property
    def standard_error(self) -> float:
        return math.sqrt(math.fsum(part.variance for part in self.parts))

    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval; infinite for a single question."""
        if math.isinf(self.standard_error):
            return -math.inf, math.inf
        return self.mean - combined_bound(self.parts, ALPHA, True), self.mean + combined_bound(
            self.parts, ALPHA, False
        )

    def p_value(self) -> float:
        """Return the two-sided p-value against a mean of 0, consistent with the interval."""
        return 1.0 if math.isinf(self.standard_error) else p_value_of_gap(self.parts, self.mean)


def combined_bound(components: Sequence[ErrorComponent], alpha: float, is_above: bool) -> float:
    """Return a bound on how far a mean with these error components is above (or below) the truth."""
    return math.hypot(*(part.error_bound(alpha, is_above) for part in components))


def p_value_of_gap(components: Sequence[ErrorComponent], gap: float) -> float:
    """Return the two-sided p-value of a difference: the level at which the error bound equals it."""
    if not gap:
        return 1.0
    least = find_interval_end(
        lambda log_p: combined_bound(components, math.exp(log_p), gap > 0) < abs(gap), 0.0, math.log(LEAST_P)
    )
    return math.exp(least)


def question_error(
    by_question: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> ErrorComponent:
    """Return the error component of a mean that comes from questions, or from their clusters."""
    sums, sizes = ratios.sum_by_cluster(by_question, clusters)
    bend = ratios.skewness(sums, sizes) / math.sqrt(len(sums))
    return ErrorComponent(ratios.ratio_standard_error(sums, sizes) ** 2, max(1, len(sums) - 1), bend)


def seed_errors(seed_means: Sequence[float]) -> list[ErrorComponent]:
    """Return the error component of a mean that comes from seeds; [] for a single seed."""
    return (
        [ErrorComponent(variance(seed_means) / len(seed_means), len(seed_means) - 1)]
        if len(seed_means) > 1
        else []
    )


def accuracy_interval_over_seeds(
    solved: Cells, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """Return the 95 % score interval of an accuracy over questions and seeds."""
    mean = CrossedMean.from_values(solved, clusters)
    units = len(solved[0]) if clusters is None else len(set(clusters))
    if units < 2:
        return 0.0, 1.0
    spread, of_units = mean.mean * (1 - mean.mean), student_quantile(ALPHA, units - 1)
    # relative to the error of a single answer: never less than all answers are worth; without
    # errors, as units are
    straight = [replace(part, bend=0.0) for part in mean.parts]
    least = of_units / math.sqrt(sum(map(len, solved)))
    relative = (
        max(least, combined_bound(straight, ALPHA, True) / math.sqrt(spread))
        if spread
        else of_units / math.sqrt(units)
    )

    def is_compatible(true: float) -> bool:
        return abs(mean.mean - true) <= relative * math.sqrt(true * (1 - true))

    return find_interval_end(is_compatible, mean.mean, 0.0), find_interval_end(is_compatible, mean.mean, 1.0)


def exact_interval_over_seeds(
    solved: Cells, clusters: Sequence[str | None] | None = None
) -> tuple[float, float]:
    """Return an accuracy's interval: exact for questions, Student's t for seeds.

    No end is exact for seeds: a few do not show a rare bad one, and an end that allows for it
    has no content.
    """
    by_question = [fmean(of_question) for of_question in zip(*solved, strict=True)]
    mean, seeds = (
        fmean(by_question),
        combined_bound(seed_errors([fmean(of_seed) for of_seed in solved]), ALPHA, True),
    )
    exact_low, exact_high = exact_accuracy_interval(
        by_question, clusters or [*map(str, range(len(by_question)))]
    )
    low, high = accuracy_interval_over_seeds(solved, clusters)
    below, above = math.hypot(mean - exact_low, seeds), math.hypot(exact_high - mean, seeds)
    return max(0.0, min(low, mean - below)), min(1.0, max(high, mean + above))


def add_seed_errors(
    question_p: float, gap: float, seed_components: Sequence[ErrorComponent]
) -> tuple[ErrorComponent, ...] | None:
    """Return the error components of a difference: from questions, derived from their p-value, and
    from seeds.

    Returns None if the questions show nothing against the gap.
    """
    quantile = -NormalDist().inv_cdf(max(question_p, LEAST_P) / 2)
    return (ErrorComponent((gap / quantile) ** 2, MANY), *seed_components) if quantile > 0 and gap else None


def detectable_difference_over_seeds(
    detectable_by_questions: float, seed_components: Sequence[ErrorComponent], alpha: float
) -> float | None:
    """Return the smallest true difference that is detected with 80 % power over questions and
    seeds; None above 1.

    A difference is detected if it exceeds the bound plus the random error: so the smallest one
    is a quantile of their sum over draws of questions and seeds. The spread of few seeds
    differs from draw to draw, too.
    """
    import numpy as np

    generator, normal = np.random.default_rng(0), NormalDist()
    quantile = -normal.inv_cdf(alpha / 2)
    questions = detectable_by_questions / (quantile + normal.inv_cdf(POWER))  # the standard error
    squares = np.full(DRAWS, (quantile * questions) ** 2)
    chance = questions * generator.standard_normal(DRAWS)
    for part in seed_components:
        seen = part.variance * generator.chisquare(part.freedom, DRAWS) / part.freedom
        squares += seen * student_quantile(alpha, part.freedom) ** 2
        chance += math.sqrt(part.variance) * generator.standard_normal(DRAWS)
    least = float(np.quantile(np.sqrt(squares) + chance, POWER))
    return least if least <= 1 else None
