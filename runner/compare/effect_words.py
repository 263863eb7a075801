"""Words for effects: an entry for each method in METHODS, and the sentences, cells, legends and records from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.compare.data import ABSENT, TableRow
from runner.compare.wording import assignments, versus
from runner.core.effects import Effect, Finding, Method, repeats_needed
from runner.core.margins import MarginVerdict
from runner.core.metrics import points
from runner.core.ratios import CAUTION, FLIPS
from runner.core.stats import ALPHA


def p_value(p: float) -> str:
    """Return p to two digits, e.g. 0.77, 0.0042, <0.0001."""
    return "<0.0001" if p < 0.0001 else "1.0" if p > 0.995 else f"{p:.2g}"


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
    write_detectable: Callable[[float], str] = str
    counted: str = "n"  # what `sample` counts, for the head of a column
    power: str = ""  # the probability of showing the minimum detectable difference
    legend: tuple[str, str] = ("", "")  # the words before and after those of the methods


ACCURACIES = Quantity(
    record_key="comparison",
    keys="baseline_job_id difference difference_low difference_high p method wins losses ties p_holm finding "
    "detectable_difference baseline_correct baseline_n remark margin verdict questions_needed clusters "
    "samples_a_question",
    write=points,
    unit="points",
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
    write_detectable="{:.2g}".format,
    power="about 80 %",
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
    "questions p_holm finding detectable_difference remark",
    write=signed,
    unit="{unit}",
    write_detectable="{:.2g}".format,
    power="about 80 %",
    legend=(
        "Δ of the mean {unit} of a question, over the same questions.",
        "Holm: adjusted for the {comparisons} of this table, {alpha:g} decides. Intervals hold 95 % each (Student's t "
        "and Hall's).",
    ),
)
REPEATS = Quantity(
    record_key="ratios",
    keys="measure ratio ratio_low ratio_high repeats baseline_repeats p p_holm comparisons finding",
    write="{:.3g}".format,
    counted="repeats",
    legend=(
        "Ratios are of medians over the repeats, with a bootstrap interval that holds 95 %;",
        "Holm over the comparisons of one figure, {alpha:g} decides.",
    ),
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
    "repeats": "n",
    "baseline_repeats": "baseline_n",
    "questions_needed": "needed",
}


@dataclass(frozen=True)
class MethodWords:
    """The words for effects of one method; {…}: the fields and counts of an effect."""

    quantity: Quantity
    sample: str = "{n:,}"  # the sample size
    pairs: str = ""  # the outcomes of the pairs
    interval: str = "95 % interval"
    legend: str = ""


METHODS = {
    Method.mcnemar: MethodWords(ACCURACIES, pairs="{wins}/{losses}/{ties}"),
    Method.fisher: MethodWords(
        ACCURACIES,
        sample="{n:,} and {baseline_n:,}, Fisher's exact test",
        pairs="unpaired",
        legend="rows without wins are unpaired (Newcombe's interval, Fisher's exact test);",
    ),
    Method.mean_flips: MethodWords(
        ACCURACIES,
        sample="{n:,}{grouping}",
        pairs="{wins}/{losses}/{ties}",
        legend="of means of samples, and of families of questions, p flips the signs of the differences of whole "
        "questions or families, and intervals count these (Tango's and Hall's, Student's t);",
    ),
    Method.sequential: MethodWords(
        ACCURACIES,
        pairs="{wins}/{losses}/{ties}",
        interval="always-valid 95 % interval",
        legend="where a run stopped early, p and interval come from bets and still hold;",
    ),
    Method.sign_flips: MethodWords(
        LIKELIHOODS,
        sample="{n:,}, {size:,} {unit}s",
        legend="p: signs of the samples' differences are flipped, each summed over its {unit}s, so that samples count "
        f"(up to {FLIPS:,} flips; p is {CAUTION:g} times the share that reaches the sum, or {CAUTION:g} times the p of "
        "a t-test without the differences' skewness, if that is larger);",
    ),
    Method.number_flips: MethodWords(
        NUMBERS,
        sample="{questions:,}{grouping}",
        legend=f"p: signs of the questions' differences are flipped (up to {FLIPS:,} flips; p is {CAUTION:g} times the "
        f"share that reaches the sum, or {CAUTION:g} times the p of a t-test without the differences' skewness, if "
        "that is larger);",
    ),
    Method.rank_sum: MethodWords(REPEATS, sample="{n}/{baseline_n}", legend="p: exact rank-sum test,"),
}


def fill(template: str, it: Effect) -> str:
    """Fill in a template of METHODS."""
    return template.format(**vars(it), **it.counts)


def quantity(it: Effect) -> Quantity:
    """Return an effect's quantity."""
    return METHODS[it.method].quantity


def records(row: TableRow) -> dict[str, Any]:
    """Return a row's effects as plain data, each under the key of its quantity."""
    record_by_key: dict[str, Any] = {ACCURACIES.record_key: None, REPEATS.record_key: []}
    for it in row.effects:
        fields = {**vars(it), **it.counts, "baseline_job_id": row.baseline.run.job_id if row.baseline else None}
        record = {key: fields[FIELDS.get(key, key)] for key in quantity(it).keys.split()}
        if it.is_ratio:
            record_by_key[REPEATS.record_key].append(record)
        else:
            record_by_key[quantity(it).record_key] = record
    return record_by_key


def sentence(row: TableRow, keys: list[str]) -> str:
    """Return one row's finding in words; empty for a baseline, and if the table of ratios shows it."""
    if row.note is not None:
        return f"{assignments(row, keys) or row.run.job_id}: not compared, {row.note}"
    it = row.effect
    if it is None:
        return _too_few_repeats(row, keys)
    words, of = METHODS[it.method], quantity(it)
    ps = f"p={p_value(it.p)}, Holm {p_value(it.p_holm)}".replace("=<", "<")
    unit = fill(of.unit, it)
    text = (
        f"{versus(row, keys)} (n={fill(words.sample, it)}): {it.finding} "
        f"(Δ {of.write(it.value)} {unit}, {words.interval} {of.write(it.low)}..{of.write(it.high)}, {ps})"
    )
    if it.finding is Finding.open:
        text += f"; {_why_open(it, unit)}"
    if it.verdict is not None and it.verdict is not MarginVerdict.better:
        text += f"; {verdict_words(it)}"
    return f"{text}; {it.remark}" if it.remark else text


def verdict_words(it: Effect) -> str:
    """Return what is decided about the margin, e.g. `as good within 2 points`."""
    assert it.margin is not None
    of = quantity(it)
    margin = (
        f"{100 * it.margin:g} point{'s' * (it.margin != 0.01)}"
        if of is ACCURACIES
        else f"{it.margin:g} {fill(of.unit, it)}"
    )
    if it.verdict is MarginVerdict.undecided:
        return f"undecided within {margin}" + (
            f" (if neither is better, about {it.needed:,} questions{_in_families(it)} would decide)"
            if it.needed
            else ""
        )
    words = {
        MarginVerdict.better: "better",
        MarginVerdict.as_good: f"as good within {margin}",
        MarginVerdict.worse_but_within: f"worse, but by less than {margin}",
        MarginVerdict.worse_by_more: f"worse by more than {margin}",
    }
    return words[it.verdict] if it.verdict is not None else ""


def _in_families(it: Effect) -> str:
    """Say in how many families of questions so many are needed: in more families, and not in larger ones."""
    families = it.counts.get("clusters")
    return f" in {math.ceil((it.needed or 0) * families / it.n):,} such families" if families else ""


def _why_open(it: Effect, unit: str) -> str:
    """Say which difference the comparison could have shown."""
    if it.detects is None:
        return f"undecided after {it.n:,} questions"
    if it.detectable is None:
        return f"{it.n:,} questions are too few to show any difference"
    of = quantity(it)
    return f"{of.power} power to detect {of.write_detectable(it.detectable)} {unit}"


def _too_few_repeats(row: TableRow, keys: list[str]) -> str:
    """Say if there are too few repeats for the test to show any difference."""
    repeated = [it for it in row.ratios if it.method is Method.rank_sum]
    if not repeated:
        return ""
    fewest = min(min(it.n, it.baseline_n) for it in repeated)
    family = max(it.comparisons for it in repeated)
    needed = repeats_needed(family)
    if fewest >= needed:
        return ""
    return (
        f"{versus(row, keys)}: {fewest} repeat{'s' * (fewest != 1)} a side cannot show a "
        f"difference in {_comparisons(family)}; task.repeats={needed} can"
    )


def _comparisons(count: int) -> str:
    return f"{count} comparison{'s' * (count != 1)}"


MARGIN_LEGEND = (
    "Margin: a row is as good if a test shows its true difference to be above minus the margin "
    f"(two-sided, {ALPHA:g}, Holm over the same comparisons)."
)


def legend(effects: Sequence[Effect]) -> str:
    """Return the legend of a table's effects."""
    parts = []
    for of in dict.fromkeys(words.quantity for words in METHODS.values()):
        of_quantity = [it for it in effects if quantity(it) is of]
        if of_quantity:
            used = [words.legend for method, words in METHODS.items() if any(it.method is method for it in of_quantity)]
            text = " ".join(filter(None, (of.legend[0], *used, of.legend[1])))
            parts.append(text.format(**of_quantity[0].counts, comparisons=_comparisons(len(of_quantity)), alpha=ALPHA))
            if any(it.verdict for it in of_quantity):
                parts.append(MARGIN_LEGEND)
    return " ".join(parts)


def value_of(it: Effect) -> str:
    """Return an effect with its interval."""
    of = quantity(it)
    return f"{of.write(it.value)} [{of.write(it.low)}, {of.write(it.high)}]"


def difference_of(row: TableRow) -> str:
    """Return a row's difference to its baseline."""
    if row.effect is None:
        return "baseline" if row.is_baseline else f"{ABSENT} (see below)"
    return value_of(row.effect)


def pairs_of(it: Effect) -> str:
    """Return the numbers of won, lost and tied pairs."""
    return fill(METHODS[it.method].pairs, it)


def detectable(it: Effect) -> str:
    """Return the minimum detectable difference."""
    if it.detects is None:
        return ABSENT
    return f"≥{ABSENT if it.detectable is None else quantity(it).write_detectable(it.detectable)}"
