"""One sentence per row with its finding, for terminal, HTML, JSON and --require."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner_compare.features.cut_offs.render import cut_off_sentence, finding_text
from runner_compare.model.data import Table, TableRow
from runner_compare.render.effects import (
    describe_margin_decision,
    format_comparison_count,
    format_effect_parts,
    format_p_value,
    interval_name,
    missing_evidence_text,
    planning_assumption,
    sample_unit,
)
from runner_compare.render.labels import (
    format_assignments,
    format_rounded_count,
    name_sides,
    row_versus_baseline,
)
from runner_compare.render.margins import format_margin, format_verdict
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import (
    METHODS,
    effect_unit,
    fill_template,
    find_quantity,
    more_data_hint,
    worst_case_text,
)
from runner_compare.statistics import ALPHA, Decision, Finding, MarginVerdict, Method
from runner_compare.statistics.run_ratios import (
    CLEAR_DIFFERENCE,
    MAX_RUNS,
    min_runs_per_side,
    runs_needed_per_side,
)

MAX_NAMES = 8  # that a sentence for several rows lists
OF_ONE = "{names} (n={sample}): {finding} (Δ {value}, {figures})"
OF_SEVERAL = "{names} (n={sample} each): {finding}. The largest Δ is {value} ({largest}, {figures})"


def finding_sentences(table: Table) -> list[str]:
    """Return one sentence per row with the row's finding.

    Rows with the same finding share one sentence at the first of them; the others are "".
    """
    found = [finding_sentence(row, table.keys) for row in table.rows]
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, row in enumerate(table.rows):
        same = None if row.is_baseline or row.is_repeat else _grouping_key(row, table.keys)
        if same is not None:
            groups.setdefault(same, []).append(place)
    for first, *others in groups.values():
        if others:
            found[first] = _shared_finding([table.rows[place] for place in (first, *others)], table.keys)
            for place in others:
                found[place] = ""
    return found


def finding_sentence(row: TableRow, keys: list[str]) -> str:
    """Return one row's finding as a sentence; "" for a baseline, or if the table of ratios shows it."""
    if row.note is not None:
        return f"{format_assignments(row, keys) or row.run.job_id}: not compared, {row.note}."
    return _too_few_runs_sentence(row, keys) if row.effect is None else _shared_finding([row], keys)


def _shared_finding(rows: Sequence[TableRow], keys: list[str]) -> str:
    """Return one sentence for rows with the same result: the largest difference, and the power."""
    effects = [effect for row in rows if (effect := row.effect)]
    largest = max(effects, key=lambda effect: abs(effect.value))
    method_words, (value, ends) = METHODS[largest.method], format_effect_parts(largest)
    unit, interval = effect_unit(largest), interval_name(largest)
    ps = f"p={format_p_value(largest.p)}, {_format_adjusted_p(largest)}".replace("=<", "<")
    names, largest_name = _name_rows(rows, keys, effects.index(largest))
    head = (OF_SEVERAL if len(rows) > 1 else OF_ONE).format(
        names=names,
        sample=fill_template(method_words.sample, largest),
        finding=finding_text(largest),
        value=f"{value} {unit}",
        largest=largest_name,
        figures=f"{interval} {ends}, {ps}",
    )
    of_ends = cut_off_sentence(largest)
    parts = (
        head,
        *_power_and_margin_statements(effects, largest, unit),
        of_ends,
        *map(render_notes, largest.remarks),
    )
    return join_as_sentences(parts)


def join_as_sentences(parts: Iterable[str]) -> str:
    """Join statements as sentences with capital letters. A name at the start stays unchanged."""
    written: list[str] = []
    for part in filter(None, parts):
        is_word = written and part.partition(" ")[0].strip(",:").isalpha()
        written.append(part[:1].upper() + part[1:] if is_word else part)
    return ". ".join(written) + "." * bool(written)


def _name_rows(rows: Sequence[TableRow], keys: list[str], largest: int) -> tuple[str, str]:
    """Return the names of the rows and their baseline, and of the row with the largest difference."""
    if len(rows) == 1:
        return row_versus_baseline(rows[0], keys), ""
    names = [name_sides(row, keys)[0] for row in rows]
    _, base_name, shared = name_sides(rows[0], keys)
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return (
        f"{join_words([*names[:MAX_NAMES], *more])} vs {base_name}{(f' on {shared}' if shared else '')}",
        names[largest],
    )


def _power_and_margin_statements(effects: Sequence[Decision], largest: Decision, unit: str) -> list[str]:
    """Return statements on the detectable differences and on the margin verdict."""
    has_margin = largest.verdict not in (None, MarginVerdict.better)
    margin = _shared_margin_text(effects) if has_margin else ""
    if margin and largest.finding is Finding.open and not largest.no_evidence:
        margin = ". ".join(filter(None, (margin, _capitalize_first(missing_evidence_text(*effects)))))
    more = render_notes(largest.tells_more)
    if largest.no_evidence and largest.finding is Finding.open:
        return [render_notes(largest.no_evidence), margin]
    if largest.finding is not Finding.open or largest.hinges_on_cut_off:
        return [margin]
    if not largest.test.knows_power and (has_margin or not largest.unplanned):
        return [f"{margin or 'undecided'} after {largest.n:,} questions", more]
    if largest.unplanned:
        is_open = all(effect.is_undecided for effect in effects)
        why = f"{render_notes(largest.unplanned)}, so more questions would not decide" if is_open else ""
        return [why, margin, more]
    if any(effect.detectable is None for effect in effects if effect.test.knows_power):
        return [f"{largest.n:,} questions are too few to show any difference", margin, more]
    return [_describe_power(effects, largest, unit), more_data_hint(largest), margin, more]


def _capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _describe_power(effects: Sequence[Decision], largest: Decision, unit: str) -> str:
    """Describe the detectable difference, also for a difference concentrated in few questions."""
    of = find_quantity(largest)
    evenly = sorted(effect.detectable for effect in effects if effect.detectable is not None)
    found = format_range([of.write_detectable(points) for points in evenly])
    sizes = f"differences from {found} {unit} up are detected with {of.power} power"
    if not largest.test.has_worst_case:
        return sizes
    if any(effect.detectable_at_worst is None for effect in effects):
        return f"{sizes} (none {worst_case_text(largest)})"
    at_most = sorted(
        effect.detectable_at_worst for effect in effects if effect.detectable_at_worst is not None
    )
    return f"{sizes} ({format_range([of.write_detectable(points) for points in at_most])} {worst_case_text(largest)})"


def _format_adjusted_p(decision: Decision) -> str:
    """Format the p-value that decides: Holm-adjusted, or adjusted for a run's fraction of the 5 %."""
    if decision.early_stop_comparisons is None:
        return f"Holm {format_p_value(decision.p_holm)}"
    return (
        f"times {format_comparison_count(decision.early_stop_comparisons)} {format_p_value(decision.p_holm)}"
    )


def _grouping_key(row: TableRow, keys: list[str]) -> tuple[object, ...] | None:
    """Return the key of rows that share a sentence; None for a row with a finding, which gets its
    own.
    """
    effect = row.effect
    if (
        row.note is not None
        or effect is None
        or effect.finding is not Finding.open
        or effect.hinges_on_cut_off
    ):
        return None
    _, base_name, shared = name_sides(row, keys)
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


def _shared_margin_text(effects: Sequence[Decision]) -> str:
    """Describe the margin verdict that all effects share, and the number of questions that would
    decide.
    """
    if len(effects) == 1:
        return describe_margin_decision(effects[0])
    shown = finding_label(effects[0])
    needed = sorted(effect.needed for effect in effects if effect.needed is not None)
    if not needed or len(needed) < len(effects):
        return shown
    in_all = "" if effects[0].is_ratio else " in all"
    count = (
        f"{format_range([format_rounded_count(questions) for questions in needed])} "
        f"{sample_unit(effects[0])}{in_all}"
    )
    return f"{shown}: about {count} would decide, {planning_assumption(effects[0])}"


def finding_label(decision: Decision) -> str:
    """Return a row's finding as words that follow `is` or `are`."""
    if decision.verdict is None or decision.verdict is MarginVerdict.better:
        return "undecided" if decision.finding is Finding.open else str(decision.finding)
    if decision.verdict is MarginVerdict.undecided and decision.finding is not Finding.open:
        return f"{decision.finding}, perhaps by more than {format_margin(decision)}"
    return format_verdict(decision.verdict, format_margin(decision)).replace(", but by", " by")


def format_range(values: Sequence[str]) -> str:
    """Format the first and last of sorted values, e.g. `20` or `3.2 to 7.7`."""
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def join_words(words: Sequence[str]) -> str:
    """Join words as a list: `a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _too_few_runs_sentence(row: TableRow, keys: list[str]) -> str:
    """Return a sentence if there are too few runs to show a difference, with the number needed."""
    measured = [
        ratio for ratio in row.ratio_effects if ratio.method in {Method.student_t, Method.too_few_runs}
    ]
    if not measured:
        return ""
    fewest, most = (
        pick(f(ratio.n, ratio.baseline_n) for ratio in measured) for pick, f in ((min, min), (max, max))
    )
    family = max(ratio.comparisons for ratio in measured)
    if fewest >= min_runs_per_side(ALPHA / family):
        return ""
    needed = runs_needed_per_side(CLEAR_DIFFERENCE, ALPHA / family) or MAX_RUNS
    count = (
        "one process each"
        if most == 1
        else f"{fewest} run{'s' * (fewest != 1)} of {'each' if fewest == most else 'one'}"
    )
    more = f"{needed - fewest} more time{'s' * (needed - fewest != 1)}"
    if row.run.tool:
        fix = (
            f"measure each setting {more} to know, in turns, each time into a new file, and "
            "give all files to --results"
        )
    elif measured[0].counts["has_fresh_processes"]:
        fix = f"run both jobs with task.repeats={needed} to know: each repeat is a process of its own"
    else:
        fix = (
            f"run both jobs {more} with rerun=all to know, alone on the machine (in a grid with "
            "workers=1 hydra.launcher.fresh=true)"
        )
    return (
        f"{row_versus_baseline(row, keys)}: {count} cannot show a difference in {format_comparison_count(family)}. "
        f"{fix[0].upper()}{fix[1:]}. "
        f"{needed} runs of each show a difference of {CLEAR_DIFFERENCE:g} times the spread of runs."
    )
