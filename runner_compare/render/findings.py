"""Formats the finding of each table row as a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner_compare.features.cut_offs.render import format_cut_off_answers_sentence, format_cut_off_finding
from runner_compare.model.data import Table, TableRow
from runner_compare.render.effects import (
    describe_margin_decision,
    explain_impossible_verdict,
    format_comparison_count,
    format_effect_and_interval,
    format_effect_interval_name,
    format_p_value,
    format_planning_assumption,
    get_sample_unit_name,
)
from runner_compare.render.labels import (
    format_assignments,
    format_rounded_count,
    format_row_and_baseline_names,
    get_row_and_baseline_names,
)
from runner_compare.render.margins import UNDECIDED, format_finding, format_margin, format_margin_verdict
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import (
    METHODS,
    effect_unit,
    fill_template,
    find_quantity,
    format_worst_case_condition,
    suggest_more_questions_or_clusters,
)
from runner_compare.statistics import ALPHA, Decision, Finding, MarginVerdict, Method
from runner_compare.statistics.run_ratios import (
    CLEAR_DIFFERENCE,
    MAX_RUNS,
    compute_min_runs_per_job,
    plan_runs_per_job,
)

MAX_NAMES = 8  # that a sentence for several rows lists
OF_ONE = "{names} (n={sample}): {finding} (Δ {value}, {figures})"
OF_SEVERAL = "{names} (n={sample} each): {finding}. The largest difference is {value} ({largest}, {figures})"


def format_finding_sentence_per_row(table: Table) -> list[str]:
    """Return one sentence on the finding of each row.

    Rows with the same finding share one sentence at the first of them; the others are "".
    """
    found = [format_row_finding_sentence(row, table.keys) for row in table.rows]
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, row in enumerate(table.rows):
        same = None if row.is_baseline or row.is_repeat else _get_sentence_group_key(row, table.keys)
        if same is not None:
            groups.setdefault(same, []).append(place)
    for first, *others in groups.values():
        if others:
            found[first] = _format_finding_about_row_group(
                [table.rows[place] for place in (first, *others)], table.keys
            )
            for place in others:
                found[place] = ""
    return found


def format_row_finding_sentence(row: TableRow, keys: list[str]) -> str:
    """Return a row's finding as a sentence.

    Returns "" for a baseline, or if the ratio table shows the finding.
    """
    if row.note is not None:
        return f"{format_assignments(row, keys) or row.run.job_id}: not compared, {row.note}."
    return (
        _format_too_few_runs_sentence(row, keys)
        if row.effect is None
        else _format_finding_about_row_group([row], keys)
    )


def _format_finding_about_row_group(grouped_rows: Sequence[TableRow], keys: list[str]) -> str:
    effects = [effect for row in grouped_rows if (effect := row.effect)]
    largest = max(effects, key=lambda effect: abs(effect.value))
    method_words, (value, ends) = METHODS[largest.method], format_effect_and_interval(largest)
    unit, interval = effect_unit(largest), format_effect_interval_name(largest)
    ps = f"p={format_p_value(largest.p)}, {_format_adjusted_p(largest)}".replace("=<", "<")
    names, largest_name = _describe_rows_and_largest_effect(grouped_rows, keys, effects.index(largest))
    head = (OF_SEVERAL if len(grouped_rows) > 1 else OF_ONE).format(
        names=names,
        sample=fill_template(method_words.sample, largest),
        finding=format_cut_off_finding(largest),
        value=f"{value} {unit}",
        largest=largest_name,
        figures=f"{interval} {ends}, {ps}",
    )
    of_ends = format_cut_off_answers_sentence(largest)
    parts = (
        head,
        *_format_power_and_margin(effects, largest, unit),
        of_ends,
        *map(render_notes, largest.remarks),
    )
    return join_as_sentences(parts)


def join_as_sentences(parts: Iterable[str]) -> str:
    """Join statements to capitalized sentences. Names keep their case."""
    written: list[str] = []
    for part in filter(None, parts):
        is_word = written and part.partition(" ")[0].strip(",:").isalpha()
        written.append(part[:1].upper() + part[1:] if is_word else part)
    return ". ".join(written) + "." * bool(written)


def _describe_rows_and_largest_effect(
    rows: Sequence[TableRow], keys: list[str], largest_index: int
) -> tuple[str, str]:
    if len(rows) == 1:
        return format_row_and_baseline_names(rows[0], keys), ""
    names = [get_row_and_baseline_names(row, keys)[0] for row in rows]
    _, base_name, shared = get_row_and_baseline_names(rows[0], keys)
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return (
        f"{join_words_with_and([*names[:MAX_NAMES], *more])} vs {base_name}{(f' on {shared}' if shared else '')}",
        names[largest_index],
    )


def _format_power_and_margin(effects: Sequence[Decision], largest: Decision, unit: str) -> list[str]:
    has_margin = largest.verdict not in (None, MarginVerdict.better)
    margin = _describe_group_margin_decision(effects) if has_margin else ""
    if margin and largest.finding is Finding.open and not largest.no_evidence:
        margin = ". ".join(filter(None, (margin, _capitalize_first(explain_impossible_verdict(*effects)))))
    more = render_notes(largest.tells_more)
    if largest.no_evidence and largest.finding is Finding.open:
        return [render_notes(largest.no_evidence), margin]
    if largest.finding is not Finding.open or largest.depends_on_cut_off_answers:
        return [margin]
    if not largest.test.knows_power and (has_margin or not largest.unplanned):
        return [f"{margin or UNDECIDED} after {largest.n:,} questions", more]
    if largest.unplanned:
        is_open = all(effect.is_undecided for effect in effects)
        why = (
            f"{render_notes(largest.unplanned)}, so more questions would not change the verdict"
            if is_open
            else ""
        )
        return [why, margin, more]
    if any(effect.detectable is None for effect in effects if effect.test.knows_power):
        return [f"{largest.n:,} questions are too few to detect any difference", margin, more]
    return [
        _describe_detectable_differences(effects, largest, unit),
        suggest_more_questions_or_clusters(largest),
        margin,
        more,
    ]


def _capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _describe_detectable_differences(effects: Sequence[Decision], largest: Decision, unit: str) -> str:
    of = find_quantity(largest)
    evenly = sorted(effect.detectable for effect in effects if effect.detectable is not None)
    found = format_range([of.write_detectable(points) for points in evenly])
    sizes = f"the test detects differences of {found} {unit} or more with {of.power} power"
    if not largest.test.has_worst_case:
        return sizes
    if any(effect.detectable_at_worst is None for effect in effects):
        return f"{sizes} (none {format_worst_case_condition(largest)})"
    at_most = sorted(
        effect.detectable_at_worst for effect in effects if effect.detectable_at_worst is not None
    )
    return (
        f"{sizes} ({format_range([of.write_detectable(points) for points in at_most])} "
        f"{format_worst_case_condition(largest)})"
    )


def _format_adjusted_p(decision: Decision) -> str:
    if decision.early_stop_comparisons is None:
        return f"Holm {format_p_value(decision.p_holm)}"
    return (
        f"times {format_comparison_count(decision.early_stop_comparisons)} {format_p_value(decision.p_holm)}"
    )


def _get_sentence_group_key(row: TableRow, keys: list[str]) -> tuple[object, ...] | None:
    """Return a grouping key. One sentence describes all rows with the same key.

    Returns None for a row with a finding, which needs a separate sentence.
    """
    effect = row.effect
    if (
        row.note is not None
        or effect is None
        or effect.finding is not Finding.open
        or effect.depends_on_cut_off_answers
    ):
        return None
    _, base_name, shared = get_row_and_baseline_names(row, keys)
    return (
        base_name,
        shared,
        effect.method,
        effect.n,
        effect.baseline_n,
        effect.verdict,
        effect.test.knows_power,
        render_notes(effect.unplanned),
        render_notes(effect.tells_more),
        render_notes(effect.no_evidence),
        effect.baseline_low is None,
        render_notes(*effect.remarks),
        effect.counts.get("size"),
    )


def _describe_group_margin_decision(decisions: Sequence[Decision]) -> str:
    if len(decisions) == 1:
        return describe_margin_decision(decisions[0])
    shown = format_finding_label(decisions[0])
    needed = sorted(effect.needed for effect in decisions if effect.needed is not None)
    if not needed or len(needed) < len(decisions):
        return shown
    in_all = "" if decisions[0].is_ratio else " in all"
    count = (
        f"{format_range([format_rounded_count(questions) for questions in needed])} "
        f"{get_sample_unit_name(decisions[0])}{in_all}"
    )
    return f"{shown}: about {count} would decide, {format_planning_assumption(decisions[0])}"


def format_finding_label(decision: Decision) -> str:
    """Format a row's finding for a sentence, e.g. `no loss above 2 points`."""
    if decision.verdict is None or decision.verdict is MarginVerdict.better:
        return format_finding(decision.finding)
    if decision.verdict is MarginVerdict.undecided and decision.finding is not Finding.open:
        return f"{decision.finding}, perhaps by more than {format_margin(decision)}"
    return format_margin_verdict(decision.verdict, format_margin(decision)).replace(", but by", " by")


def format_range(values: Sequence[str]) -> str:
    """Format the first and last of sorted values, e.g. `20` or `3.2 to 7.7`."""
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def join_words_with_and(words: Sequence[str]) -> str:
    """Join words as a list: `a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _format_too_few_runs_sentence(row: TableRow, keys: list[str]) -> str:
    measured = [
        ratio for ratio in row.ratio_effects if ratio.method in {Method.student_t, Method.too_few_runs}
    ]
    if not measured:
        return ""
    fewest, most = (
        pick(f(ratio.n, ratio.baseline_n) for ratio in measured) for pick, f in ((min, min), (max, max))
    )
    family = max(ratio.comparisons for ratio in measured)
    if fewest >= compute_min_runs_per_job(ALPHA / family):
        return ""
    needed = plan_runs_per_job(CLEAR_DIFFERENCE, ALPHA / family) or MAX_RUNS
    count = (
        "one process each"
        if most == 1
        else f"{fewest} run{'s' * (fewest != 1)} of {'each job' if fewest == most else 'one job'}"
    )
    more = f"{needed - fewest} more time{'s' * (needed - fewest != 1)}"
    if row.run.tool:
        fix = (
            f"measure the settings alternately, {more} each. Write each result to a new file, and "
            "pass all files to --results"
        )
    elif measured[0].counts["has_fresh_processes"]:
        fix = f"run both jobs with task.repeats={needed}, because each repeat runs in a new process"
    else:
        fix = (
            f"run both jobs {more} with rerun=all on an idle machine. In a grid, also set "
            "workers=1 hydra.launcher.fresh=true"
        )
    return (
        f"{format_row_and_baseline_names(row, keys)}: {count} cannot show "
        f"a difference in {format_comparison_count(family)}. "
        f"{fix[0].upper()}{fix[1:]}. "
        f"{needed} runs per job detect a difference of {CLEAR_DIFFERENCE:g} times the spread between runs."
    )
