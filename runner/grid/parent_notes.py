"""What a grid's own run in MLflow says: what was varied, the best jobs, and the verdict over all of
them.

Params of a run cannot be changed, so they have what is fixed for a grid; metrics, tags and the note
(MLflow's description) are written anew whenever the grid ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.config.groups import GROUPS
from runner.grid.outcomes import Outcome
from runner.grid.plan import PlannedJob
from runner.grid.show import job_names, labels
from runner_base import Record, RunnerError, Status, counted, few
from runner_compare import ENDS, LOG_LIKELIHOOD, Better, described

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
class ParentNotes:
    """What is logged when a grid has ended."""

    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    note: str = ""  # Markdown
    first_metric: str = ""  # by which the jobs of the first task are ranked


def varied(plan: Sequence[PlannedJob]) -> dict[str, list[str]]:
    """Return the keys in which the jobs of a grid differ, with their values in the order of the
    jobs."""
    values: dict[str, list[str]] = {}
    for names in job_names([*plan]):
        for key, value in names.items():
            of_key = values.setdefault(key, [])
            of_key += [value] * (value not in of_key)
    return values


def title(plan: Sequence[PlannedJob], study: str) -> str:
    """Return a grid's name: its study, or the keys that vary: `quantization=none,int8 ×
    lora=none,embedded`."""
    if study:
        return study
    values = varied(plan)
    if not values:
        return f"grid of {counted(len(plan), 'job')}"
    whole = " × ".join(f"{key}={','.join(some)}" for key, some in values.items())
    if len(whole) <= MAX_TITLE:
        return whole
    keys = " × ".join(f"{key} ({len(some)})" for key, some in values.items())
    return keys if len(keys) <= MAX_TITLE else f"{few([*values], 4)}: {counted(len(plan), 'job')}"


def params(plan: Sequence[PlannedJob], study: str) -> dict[str, str]:
    """Return the params of a grid's run: beside each job's own value all those that were tried."""
    tried = {
        f"{key}.name" if key in GROUPS else key: ",".join(values) for key, values in varied(plan).items()
    }
    return ({"study": study} if study else {}) | {"jobs": str(len(plan))} | tried


def notes(
    plan: Sequence[PlannedJob], outcomes: Mapping[int, Outcome], overrides: Sequence[str], is_done: bool
) -> ParentNotes:
    """Return the best jobs and the verdict of a grid that has ended."""
    named = [*zip(labels([*plan]), _records(plan, outcomes), strict=True)]
    finished = [
        (name, record) for name, record in named if record is not None and record.status is Status.FINISHED
    ]
    said = ParentNotes(metrics={"jobs": len(plan), "jobs_finished": len(finished)})
    lines: list[str] = []
    if (
        is_done and finished and len(finished) <= MAX_COMPARED
    ):  # first: MLflow shows five lines until it is asked
        lines += [*_verdict([record for _, record in finished], said), ""]
    for task in dict.fromkeys(record.task for _, record in finished):
        lines += _best_of(
            task, [one_finished for one_finished in finished if one_finished[1].task == task], said
        )
    said.note = "\n".join([*lines, *([f"`runner -m {' '.join(overrides)}`"] if overrides else [])]).strip()
    return said


def _best_of(task: str, jobs: list[tuple[str, Record]], said: ParentNotes) -> list[str]:
    """Return the lines about the best jobs of a task, and add the first one's numbers."""
    has = [key for key in RANKED_BY if all(key in record.result.metrics for _, record in jobs)]
    if not has:
        return []
    metric = described(has[0])
    sign = -1 if metric.better is Better.lower else 1
    ranked = sorted(jobs, key=lambda job: -sign * job[1].result.metrics[metric.key])
    best_name, best = ranked[0]
    said.metrics |= {
        f"best_{metric.key}{end}": best.result.metrics[f"{metric.key}{end}"]
        for end in ENDS
        if f"{metric.key}{end}" in best.result.metrics
    }
    said.tags.setdefault("best", best_name)
    said.first_metric = said.first_metric or metric.key
    rows = [
        f"| {name.replace('|', '/')} | {_cell(metric.key, record)} |" for name, record in ranked[:MAX_BEST]
    ]
    return [
        f"| {task}, the best {min(MAX_BEST, len(jobs))} of {len(jobs)} | {metric.title} |",
        "|---|---|",
        *rows,
        "",
    ]


def _cell(key: str, record: Record) -> str:
    values, metric = record.result.metrics, described(key)
    if f"{key}_low" not in values or f"{key}_high" not in values:
        return metric.write(values[key])
    return f"{metric.write(values[key])} [{metric.write(values[f'{key}_low'])}, {metric.write(values[f'{key}_high'])}]"


def _verdict(records: list[Record], said: ParentNotes) -> list[str]:
    """Return what the comparison of the jobs concludes; the interval beside a best job alone is no
    verdict."""
    from runner.recorded_runs.of_jobs import verdicts  # imports numpy

    folder = Path(records[0].output_dir).parents[1]
    try:
        lines = verdicts(folder, [*dict.fromkeys(record.job_id for record in records)])
    except RunnerError as error:  # of files that have changed meanwhile: the jobs themselves are done
        lines = [f"not compared: {error}"]
    if not lines:
        return []
    said.tags["verdict"] = lines[0]
    more = len(lines) - MAX_VERDICTS
    return [
        *(f"- {line}" for line in lines[:MAX_VERDICTS]),
        *([f"- and {more} more: `runner-compare`"] * (more > 0)),
    ]


def _records(plan: Sequence[PlannedJob], outcomes: Mapping[int, Outcome]) -> list[Record | None]:
    """Return each job's record, as far as there is one; a job that is listed twice counts once."""
    records: list[Record | None] = []
    for number, planned in enumerate(plan):
        outcome = outcomes.get(number)
        record = outcome.record if outcome is not None else planned.record
        records.append(None if planned.same_as is not None else record)
    return records
