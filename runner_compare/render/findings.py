"""The finding about each row in words, made once: the terminal, the pages, JSON and the gates show
this text."""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.features.cut_offs.render import finding_of, sentence_of_ends
from runner_compare.model.data import Table, TableRow
from runner_compare.render.effects import (
    asked_of,
    comparisons_of,
    figures_of,
    if_alike,
    interval_words,
    margin_decision,
    p_value,
    why_undecided,
)
from runner_compare.render.labels import about, assignments, sides, versus
from runner_compare.render.margins import margin_words, verdict_words
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import METHODS, at_worst, fill, quantity, unit_of, what_shows_more
from runner_compare.statistics import ALPHA, Decision, Finding, MarginVerdict, Method
from runner_compare.statistics.over_runs import CLEAR_DIFFERENCE, MAX_RUNS, fewest_runs, runs_needed

MAX_NAMES = 8  # that a sentence for several rows lists
OF_ONE = "{names} (n={sample}): {finding} (Δ {value}, {figures})"
OF_SEVERAL = "{names} (n={sample} each): {finding}; the largest Δ is {value} ({largest}, {figures})"


def finding_sentences(table: Table) -> list[str]:
    """Return the finding about each row; of settings that show the same, the first one has a sentence for all."""
    found = [sentence(row, table.keys) for row in table.rows]
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, row in enumerate(table.rows):
        same = None if row.is_baseline or row.is_repeat else _what_it_says(row, table.keys)
        if same is not None:
            groups.setdefault(same, []).append(place)
    for first, *others in groups.values():
        if others:
            found[first] = _finding([table.rows[place] for place in (first, *others)], table.keys)
            for place in others:
                found[place] = ""
    return found


def sentence(row: TableRow, keys: list[str]) -> str:
    """Return one row's finding in words; empty for a baseline, and if the table of ratios shows
    it."""
    if row.note is not None:
        return f"{assignments(row, keys) or row.run.job_id}: not compared, {row.note}"
    return _too_few_runs(row, keys) if row.effect is None else _finding([row], keys)


def _finding(rows: Sequence[TableRow], keys: list[str]) -> str:
    """Return the finding about rows that show the same: the largest difference, and what they could
    have shown."""
    effects = [effect for row in rows if (effect := row.effect)]
    largest = max(effects, key=lambda effect: abs(effect.value))
    method_words, (value, ends) = METHODS[largest.method], figures_of(largest)
    unit, interval = unit_of(largest), interval_words(largest)
    ps = f"p={p_value(largest.p)}, {_adjusted(largest)}".replace("=<", "<")
    names, largest_name = _names(rows, keys, effects.index(largest))
    head = (OF_SEVERAL if len(rows) > 1 else OF_ONE).format(
        names=names,
        sample=fill(method_words.sample, largest),
        finding=finding_of(largest),
        value=f"{value} {unit}",
        largest=largest_name,
        figures=f"{interval} {ends}, {ps}",
    )
    of_ends = sentence_of_ends(largest)
    parts = (head, *_limits(effects, largest, unit), of_ends, render_notes(*largest.remarks))
    return "; ".join(filter(None, parts))


def _names(rows: Sequence[TableRow], keys: list[str], largest: int) -> tuple[str, str]:
    """Return the names of the rows and of their baseline, and the name of the row with the largest
    difference."""
    if len(rows) == 1:
        return versus(rows[0], keys), ""
    names = [sides(row, keys)[0] for row in rows]
    _, base_name, shared = sides(rows[0], keys)
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return (
        f"{joined([*names[:MAX_NAMES], *more])} vs {base_name}{(f' on {shared}' if shared else '')}",
        names[largest],
    )


def _limits(effects: Sequence[Decision], largest: Decision, unit: str) -> list[str]:
    """Say which differences could have been shown, if none is, and what is shown about the
    margin."""
    has_margin = largest.verdict not in (None, MarginVerdict.better)
    margin = _of_margin(effects) if has_margin else ""
    if margin and largest.finding is Finding.open and not largest.no_evidence:
        margin = "; ".join(filter(None, (margin, why_undecided(*effects))))
    more = render_notes(largest.tells_more)
    if largest.no_evidence and largest.finding is Finding.open:
        return [render_notes(largest.no_evidence), margin]
    if largest.finding is not Finding.open or largest.hinges_on_cut_off:
        return [margin]
    if not largest.test.knows_power and (has_margin or not largest.unplanned):
        return [f"{margin or 'undecided'} after {largest.n:,} questions", more]
    if largest.unplanned:
        is_open = all(effect.is_open for effect in effects)
        why = f"{render_notes(largest.unplanned)}, so more questions would not decide" if is_open else ""
        return [why, margin, more]
    if any(effect.detectable is None for effect in effects if effect.test.knows_power):
        return [f"{largest.n:,} questions are too few to show any difference", margin, more]
    return [f"{_power(effects, largest, unit)}{what_shows_more(largest)}", margin, more]


def _power(effects: Sequence[Decision], largest: Decision, unit: str) -> str:
    """Say which differences could have been shown, and which ones if few have all of the
    difference."""
    of = quantity(largest)
    evenly = sorted(effect.detectable for effect in effects if effect.detectable is not None)
    sizes = (
        f"{of.power} power to detect {range_of([of.write_detectable(points) for points in evenly])} {unit}"
    )
    if not largest.test.has_worst_case:
        return sizes
    if any(effect.detectable_at_worst is None for effect in effects):
        return f"{sizes} (none {at_worst(largest)})"
    at_most = sorted(
        effect.detectable_at_worst for effect in effects if effect.detectable_at_worst is not None
    )
    return f"{sizes} ({range_of([of.write_detectable(points) for points in at_most])} {at_worst(largest)})"


def _adjusted(decision: Decision) -> str:
    """Return the p that decides: Holm's of the table, or that of a run's own share of the 5 %."""
    if decision.early_stop_comparisons is None:
        return f"Holm {p_value(decision.p_holm)}"
    return f"times {comparisons_of(decision.early_stop_comparisons)} {p_value(decision.p_holm)}"


def _what_it_says(row: TableRow, keys: list[str]) -> tuple[object, ...] | None:
    """Return what rows have to share to get one sentence; None for a finding, which has a sentence
    of its own."""
    effect = row.effect
    if (
        row.note is not None
        or effect is None
        or effect.finding is not Finding.open
        or effect.hinges_on_cut_off
    ):
        return None
    _, base_name, shared = sides(row, keys)
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


def _of_margin(effects: Sequence[Decision]) -> str:
    """Return what all of these effects show about the margin, with the questions that would
    decide."""
    if len(effects) == 1:
        return margin_decision(effects[0])
    shown = label(effects[0])
    needed = sorted(effect.needed for effect in effects if effect.needed is not None)
    if not needed or len(needed) < len(effects):
        return shown
    in_all = "" if effects[0].is_ratio else " in all"
    count = f"{range_of([about(questions) for questions in needed])} {asked_of(effects[0])}{in_all}"
    return f"{shown} ({if_alike(effects[0])}, about {count} would decide)"


def label(decision: Decision) -> str:
    """Return what is shown of one row, to follow `is` or `are`."""
    if decision.verdict is None or decision.verdict is MarginVerdict.better:
        return "undecided" if decision.finding is Finding.open else str(decision.finding)
    if decision.verdict is MarginVerdict.undecided and decision.finding is not Finding.open:
        return f"{decision.finding}, perhaps by more than {margin_words(decision)}"
    return verdict_words(decision.verdict, margin_words(decision)).replace(", but by", " by")


def range_of(values: Sequence[str]) -> str:
    """Return the first and the last of sorted values: `20`, `3.2 to 7.7`."""
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def joined(names: Sequence[str]) -> str:
    """Return words as a list: `a`, `a and b`, `a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _too_few_runs(row: TableRow, keys: list[str]) -> str:
    """Say if there are too few runs to show any difference, and how many more of them help."""
    measured = [ratio for ratio in row.ratios if ratio.method in {Method.student_t, Method.too_few_runs}]
    if not measured:
        return ""
    fewest, most = (
        pick(f(ratio.n, ratio.baseline_n) for ratio in measured) for pick, f in ((min, min), (max, max))
    )
    family = max(ratio.comparisons for ratio in measured)
    if fewest >= fewest_runs(ALPHA / family):
        return ""
    needed = runs_needed(CLEAR_DIFFERENCE, ALPHA / family) or MAX_RUNS
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
        f"{versus(row, keys)}: {count} cannot show a difference in {comparisons_of(family)}. "
        f"{fix[0].upper()}{fix[1:]}. "
        f"{needed} runs of each show a difference of {CLEAR_DIFFERENCE:g} times the spread of runs"
    )
