"""Builds the content of a grid's parent run in MLflow, such as varied keys and best jobs.

MLflow cannot change the params of a run, so they hold what is fixed for a grid. Metrics, tags
and the description are written again whenever the grid ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.config.groups import GROUPS
from runner.grid.grid_output import build_job_labels, select_displayed_overrides
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import PlannedJob
from runner_base import Record, RunnerError, Status, format_count, join_first_names
from runner_compare import ENDS, LOG_LIKELIHOOD, BetterDirection, find_metric

MAX_TITLE = 100  # characters: longer ones do not fit a column
MAX_BEST = 3
MAX_COMPARED = 64  # jobs of a grid whose verdict is computed at its end; runner-compare takes any number
MAX_VERDICTS = 12
# What makes a job of its task the best: the first of these that it has
RANKED_BY = (
    *(
        "accuracy",
        "acc",
        LOG_LIKELIHOOD,
        "best_decode_tok_per_s",
        "best_output_tok_per_s",
        "decode_tok_per_s",
    ),
    *("peak_over_baseline_mib", "peak_rss_mib"),
)


@dataclass
class ParentRunContent:
    """Metrics, tags and description that are logged to a grid's parent run at its end."""

    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    note: str = ""  # Markdown
    first_metric: str = ""  # by which the jobs of the first task are ranked


def collect_values_of_varied_keys(plan: Sequence[PlannedJob]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for names in select_displayed_overrides([*plan]):
        for key, value in names.items():
            of_key = values.setdefault(key, [])
            of_key += [value] * (value not in of_key)
    return values


def format_grid_title(plan: Sequence[PlannedJob], study: str) -> str:
    """Return a grid's title: the study's name, or the varied keys with their values."""
    if study:
        return study
    values = collect_values_of_varied_keys(plan)
    if not values:
        return f"grid of {format_count(len(plan), 'job')}"
    whole = " × ".join(f"{key}={','.join(some)}" for key, some in values.items())
    if len(whole) <= MAX_TITLE:
        return whole
    keys = " × ".join(f"{key} ({len(some)})" for key, some in values.items())
    return (
        keys
        if len(keys) <= MAX_TITLE
        else f"{join_first_names([*values], 4)}: {format_count(len(plan), 'job')}"
    )


def build_grid_params(plan: Sequence[PlannedJob], study: str) -> dict[str, str]:
    """Return the MLflow params of a grid's parent run: study, number of jobs, and the values of each
    varied key.
    """
    tried = {
        f"{key}.name" if key in GROUPS else key: ",".join(values)
        for key, values in collect_values_of_varied_keys(plan).items()
    }
    return ({"study": study} if study else {}) | {"jobs": str(len(plan))} | tried


def build_parent_run_content(
    plan: Sequence[PlannedJob],
    outcomes: Mapping[int, JobOutcome],
    overrides: Sequence[str],
    is_finished: bool,
) -> ParentRunContent:
    named = [*zip(build_job_labels([*plan]), _collect_records_of_unique_jobs(plan, outcomes), strict=True)]
    finished = [
        (name, record) for name, record in named if record is not None and record.status is Status.FINISHED
    ]
    said = ParentRunContent(metrics={"jobs": len(plan), "jobs_finished": len(finished)})
    lines: list[str] = []
    if (
        is_finished and finished and len(finished) <= MAX_COMPARED
    ):  # first: MLflow shows five lines until it is asked
        lines += [*_format_comparison_verdict_lines([record for _, record in finished], said), ""]
    for task in dict.fromkeys(record.task for _, record in finished):
        lines += _format_best_job_lines(
            task, [one_finished for one_finished in finished if one_finished[1].task == task], said
        )
    said.note = "\n".join([*lines, *([f"`runner -m {' '.join(overrides)}`"] if overrides else [])]).strip()
    return said


def _format_best_job_lines(task: str, jobs: list[tuple[str, Record]], notes: ParentRunContent) -> list[str]:
    has = [key for key in RANKED_BY if all(key in record.result.metrics for _, record in jobs)]
    if not has:
        return []
    metric = find_metric(has[0])
    sign = -1 if metric.better is BetterDirection.lower else 1
    ranked = sorted(jobs, key=lambda job: -sign * job[1].result.metrics[metric.key])
    best_name, best = ranked[0]
    notes.metrics |= {
        f"best_{metric.key}{end}": best.result.metrics[f"{metric.key}{end}"]
        for end in ENDS
        if f"{metric.key}{end}" in best.result.metrics
    }
    notes.tags.setdefault("best", best_name)
    notes.first_metric = notes.first_metric or metric.key
    rows = [
        f"| {name.replace('|', '/')} | {_format_metric(metric.key, record)} |"
        for name, record in ranked[:MAX_BEST]
    ]
    return [
        f"| {task}, the best {min(MAX_BEST, len(jobs))} of {len(jobs)} | {metric.title} |",
        "|---|---|",
        *rows,
        "",
    ]


def _format_metric(name: str, record: Record) -> str:
    values, metric = record.result.metrics, find_metric(name)
    if f"{name}_low" not in values or f"{name}_high" not in values:
        return metric.format_value(values[name])
    return (
        f"{metric.format_value(values[name])} [{metric.format_value(values[f'{name}_low'])}, "
        f"{metric.format_value(values[f'{name}_high'])}]"
    )


def _format_comparison_verdict_lines(records: list[Record], notes: ParentRunContent) -> list[str]:
    """Format the comparison's verdicts as lines, and store the first verdict as an MLflow tag."""
    from runner.recorded_runs.job_verdicts import compute_comparison_verdicts  # imports numpy

    folder = Path(records[0].output_dir).parents[1]
    try:
        lines = compute_comparison_verdicts(folder, [*dict.fromkeys(record.job_id for record in records)])
    except RunnerError as error:  # of files that have changed meanwhile: the jobs themselves are done
        lines = [f"not compared: {error}"]
    if not lines:
        return []
    notes.tags["verdict"] = lines[0]
    more = len(lines) - MAX_VERDICTS
    return [
        *(f"- {line}" for line in lines[:MAX_VERDICTS]),
        *([f"- and {more} more: `runner-compare`"] * (more > 0)),
    ]


def _collect_records_of_unique_jobs(
    plan: Sequence[PlannedJob], outcomes: Mapping[int, JobOutcome]
) -> list[Record | None]:
    """Return each job's record, or None for a duplicate and for a job without a record."""
    records: list[Record | None] = []
    for number, planned in enumerate(plan):
        outcome = outcomes.get(number)
        record = outcome.record if outcome is not None else planned.record
        records.append(None if planned.same_as is not None else record)
    return records
