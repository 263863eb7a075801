"""What is compared: accuracies, likelihoods, other numbers and repeats, with the words, keys and formats of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from runner_compare.metrics import points
from runner_compare.statistics.effects import Effect


def nats(value: float) -> str:
    """Return a difference in nats: −0.00128, +0.00004."""
    return f"{value:+.5f}".replace("-", "−")


def rounded_up(difference: float) -> str:
    """Return a minimum detectable difference in points, rounded up so that the stated power holds."""
    return f"{math.ceil(1000 * difference) / 10:.1f}"


def signed(value: float) -> str:
    """Return a difference to four digits: −0.0128, +3.5."""
    return f"{value:+.4g}".replace("-", "−")


@dataclass(frozen=True)
class Quantity:
    """What is compared: how its effects are written, recorded and explained; {unit}: the divisor of likelihoods."""

    record_key: str  # the key of its effects in a row's JSON record
    keys: str  # the keys of an effect's record
    write: Callable[[float], str]
    unit: str = ""
    write_detectable: Callable[[float], str] = "{:.2g}".format
    pairs: str = ""  # the outcomes of pairs
    counted: str = "n"  # what `sample` counts, for the head of a column
    power: str = "about 80 %"  # the probability of showing the minimum detectable difference
    legend: tuple[str, str] = ("", "")  # the words before and after those of the methods


ACCURACIES = Quantity(
    record_key="comparison",
    keys="baseline_job_id difference difference_low difference_high p method wins losses ties p_holm finding "
    "detectable_difference baseline_correct baseline_n remark margin verdict questions_needed early_stop_comparisons "
    "clusters samples_a_question detectable_at_worst",
    write=points,
    unit="points",
    pairs="{wins}/{losses}/{ties}",
    write_detectable=rounded_up,
    power="≥ 80 %",
    legend=(
        "Δ in percentage points, wins/losses/ties and p (McNemar, exact) are paired on the same questions;",
        "Holm: p adjusted for the {comparisons} of this table. Intervals hold 95 % each.",
    ),
)
LIKELIHOODS = Quantity(
    record_key="shift",
    keys="baseline_job_id difference difference_low difference_high error p samples size unit p_holm finding "
    "detectable_difference remark margin verdict questions_needed",
    write=nats,
    unit="nats/{unit}",
    legend=(
        "Δ of the log-likelihood in nats a {unit}, over the same {unit}s: below 0, the texts are less likely in a row "
        "than in the baseline.",
        "Holm: adjusted for the {comparisons} of this table, {alpha:g} decides. Intervals hold 95 % each (ratio of "
        "sums over samples, Student's t and Hall's).",
    ),
)
NUMBERS = Quantity(
    record_key="number",
    keys="measure baseline_job_id mean baseline_mean difference difference_low difference_high error p method "
    "questions p_holm finding detectable_difference detectable_at_worst remark",
    write=signed,
    unit="{unit}",
    legend=(
        "Δ of the mean {unit} of a question, over the same questions.",
        "Holm: adjusted for the {comparisons} of this table, {alpha:g} decides. Intervals hold 95 % each (Student's t "
        "and Hall's).",
    ),
)
REPEATS = Quantity(
    record_key="ratios",
    keys="measure ratio ratio_low ratio_high repeats baseline_repeats p p_holm comparisons finding method runs "
    "baseline_runs margin verdict runs_needed",
    write="{:.3g}".format,
    counted="runs",
    legend=("Ratios are of this row to the baseline.", ""),
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


def what_shows_more(it: Effect) -> str:
    """Say what few families, or few questions with several answers each, lack; empty for others."""
    if not it.counts.get("few"):
        return ""
    whole, part = ("families", "questions in") if it.counts["clusters"] else ("questions", "answers to")
    return f"; more {whole} show smaller differences, more {part} each hardly do"


def at_worst(it: Effect) -> str:
    """Say where a difference would lie that is the hardest to detect."""
    if it.counts.get("clusters"):
        return "if whole families are lost"
    return "if a few questions lose all" if "samples" not in it.counts else "if whole questions are lost"
