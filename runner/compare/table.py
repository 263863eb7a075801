"""From runs to a table: rows, their baselines, what was found, and the order in which they stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.compare.choose import matches
from runner.compare.columns import differing_keys, group, meaningful_keys, telling_keys
from runner.compare.data import JOB_ID, NotPaired, Row, Run, Table, label
from runner.compare.evidence import Evidence
from runner.compare.front import mark_front
from runner.compare.pair import compare_pair, compare_unpaired, find_baseline, judge
from runner.compare.pool import pool
from runner.compare.ratios import compare_repeats, judge_ratios
from runner.compare.say import natural, sentence
from runner.core.progress import Progress

QUESTION_KEYS = ("task.data", "task.split", "task.limit", "task.extractor")  # what says which questions were asked


@dataclass
class Choice:
    """What the user wants compared with what."""

    baseline: dict[str, str] = field(default_factory=dict)
    by: list[str] = field(default_factory=list)  # the keys that make a configuration; empty: all that differ
    unpaired: bool = False
    base: Run | None = None  # the baseline, where the user named this very run


def tabulate(runs: list[Run], choice: Choice, evidence: Evidence) -> Table:
    """Return one task's table, compared with the baseline where there is one."""
    if choice.by or choice.baseline or choice.base:
        evidence.fetch(runs)
    if choice.by and any("correct" in run.metrics for run in runs):
        runs = pool(runs, choice.by, evidence)
    configs = [run.params for run in runs]
    varying = choice.by or differing_keys(configs)
    keys = choice.by or telling_keys(varying, configs)
    rows = [Row(run.job_id, run.run_id, run.folder, {key: run.value(key) for key in keys}, run.metrics) for run in runs]
    table = Table(runs[0].task, keys, rows, runs={run.job_id: run for run in runs})
    table.common = {
        key: value
        for key in meaningful_keys(configs)
        if (value := configs[0].get(key)) is not None and {config.get(key) for config in configs} == {value}
    }
    asked = [key for key in QUESTION_KEYS if key in keys]
    for row in rows:
        row.panel = tuple(f"{label(key)}={row.config[key]}" for key in asked)
    if choice.baseline or choice.base:
        table.baseline = choice.baseline or {JOB_ID: choice.base.job_id if choice.base else ""}
        _compare(table, varying, choice, evidence)
    mark_front(table)
    arrange(table)
    return table


def _compare(table: Table, varying: list[str], choice: Choice, evidence: Evidence) -> None:
    every = table.runs.values()
    candidates = [choice.base] if choice.base else [run for run in every if matches(run, choice.baseline)]
    baseline_ids = {run.job_id for run in candidates}
    with Progress(len(table.rows), "comparing") as bar:
        for row in table.rows:
            bar.advance(1)
            run = table.runs[row.job_id]
            row.is_baseline = row.job_id in baseline_ids
            if row.is_baseline:
                continue
            try:
                base = choice.base or find_baseline(run, candidates, choice.baseline, varying)
                _fill(row, run, base, choice, evidence)
            except NotPaired as reason:
                row.note = str(reason)
    judge(table.rows)
    judge_ratios(table.rows)


def _fill(row: Row, run: Run, base: Run, choice: Choice, evidence: Evidence) -> None:
    """Compare one row with its baseline: by verdicts where it has them, else by repeats."""
    if not row.scored:
        row.ratios = compare_repeats(run, base, evidence)
        row.baseline_job_id = base.job_id
        return
    asked = differing_keys([run.params, base.params]) if choice.base else [*choice.baseline, *choice.by]
    try:
        row.comparison = compare_pair(run, base, evidence, asked)
    except NotPaired as reason:
        if not choice.unpaired:
            raise
        row.comparison = compare_unpaired(run, base, str(reason))
    if choice.by:
        also = also_differ(run, base, choice)
        row.comparison.remark = "; ".join(part for part in (row.comparison.remark, also) if part) or None


def also_differ(run: Run, base: Run, choice: Choice) -> str | None:
    """Say in which keys two configurations differ besides those that --by names."""
    named = {*choice.by, *choice.baseline}
    groups = {group(key) for key in named if key.endswith(".name")}
    keys = [key for key in differing_keys([run.params, base.params]) if key not in named and group(key) not in groups]
    if not keys:
        return None
    return "they also differ in " + ", ".join(
        f"{label(key)} ({base.value(key)}, here {run.value(key)})" for key in keys
    )


def arrange(table: Table) -> None:
    """Put each baseline right above what is compared with it, and say what each comparison shows."""
    inner = {group(key) for key in table.baseline if key.endswith(".name")}
    named = JOB_ID in table.baseline  # one run that all others are compared with: it stands first
    outer = [key for key in table.keys if not named and key not in table.baseline and group(key) not in inner]

    def place(row: Row) -> tuple[object, ...]:
        alike = [natural(row.config[key]) for key in outer]
        return alike, not row.is_baseline, [natural(row.config[key]) for key in table.keys], row.job_id

    table.rows.sort(key=place)
    by_id = {row.job_id: row for row in table.rows}
    if table.baseline:
        found = (sentence(row, by_id, table.keys) for row in table.rows if not row.is_baseline)
        table.sentences = [text for text in found if text]
