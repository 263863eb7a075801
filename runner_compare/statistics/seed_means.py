"""Computes means over questions and seeds, for jobs that differ only in their seed.

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
from runner_compare.statistics.accuracy_intervals import compute_exact_accuracy_interval
from runner_compare.statistics.stats import ALPHA, POWER, bisect_to_interval_end, compute_student_quantile

MANY = 10**6  # degrees of freedom that are as good as any number
LEAST_P = 1e-300  # of which the normal quantile is finite

MIN_FREEDOM = (
    4  # of what seeds vary by: fewer seeds do not show what they could detect (bench/compare/power_null.py)
)
DRAWS = 20_000  # of questions and seeds: a power has an error of 0.3 points

# a row for each seed, and in each row a value for each question
SeedQuestionMatrix = Sequence[Sequence[float]]


@dataclass(frozen=True)
class ErrorComponent:
    """Contribution of one source (questions or seeds) to the error of a mean."""

    variance: float
    freedom: int  # the degrees of freedom of that variance
    bend: float = 0.0  # the skewness of what was averaged, over the root of its number

    def compute_mean_error_bound(self, alpha: float, is_overestimate: bool) -> float:
        """Return an upper bound on how far the mean lies above (or below) the true value.

        The bound is the larger of Student's and Hall's bounds.
        """
        if not self.variance:
            return 0.0
        student = compute_student_quantile(alpha, self.freedom)
        hall = ratios.restore_skewness(student if is_overestimate else -student, self.bend)
        return max(student, hall if is_overestimate else -hall) * math.sqrt(self.variance)


@dataclass(frozen=True)
class CrossedMean:
    """Mean over questions and seeds, with its error components."""

    mean: float
    parts: tuple[ErrorComponent, ...]  # the first is that of the questions; a single seed adds none

    @classmethod
    def from_values(
        cls, values: SeedQuestionMatrix, clusters: Sequence[Hashable] | None = None
    ) -> CrossedMean:
        """Compute the mean over seeds and questions.

        Questions of one cluster count as one question.
        """
        by_question = [fmean(of_question) for of_question in zip(*values, strict=True)]
        parts = (
            estimate_question_sampling_error(by_question, clusters),
            *compute_seed_errors([fmean(of_seed) for of_seed in values]),
        )
        return cls(fmean(by_question), parts)

    @classmethod
    def from_difference(
        cls,
        cells: SeedQuestionMatrix,
        base_cells: SeedQuestionMatrix,
        clusters: Sequence[Hashable] | None = None,
    ) -> CrossedMean:
        """Compute the mean difference of two jobs on the same questions, with independent seeds."""
        by_question = [
            fmean(of_question) - fmean(base_of_question)
            for of_question, base_of_question in zip(
                zip(*cells, strict=True), zip(*base_cells, strict=True), strict=True
            )
        ]
        of_sides = [
            part
            for side in (cells, base_cells)
            for part in compute_seed_errors([fmean(of_seed) for of_seed in side])
        ]
        return cls(fmean(by_question), (estimate_question_sampling_error(by_question, clusters), *of_sides))

    @property
    def standard_error(self) -> float:
        return math.sqrt(math.fsum(part.variance for part in self.parts))

    def compute_interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval. It is infinite for a single question."""
        if math.isinf(self.standard_error):
            return -math.inf, math.inf
        return self.mean - compute_combined_error_bound(
            self.parts, ALPHA, True
        ), self.mean + compute_combined_error_bound(self.parts, ALPHA, False)

    def p_value(self) -> float:
        """Return the two-sided p-value against a mean of 0, consistent with the interval."""
        return 1.0 if math.isinf(self.standard_error) else compute_difference_p_value(self.parts, self.mean)


def compute_combined_error_bound(
    components: Sequence[ErrorComponent], alpha: float, is_overestimate: bool
) -> float:
    return math.hypot(*(part.compute_mean_error_bound(alpha, is_overestimate) for part in components))


def compute_difference_p_value(components: Sequence[ErrorComponent], difference: float) -> float:
    """Return the two-sided p-value of a difference over questions and seeds.

    The p-value is the level at which the error bound equals the difference.
    """
    if not difference:
        return 1.0
    least = bisect_to_interval_end(
        lambda log_p: (
            compute_combined_error_bound(components, math.exp(log_p), difference > 0) < abs(difference)
        ),
        0.0,
        math.log(LEAST_P),
    )
    return math.exp(least)


def estimate_question_sampling_error(
    by_question: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> ErrorComponent:
    sums, sizes = ratios.sum_by_cluster(by_question, clusters)
    bend = ratios.skewness(sums, sizes) / math.sqrt(len(sums))
    return ErrorComponent(ratios.compute_ratio_standard_error(sums, sizes) ** 2, max(1, len(sums) - 1), bend)


def compute_seed_errors(seed_means: Sequence[float]) -> list[ErrorComponent]:
    return (
        [ErrorComponent(variance(seed_means) / len(seed_means), len(seed_means) - 1)]
        if len(seed_means) > 1
        else []
    )


def compute_accuracy_interval_over_seeds(
    verdicts: SeedQuestionMatrix, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """Return the 95 % score interval of an accuracy over questions and seeds."""
    mean = CrossedMean.from_values(verdicts, clusters)
    units = len(verdicts[0]) if clusters is None else len(set(clusters))
    if units < 2:
        return 0.0, 1.0
    spread, of_units = mean.mean * (1 - mean.mean), compute_student_quantile(ALPHA, units - 1)
    # relative to the error of a single answer: never less than all answers are worth; without
    # errors, as units are
    straight = [replace(part, bend=0.0) for part in mean.parts]
    least = of_units / math.sqrt(sum(map(len, verdicts)))
    relative = (
        max(least, compute_combined_error_bound(straight, ALPHA, True) / math.sqrt(spread))
        if spread
        else of_units / math.sqrt(units)
    )

    def is_compatible(true: float) -> bool:
        return abs(mean.mean - true) <= relative * math.sqrt(true * (1 - true))

    return bisect_to_interval_end(is_compatible, mean.mean, 0.0), bisect_to_interval_end(
        is_compatible, mean.mean, 1.0
    )


def compute_exact_interval_over_seeds(
    verdicts: SeedQuestionMatrix, clusters: Sequence[str | None] | None = None
) -> tuple[float, float]:
    """Return a conservative confidence interval of an accuracy over questions and seeds.

    The interval is exact for questions and uses Student's t for seeds. No interval is exact for
    seeds, because few seeds do not show a rare bad seed.
    """
    by_question = [fmean(of_question) for of_question in zip(*verdicts, strict=True)]
    mean, seeds = (
        fmean(by_question),
        compute_combined_error_bound(
            compute_seed_errors([fmean(of_seed) for of_seed in verdicts]), ALPHA, True
        ),
    )
    exact_low, exact_high = compute_exact_accuracy_interval(
        by_question, clusters or [*map(str, range(len(by_question)))]
    )
    low, high = compute_accuracy_interval_over_seeds(verdicts, clusters)
    below, above = math.hypot(mean - exact_low, seeds), math.hypot(exact_high - mean, seeds)
    return max(0.0, min(low, mean - below)), min(1.0, max(high, mean + above))


def combine_question_and_seed_errors(
    question_p_value: float, difference: float, seed_components: Sequence[ErrorComponent]
) -> tuple[ErrorComponent, ...] | None:
    """Return the error components of a difference: one for the questions, followed by those of the seeds.

    The component for questions follows from their p-value. Returns None if the difference is 0
    or its p-value is 1.
    """
    quantile = -NormalDist().inv_cdf(max(question_p_value, LEAST_P) / 2)
    return (
        (ErrorComponent((difference / quantile) ** 2, MANY), *seed_components)
        if quantile > 0 and difference
        else None
    )


def find_detectable_difference_over_seeds(
    detectable_over_questions: float, seed_components: Sequence[ErrorComponent], alpha: float
) -> float | None:
    """Return the smallest true difference that a test over questions and seeds detects.

    None if the test detects no difference up to 1.

    A difference is detected if it exceeds the bound plus the random error: so the smallest one
    is a quantile of their sum over draws of questions and seeds. The spread of few seeds
    differs from draw to draw, too.
    """
    import numpy as np

    generator, normal = np.random.default_rng(0), NormalDist()
    quantile = -normal.inv_cdf(alpha / 2)
    questions = detectable_over_questions / (quantile + normal.inv_cdf(POWER))  # the standard error
    squares = np.full(DRAWS, (quantile * questions) ** 2)
    chance = questions * generator.standard_normal(DRAWS)
    for part in seed_components:
        seen = part.variance * generator.chisquare(part.freedom, DRAWS) / part.freedom
        squares += seen * compute_student_quantile(alpha, part.freedom) ** 2
        chance += math.sqrt(part.variance) * generator.standard_normal(DRAWS)
    least = float(np.quantile(np.sqrt(squares) + chance, POWER))
    return least if least <= 1 else None
