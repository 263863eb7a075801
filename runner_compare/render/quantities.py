"""Defines text, JSON keys and number formats of each compared quantity and each test method."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from runner_base import NumberFormatter
from runner_compare.statistics import CAUTION, CAUTION_BELOW, FLIPS, MIN_RUNS, Decision, Effect, Method
from runner_compare.statistics.paired_means import CAUTION as CAUTION_OF_FAMILIES


def format_percentage_points(difference: float, extra_digits: int = 0) -> str:
    """Format a fraction as signed percentage points: −0.4, 0.0, +1.3."""
    text = f"{100 * difference:+.{1 + extra_digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def format_nats(value: float, extra_digits: int = 0) -> str:
    """Format a difference in nats with a sign: −0.00128, +0.00004."""
    return f"{value:+.{5 + extra_digits}f}".replace("-", "−")


def format_rounded_up_points(difference: float) -> str:
    """Format a detectable difference in points, rounded up so that the stated power holds."""
    return f"{math.ceil(1000 * difference) / 10:.1f}"


def format_signed(value: float, extra_digits: int = 0) -> str:
    """Format a difference to four digits: −0.0128, +3.5."""
    return f"{value:+.{4 + extra_digits}g}".replace("-", "−")


def format_ratio(ratio: float, extra_digits: int = 0) -> str:
    """Format a ratio to three digits: 0.952, 2.5."""
    return f"{ratio:.{3 + extra_digits}g}"


@dataclass(frozen=True)
class Quantity:
    """Number formats, JSON keys and legend of one compared quantity, such as accuracy.

    {unit} is the divisor of likelihoods.
    """

    record_key: str  # the key of its effects in a row's JSON record
    keys: str  # the keys of an effect's record
    # writes one of its effects; a second argument asks for so many digits more
    write: NumberFormatter
    unit: str = ""
    write_detectable: Callable[[float], str] = "{:.2g}".format
    pairs: str = ""  # the outcomes of pairs
    counted: str = "questions"  # what `sample` counts, for the head of a column
    power: str = "about 80 %"  # the probability of showing the minimum detectable difference
    legend: tuple[str, str] = ("", "")  # the words before and after those of the methods


# of the intervals of a table
TOGETHER = (
    "The intervals of Δ are simultaneous: all contain the true differences in 95 % of cases. They agree with "
    "the findings"
)
ACCURACIES = Quantity(
    record_key="comparison",
    keys="baseline_job_id difference difference_low difference_high simultaneous_low simultaneous_high p method wins "
    "losses ties p_holm finding detectable_difference baseline_correct baseline_n remark margin verdict "
    "questions_needed early_stop_comparisons clusters samples_a_question detectable_at_worst",
    write=format_percentage_points,
    unit="points",
    pairs="{wins}/{losses}/{ties}",
    write_detectable=format_rounded_up_points,
    power="≥ 80 %",
    legend=(
        "Δ is in percentage points. Wins, losses, ties and p (McNemar's exact test) are paired on the same questions.",
        "Holm is the p-value after Holm's correction for the {comparisons} of this table. " + TOGETHER + ".",
    ),
)
LIKELIHOODS = Quantity(
    record_key="shift",
    keys="baseline_job_id difference difference_low difference_high simultaneous_low simultaneous_high error p samples "
    "size unit p_holm finding detectable_difference remark margin verdict questions_needed",
    write=format_nats,
    unit="nats/{unit}",
    legend=(
        "Δ is the difference of the log-likelihood in nats per {unit}, over the same {unit}s. Below 0, a run finds the "
        "documents less likely than the baseline does.",
        "Holm is the p-value after Holm's correction for the {comparisons} "
        "of this table. A finding needs a value "
        "below {alpha:g}. "
        + TOGETHER
        + ". They are of ratios of sums over samples (Student's t and Hall's).",
    ),
)
NUMBERS = Quantity(
    record_key="number",
    keys="measure baseline_job_id mean baseline_mean difference difference_low difference_high simultaneous_low "
    "simultaneous_high error p method questions p_holm finding detectable_difference detectable_at_worst remark",
    write=format_signed,
    unit="{unit}",
    legend=(
        "Δ is the difference of the mean {unit} of a question, over the same questions.",
        "Holm is the p-value after Holm's correction for the {comparisons} "
        "of this table. A finding needs a value "
        "below {alpha:g}. " + TOGETHER + " (Student's t and Hall's).",
    ),
)
REPEATS = Quantity(
    record_key="ratios",
    keys="measure ratio ratio_low ratio_high simultaneous_low simultaneous_high repeats baseline_repeats p p_holm "
    "comparisons finding method runs baseline_runs margin verdict runs_needed",
    write=format_ratio,
    counted="runs",
    legend=("Each ratio divides a run's value by the baseline's value.", ""),
)
DIFFERENCES = (ACCURACIES, LIKELIHOODS, NUMBERS)  # a row has at most one of them
# The keys of a record whose field of an effect has another name
FIELDS = {
    "difference": "value",
    "difference_low": "low",
    "difference_high": "high",
    "detectable_difference": "detectable",
    "ratio": "value",
    "ratio_low": "low",
    "ratio_high": "high",
    "samples": "n",
    "samples_a_question": "samples",
    "runs": "n",
    "baseline_runs": "baseline_n",
    "questions_needed": "needed",
    "runs_needed": "needed",
}


FEWER = ", ".join(f"{factor:g} times below {samples}" for samples, factor in reversed(CAUTION_BELOW.items()))
CAUTIOUS = f"{CAUTION:g} times ({FEWER} samples)"
# of fewer, often none or one is in the sample (bench/compare/likelihood_null.py)
RARE = "of which fewer than about 4 are expected in it"
OF_FLIPS = (
    f"There are up to {FLIPS:,} flips. p is {CAUTIOUS} the share of flips that reaches the sum. If that is larger, "
    "p is as many times the larger p of t-tests with and without the differences' skewness. The sample may contain too "
    f"few {{}}s of a kind {RARE}, and no test allows for this."
)


@dataclass(frozen=True)
class MethodTexts:
    """Text templates for the results of one test method.

    Templates contain fields and counts of the effect as `{…}`.
    """

    quantity: Quantity
    sample: str = "{n:,}"  # the sample size
    pairs: str = ""  # the outcomes of the pairs, if not as of its quantity
    interval: str = "95 % interval"
    legend: str = ""


# by the name that an effect has
METHODS: dict[str, MethodTexts] = {
    Method.mcnemar: MethodTexts(ACCURACIES),
    Method.weighted_flips: MethodTexts(
        ACCURACIES,
        legend="If question sets have equal weight, p is the larger of two p-values: "
        "that of the weighted McNemar test and that of the interval.",
    ),
    Method.fisher: MethodTexts(
        ACCURACIES,
        sample="{n:,} and {baseline_n:,}, Fisher's exact test",
        pairs="unpaired",
        legend="Rows without wins are unpaired comparisons (Fisher's exact test, Newcombe's interval).",
    ),
    Method.mean_flips: MethodTexts(
        ACCURACIES,
        sample="{n:,}{grouping}",
        legend="For means of samples and for clusters of questions, p and intervals count whole questions or clusters. "
        "p is the largest of three tests: sign flips, Student's t and Hall's, which allow for skewness. "
        "If a kind of question may be all lost and absent from the sample, p is multiplied by "
        f"{CAUTION_OF_FAMILIES:g}. "
        f"The sample may contain too few questions of a kind {RARE}.",
    ),
    Method.over_seeds: MethodTexts(
        ACCURACIES,
        sample="{n:,}{grouping}",
        legend="For means over seeds, p and interval cover questions and seeds (Student's t).",
    ),
    Method.sequential: MethodTexts(
        ACCURACIES,
        interval="anytime-valid {confidence:g} % interval",
        legend="For runs with early stopping, p and interval come from an "
        "e-process and are valid at any time.",
    ),
    Method.sign_flips: MethodTexts(
        LIKELIHOODS,
        sample="{n:,}, {size:,} {unit}s",
        legend="p comes from a sign-flip test of the samples' differences. "
        "Each sample's difference is summed over its {unit}s. The sample size "
        "is the number of samples. " + OF_FLIPS.format("document"),
    ),
    Method.number_flips: MethodTexts(
        NUMBERS,
        sample="{questions:,}{grouping}",
        legend="p comes from a sign-flip test of the differences per question. "
        + OF_FLIPS.format("question"),
    ),
    Method.student_t: MethodTexts(
        REPEATS,
        sample="{n}/{baseline_n}",
        legend=f"With {MIN_RUNS} runs a side or more, each in a process of its own, they are of geometric means over "
        "runs. A run counts by the median of its repeats. The intervals of one measure contain all its true ratios "
        "together in 95 % of cases. p and interval are Student's t over the runs' logarithms. Holm is over the "
        "comparisons of one measure, and below {alpha:g} decides.",
    ),
    Method.too_few_runs: MethodTexts(
        REPEATS,
        sample="{n}/{baseline_n}",
        legend=f"With fewer than {MIN_RUNS} runs a side they are of medians over the repeats of one run each. The "
        "brackets are the range of these repeats; one repeat has none. They hold within these processes only, and "
        "nothing is tested.",
    ),
}


def suggest_more_questions_or_clusters(decision: Decision) -> str:
    if not decision.counts.get("few"):
        return ""
    if decision.counts["clusters"]:
        return (
            "use questions from new clusters: the clusters limit the precision, not the number of questions"
        )
    return "use more questions: the questions limit the precision, not the answers per question"


def format_worst_case_condition(decision: Decision) -> str:
    if decision.counts.get("clusters"):
        return "if whole clusters are lost"
    return (
        "if a few questions lose all" if "samples" not in decision.counts else "if whole questions are lost"
    )


def fill_template(template: str, effect: Effect) -> str:
    return template.format(**vars(effect), **effect.counts)


def find_quantity(effect: Effect) -> Quantity:
    return METHODS[effect.method].quantity


def effect_unit(effect: Effect) -> str:
    """Return the unit of the differences in a comparison, e.g. `points` or `nats/token`."""
    return fill_template(find_quantity(effect).unit, effect)
