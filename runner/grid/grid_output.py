"""Prints a grid before and after it runs: job names, plan, final table and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf
from pathlib import Path

from runner.config.root import AUTO, RunnerConfig
from runner.estimates.fit import PROCESS_MIB
from runner.estimates.jobs import JobEstimate, format_estimate
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import PlannedJob, PlanState, estimate_plan
from runner.grid.question_plan import question_notes
from runner.render import plans
from runner.render.notes import render_notes
from runner.report import GridLine, job_id_column, job_name_columns, to_table_columns
from runner.tracking import connection, published_index, run_table, stores
from runner_base import (
    Column,
    ColumnUse,
    Status,
    escape_control_characters,
    format_count,
    format_duration,
    machine,
    print_message,
    visible_gpus,
)
from runner_base.console import create_console
from runner_base.files import common_folder
from runner_base.notes import Note, note
from runner_base.printed_tables import print_fitting_table
from runner_base.tables import NO_WIDTH

MODEL_NAME = "model.name"
ESTIMATE_COLUMNS = ("questions", "weights MiB", "KV MiB", "activ. MiB", "peak MiB", "fits", "time", "basis")
ESTIMATE_USES = (
    ColumnUse.more,
    ColumnUse.memory,
    ColumnUse.memory,
    ColumnUse.memory,
    ColumnUse.result,
    ColumnUse.result,
    ColumnUse.result,
    ColumnUse.more,
)


def job_names(plan: list[PlannedJob], always_shown: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return for each job the overrides that differ between jobs, and those of the keys
    `always_shown`.
    """
    rows = [dict(text.partition("=")[::2] for text in planned.overrides) for planned in plan]
    keys = dict.fromkeys(key for row in rows for key in row)
    unnamed = {key for planned in plan for key in planned.unnamed}
    differing = [
        key
        for key in keys
        if key in always_shown or (key not in unnamed and len({row.get(key) for row in rows}) > 1)
    ]
    folder = common_folder(row[MODEL_NAME] for row in rows if MODEL_NAME in row)
    names = [{key: row[key] for key in differing if key in row} for row in rows]
    return [
        name | ({MODEL_NAME: name[MODEL_NAME].removeprefix(folder)} if MODEL_NAME in name else {})
        for name in names
    ]


def job_labels(plan: list[PlannedJob], always_shown: Sequence[str] = ()) -> list[str]:
    return [
        " ".join(f"{key}={value}" for key, value in names.items())
        or " ".join(planned.overrides)
        or "(no overrides)"
        for names, planned in zip(job_names(plan, always_shown), plan, strict=True)
    ]


def summarize_plan(plan: list[PlannedJob]) -> str:
    """Return the number of jobs in each state on one line."""
    totals = Counter(planned.state for planned in plan)
    duplicates = sum(planned.same_as is not None for planned in plan)
    parts = [f"{totals[state]} {state}" for state in PlanState if totals[state]]
    return f"{format_count(len(plan), 'job')}: {', '.join(parts)}" + (
        f" ({duplicates} listed twice, run once)" if duplicates else ""
    )


def print_plan(plan: list[PlannedJob]) -> None:
    """Print each job's state, shared base model, and estimated memory and time."""
    estimates = estimate_plan(plan)
    bases = {
        base: number for number, base in enumerate(dict.fromkeys(p.base for p in plan if p.base), start=1)
    }
    keys, names = job_name_columns(job_names(plan))
    rows = [_estimate_cells(estimates.get(number), planned) for number, planned in enumerate(plan)]
    filled = [column for column in range(len(ESTIMATE_COLUMNS)) if any(row[column] for row in rows)]
    states = [plans.state_text(job.state, job.same_as is not None) for job in plan]
    shared = [f"{bases[job.base]}" if job.base else "" for job in plan]
    columns = [
        *to_table_columns(keys, names),
        Column("state", states, False, use=ColumnUse.result),
        *(
            Column(ESTIMATE_COLUMNS[column], [row[column] for row in rows], False, use=ESTIMATE_USES[column])
            for column in filled
        ),
        job_id_column([job.job_id for job in plan], names),
        Column("base", shared, False, drop_order=2, use=ColumnUse.job),
    ]
    print_fitting_table(create_console(non_terminal_width=NO_WIDTH), columns, plans.HAS_ALL_COLUMNS)
    if any(estimate.fit is not None for estimate in estimates.values()):
        room, of_gpus = _free_main_memory(), visible_gpus.free_gpu_memory_mib()
        print(plans.memory_line(PROCESS_MIB, *room, of_gpus))
    is_quick = any(job.config and job.config.plan == "quick" for job in plan)
    for line in render_notes(question_notes(plan, estimates, is_quick)):
        print(line)
    for number, (planned, label) in enumerate(zip(plan, job_labels(plan), strict=True)):
        if planned.problem:
            print(escape_control_characters(f"impossible: {label}\n    {planned.problem}"))
        taken = estimates.get(number, JobEstimate())
        notes: list[Note | str] = [*planned.notes]
        if planned.made_for:
            notes.insert(0, note("added_for_others", jobs=planned.made_for))
        notes += [taken.fit.would_fit] if taken.fit is not None and taken.fit.would_fit else []
        notes += taken.time.notes if taken.time is not None else []
        for text in render_notes(notes):
            print(escape_control_characters(f"note: {label}\n    {text}"))
    each = (
        "each"
        if all(job.config is None or job.config.workers in (AUTO, "1") for job in plan)
        else "for each worker"
    )
    print(
        f"{summarize_plan(plan)}; {format_count(len(bases), 'base')} to load "
        f"at most once {each}{_total_time_text(plan, estimates)}"
    )


def _estimate_cells(estimate: JobEstimate | None, planned: PlannedJob) -> list[str]:
    """Return a job's number of questions or prompts, and its estimated memory and time."""
    count = "" if planned.input_count is None else f"{planned.input_count:,}"
    fit = estimate.fit if estimate else None
    if fit is None:
        memory = [""] * 5
    else:
        predicted = fit.predicted
        memory = [
            f"{mib:,.0f}"
            for mib in (
                predicted.weight_mib,
                predicted.kv_cache_mib,
                predicted.activation_mib,
                predicted.total_mib,
            )
        ]
        is_possible = planned.state is not PlanState.impossible
        # nothing tells the memory of the GPUs
        is_unknown = not fit.free_mib and bool(machine.visible_gpu_models())
        memory.append(
            "see below"
            if not is_possible
            else "yes"
            if fit.is_possible
            else "unknown"
            if is_unknown
            else "no"
        )
    return [count, *memory, *format_estimate(estimate.time if estimate else None)]


def _free_main_memory() -> tuple[float, bool]:
    """Return the MiB of main memory free for models, and whether a cgroup limits it."""
    available = machine.available_memory_mib()
    group = min(machine.cgroup_free_mib(), default=inf)
    return min(group, available), group <= available


def _total_time_text(plan: list[PlannedJob], estimates: dict[int, JobEstimate]) -> str:
    """Return how long the jobs to do take, one after another."""
    to_do = [
        number
        for number, planned in enumerate(plan)
        if planned.state in (PlanState.todo, PlanState.resume) and planned.same_as is None
    ]
    times = [time for number in to_do if number in estimates and (time := estimates[number].time) is not None]
    if not times:
        return ""
    seconds = sum(time.seconds for time in times)
    spread = sum(time.seconds * time.spread for time in times) / max(seconds, 1e-9)
    not_counted = (
        f", without {format_count(len(to_do) - len(times), 'job')} of unknown time"
        if len(times) < len(to_do)
        else ""
    )
    return f"; one after another {format_duration(seconds)} ± {spread:.0%}{not_counted}"


def print_hints(config: RunnerConfig) -> None:
    """Print where MLflow shows the jobs, and the command that compares them."""
    store = stores.store_from_config(config)
    if store and config.print.value == "table":
        hints = stores.ui_address_or_command(store.uri), stores.compare_command(store)
        print(escape_control_characters("See all: {}    Compare: {}".format(*hints)))
        if (number := _cached_experiment_id(store)) is not None:
            print(
                escape_control_characters(
                    f"Jobs and their scores: {run_table.view_address(store.uri, number)}"
                )
            )


def _cached_experiment_id(store: stores.Store) -> str | None:
    """Return the id of the store's experiment if it is known without asking MLflow."""
    number = connection.opened_experiment_id(store)
    if (
        number is None
        and (noted := published_index.latest_if_unchanged(store, "")) is not None
        and store.sqlite_file is not None
    ):
        return noted.identity.split()[0]
    return number


def table_lines(
    plan: list[PlannedJob],
    outcomes: dict[int, JobOutcome],
    interrupted: bool = False,
    always_shown: Sequence[str] = (),
) -> list[GridLine]:
    """Return the lines of the final table in the order of the grid. Keys `always_shown` appear even if
    all jobs agree.
    """
    lines = []
    for number, (planned, names) in enumerate(zip(plan, job_names(plan, always_shown), strict=True)):
        source = number if planned.same_as is None else planned.same_as
        outcome = outcomes.get(source)
        record = outcome.record if outcome else plan[source].record
        lines.append(GridLine(names, _status_text(planned, outcome, interrupted), planned.job_id, record))
    return lines


def _status_text(planned: PlannedJob, outcome: JobOutcome | None, interrupted: bool) -> str:
    if outcome is not None:
        was_recorded = outcome.record is not None and outcome.record.from_ledger
        return "done before" if was_recorded else outcome.status.value.lower()
    if planned.state is PlanState.done:
        return "done before"
    if planned.state is PlanState.impossible:
        return planned.state.value
    return "stopped" if interrupted else "not started"


def print_failures(plan: list[PlannedJob], outcomes: dict[int, JobOutcome]) -> int:
    """Print each unfinished job with its cause and log file, and return their number."""
    failures = 0
    for number, (planned, label) in enumerate(zip(plan, job_labels(plan), strict=True)):
        outcome = outcomes.get(number)
        if planned.state is PlanState.impossible:
            print_message(f"impossible: {label}: {planned.problem}")
        elif outcome is not None and outcome.status is not Status.FINISHED:
            log = planned.job.folder / "log.txt" if planned.job else Path()
            note = f"\n    note: {outcome.note}" if outcome.note else ""
            print_message(f"{outcome.status.value}: {label}: {outcome.message}{note}\n    log: {log}")
        else:
            continue
        failures += 1
    return failures
