"""Formats differences between runs as sentences, table cells, legends and JSON data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from runner_base import count_digits_to_distinguish_limit, format_against_limit
from runner_compare.model.data import ABSENT, TableRow
from runner_compare.render.labels import format_count_interval, format_rounded_count
from runner_compare.render.margins import format_margin, format_margin_verdict, format_significance_level
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import (
    ACCURACIES,
    FIELDS,
    LIKELIHOODS,
    METHODS,
    REPEATS,
    fill_template,
    find_quantity,
)
from runner_compare.statistics import (
    ALPHA,
    Decision,
    Effect,
    Finding,
    MarginVerdict,
    Method,
    bound_wrong_finding_probability,
)


def format_p_value(p: float) -> str:
    """Format a p-value to two digits (0.77, 0.0042, <0.0001), with more digits near 5 %."""
    if p < 0.0001:
        return "<0.0001"
    return "1.0" if p > 0.995 else format_against_limit(p, ALPHA, _format_two_digits)


def _format_two_digits(p: float, extra_digits: int = 0) -> str:
    return f"{p:.{2 + extra_digits}g}"


UNTESTED = "within these processes only"
OF_TABLE = "{comparisons} of this table"  # in a legend
NO_INTERVAL = "one run each, no interval"


def get_sample_unit_name(decision: Decision) -> str:
    """Return the noun for the samples of a comparison: questions, documents or runs."""
    if decision.is_ratio:
        return "runs of each"
    return "documents" if find_quantity(decision) is LIKELIHOODS else "questions"


def build_effect_records_by_key(row: TableRow) -> dict[str, Any]:
    record_by_key: dict[str, Any] = {ACCURACIES.record_key: None, REPEATS.record_key: []}
    for effect in row.effects:
        record = {
            key: _get_record_value(effect, FIELDS.get(key, key)) for key in find_quantity(effect).keys.split()
        }
        if "baseline_job_id" in record:
            record["baseline_job_id"] = row.baseline.run.job_id if row.baseline else None
        if not effect.is_tested:
            record |= {"p": None, "p_holm": None}
        if has_no_interval(effect):
            record |= dict.fromkeys(("ratio_low", "ratio_high", "simultaneous_low", "simultaneous_high"))
        if effect.is_ratio:
            record_by_key[REPEATS.record_key].append(record)
        else:
            record_by_key[find_quantity(effect).record_key] = record
    return record_by_key


def _get_record_value(decision: Decision, field_name: str) -> Any:
    if field_name == "remark":
        return render_notes(*decision.remarks) or None
    return (
        decision.counts[field_name] if field_name in decision.counts else getattr(decision, field_name, None)
    )


def format_high_error_rate_warning(effects: Sequence[Decision]) -> str:
    """Return a warning if the probability of any wrong finding in a table exceeds 5 %."""
    of_accuracy = [effect for effect in effects if find_quantity(effect) is ACCURACIES]
    share = bound_wrong_finding_probability(of_accuracy)
    if share <= ALPHA * (1 + 1e-9):
        return ""
    fixed = Counter(effect.early_stop_comparisons for effect in of_accuracy if effect.early_stop_comparisons)
    parts = [
        (
            f"{count} run{'s' * (count > 1)} decided at "
            f"{format_significance_level(comparisons)}{(' each' if count > 1 else '')}"
        )
        for comparisons, count in sorted(fixed.items())
    ]
    text = f"{', '.join(parts)} while running"
    if adjusted := len(of_accuracy) - fixed.total():
        text += f", and {'the other comparison has' if adjusted == 1 else 'the other comparisons share'} 5 %"
    else:
        text += f". Jobs that answer one question keep to 5 % together with task.early_stop_comparisons={fixed.total()}"
    return f"Up to {100 * min(1.0, share):.2g} % of tables like this have a wrong finding: {text}."


def explain_impossible_verdict(*decisions: Decision) -> str:
    if decisions[0].no_evidence:
        return render_notes(decisions[0].no_evidence)
    lows = [decision.baseline_low for decision in decisions if decision.baseline_low is not None]
    if not lows:
        return ""
    return (
        f"the baseline's accuracy may be only {100 * min(lows):.1f} %, so no loss can exceed the margin. "
        "Use easier questions or more questions"
    )


def describe_margin_decision(decision: Decision) -> str:
    is_difference = decision.verdict is MarginVerdict.undecided and decision.finding is not Finding.open
    is_planned = decision.needed and not is_difference
    needed = (
        f": about {_format_needed_sample(decision)}, {format_planning_assumption(decision)}"
        if is_planned
        else ""
    )
    return describe_margin_verdict(decision, format_margin(decision)) + needed


def describe_margin_verdict(decision: Decision, margin: str = "") -> str:
    """Describe the verdict on the margin, e.g. `no loss above 2 points`.

    Without a margin, it is `no larger loss`.
    """
    assert decision.verdict is not None
    if decision.verdict is MarginVerdict.undecided and decision.finding is not Finding.open:
        return "perhaps by more" + f" than {margin}" * bool(margin)
    return format_margin_verdict(decision.verdict, margin)


def format_planning_assumption(decision: Decision) -> str:
    return "if neither is better" + (
        " and they disagree as often" if find_quantity(decision) is ACCURACIES else ""
    )


def _format_needed_sample(decision: Decision) -> str:
    """Format the number of questions needed to decide a comparison.

    For several tasks, the additional questions are divided in proportion to the tasks' sizes.
    """
    needed, asked = decision.needed or 0, get_sample_unit_name(decision)
    if "tasks" not in decision.counts:
        families = decision.counts.get("clusters")  # more of them, and not larger ones
        of_families = f" in {math.ceil(needed * families / decision.n):,} such clusters" if families else ""
        in_all = "" if decision.is_ratio else " in all"
        number = format_count_interval(needed, decision.needed_interval)
        return f"{number} {asked}{in_all}{of_families} would decide"
    more = (
        f"{format_rounded_count(needed - decision.n)} more {asked} would decide, "
        if needed > decision.n
        else ""
    )
    return (
        f"{more}{format_rounded_count(needed)} in total{'' if more else ' would decide'}, "
        "with all question sets in the same proportion"
    )


def format_comparison_count(count: int, kind: str = "") -> str:
    """Format a number of comparisons, e.g. `1 comparison` or `3 other comparisons`."""
    return f"{count} {kind}comparison{'s' * (count != 1)}"


SHARE_LEGEND = (
    "Its share of the 5 % was fixed before it ran. Holm is then p times that number of comparisons, the interval has "
    "the same level, and no other run changes the verdict."
)
SHARED_ERROR = (
    "Holm's correction covers findings and margin verdicts together, "
    f"at a family-wise error rate of {ALPHA:g}."
)
MARGIN_LEGEND = (
    "No loss above the margin: a test shows that the true difference is above minus the margin; a gain is possible. "
    f"Worse by more: a test shows that the true difference is below minus the margin (two-sided). {SHARED_ERROR}"
)
BETS_MARGIN_LEGEND = (
    "No loss above the margin: the run's e-process excludes all differences below minus the margin. "
    "The e-process uses the part of the 5 % that was fixed before the run."
)
RATIO_MARGIN_LEGEND = (
    "No loss above 5 %: the same test shows that the speed is above 1/1.05 of the baseline's, or that the time or "
    f"memory is below 1.05 of the baseline's. {SHARED_ERROR}"
)


def format_effects_legend(effects: Sequence[Decision]) -> str:
    parts = []
    for of in dict.fromkeys(method_words.quantity for method_words in METHODS.values()):
        of_quantity = [effect for effect in effects if find_quantity(effect) is of]
        if of_quantity:
            used = [
                method_words.legend
                for method, method_words in METHODS.items()
                if any(effect.method is method for effect in of_quantity)
            ]
            adjusted = [effect for effect in of_quantity if effect.early_stop_comparisons is None]
            legends = [of.legend[0], *used]
            if len(adjusted) < len(of_quantity):
                legends.append(SHARE_LEGEND)
            legends += [of.legend[1]] * bool(adjusted)
            kind = "other " if 0 < len(adjusted) < len(of_quantity) else ""
            comparisons = format_comparison_count(len(adjusted), kind)
            text = " ".join(filter(None, legends))
            metrics = max((effect.comparisons for effect in adjusted), default=0) // max(1, len(adjusted))
            if metrics > 1:  # of one score
                text = text.replace(
                    OF_TABLE, f"{OF_TABLE} for each of {metrics} metrics of the same score", 1
                )
            parts.append(text.format(**of_quantity[0].counts, comparisons=comparisons, alpha=ALPHA))
            if any(effect.verdict for effect in adjusted):
                parts.append(RATIO_MARGIN_LEGEND if of is REPEATS else MARGIN_LEGEND)
            if any(effect.verdict for effect in of_quantity if effect.early_stop_comparisons is not None):
                parts.append(BETS_MARGIN_LEGEND)
    return " ".join(parts)


def has_no_interval(effect: Effect) -> bool:
    return effect.method is Method.too_few_runs and not math.isfinite(effect.high)


def format_values_distinguishable_from_margin(decision: Decision, *values: float) -> list[str]:
    """Format values with enough digits to show on which side of the margin each value is."""
    write, at_margin = find_quantity(decision).write, decision.margin_value
    more = 0 if at_margin is None else count_digits_to_distinguish_limit(values, at_margin, write)
    return [write(value, more) for value in values]


def format_effect_values_and_interval(decision: Decision, *values: float) -> list[str]:
    ends = decision.simultaneous_interval
    if decision.finding is Finding.open:
        return format_values_distinguishable_from_margin(decision, *values, *ends)
    write, at_margin = find_quantity(decision).write, decision.margin_value
    more = count_digits_to_distinguish_limit(ends, decision.neutral_value, write)
    if at_margin is not None:
        more = max(more, count_digits_to_distinguish_limit([*values, *ends], at_margin, write))
    return [write(value, more) for value in (*values, *ends)]


def format_effect_interval_name(decision: Decision) -> str:
    """Return the name of the interval of a difference, e.g. `simultaneous 95 % interval`."""
    words = fill_template(METHODS[decision.method].interval, decision)
    return f"simultaneous {words}" if has_simultaneous_interval(decision) else words


def has_simultaneous_interval(decision: Decision) -> bool:
    """Whether the interval is adjusted for the number of comparisons in the table."""
    is_adjusted = decision.is_tested and decision.early_stop_comparisons is None
    return is_adjusted and decision.comparisons > 1


def interval_level(decisions: Iterable[Decision]) -> str:
    """Return `simultaneous 95 %` if the intervals of a table are simultaneous; otherwise ""."""
    return "simultaneous 95 %" if any(map(has_simultaneous_interval, decisions)) else ""


def format_simultaneous_intervals_note(decisions: Iterable[Decision]) -> str:
    """Explain why the intervals differ from those of other tables. "" if they are not simultaneous."""
    comparisons = max(
        (decision.comparisons for decision in decisions if has_simultaneous_interval(decision)), default=0
    )
    return (
        f"Difference intervals are simultaneous 95 % intervals for {comparisons} comparisons; fewer give narrower "
        "ones."
        if comparisons
        else ""
    )


def format_effect_and_interval(decision: Decision) -> tuple[str, str]:
    value, low, high = format_effect_values_and_interval(decision, decision.value)
    return value, f"[{low}, {high}]"


def format_effect(decision: Decision) -> str:
    """Format an effect with its interval."""
    value, interval = format_effect_and_interval(decision)
    return f"{value}, {NO_INTERVAL}" if has_no_interval(decision) else f"{value} {interval}"


def format_difference_heading(unit: str, rows: Sequence[TableRow | None]) -> str:
    effects = [row.effect for row in rows if row and row.effect]
    return f"Δ {unit}" + "\n[simultaneous 95 %]" * any(map(has_simultaneous_interval, effects))


def format_difference(row: TableRow) -> str:
    if row.effect is None:
        return "baseline" if row.is_baseline else f"{ABSENT} (see below)"
    return format_effect(row.effect)


def format_pair_counts(decision: Decision) -> str:
    method_words = METHODS[decision.method]
    return fill_template(method_words.pairs or method_words.quantity.pairs, decision)


def format_detectable_difference(decision: Decision) -> str:
    """Format the minimum detectable difference."""
    if not decision.test.knows_power or decision.detectable is None:
        return ABSENT
    return find_quantity(decision).write_detectable(decision.detectable)
