"""Prints a grid before and after its run: job names, plan, final table and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path

from runner.config.groups import GROUPS
from runner.config.root import AUTO, PrintMode, RunnerConfig
from runner.estimates.fit import PROCESS_MIB
from runner.estimates.jobs import JobEstimate
from runner.estimates.render import format_estimated_time_and_source
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import PlannedJob, PlanState, estimate_planned_jobs
from runner.grid.question_plan import make_statistical_power_notes
from runner.render import grid_lines, plans
from runner.render.notes import render_notes
from runner.report import (
    WIDTH,
    GridLine,
    build_job_id_column,
    build_job_name_columns,
    to_job_name_table_columns,
)
from runner.tracking import connection, published_index, run_table, stores
from runner_base import (
    Column,
    ColumnUse,
    Status,
    escape_control_characters,
    format_count,
    machine,
    print_message,
    visible_gpus,
)
from runner_base.console import create_console
from runner_base.files import find_common_folder
from runner_base.notes import Note, note
from runner_base.printed_tables import print_table_fitted_to_terminal
from runner_base.tables import NO_WIDTH

MODEL_NAME = "model.name"
JOB_GROUPS = GROUPS.keys() - {"tracking"}
# of each group, the choice that others are compared with
PLAIN_CHOICES = {"quantization": "none", "lora": "none", "rope": "native", "generation": "greedy"}
ESTIMATE_COLUMNS = (
    "questions",
    "weights MiB",
    "KV MiB",
    "prompt cache MiB",
    "activ. MiB",
    "model MiB",
    "fits",
    "time",
    "time source",
)
ESTIMATE_USES = (
    ColumnUse.more,
    ColumnUse.memory,
    ColumnUse.memory,
    ColumnUse.memory,
    ColumnUse.memory,
    ColumnUse.result,
    ColumnUse.result,
    ColumnUse.result,
    ColumnUse.more,
)


def select_displayed_overrides(
    plan: list[PlannedJob], required_keys: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Return each job's displayed overrides: those that differ between jobs, plus those in
    `required_keys`.
    """
    rows = [dict(text.partition("=")[::2] for text in planned.overrides) for planned in plan]
    keys = dict.fromkeys(key for row in rows for key in row)
    unnamed = {key for planned in plan for key in planned.unnamed}
    differing = [
        key
        for key in keys
        if key in required_keys or (key not in unnamed and len({row.get(key) for row in rows}) > 1)
    ]
    folder = find_common_folder(row[MODEL_NAME] for row in rows if MODEL_NAME in row)
    names = [{key: row[key] for key in differing if key in row} for row in rows]
    return [
        name | ({MODEL_NAME: name[MODEL_NAME].removeprefix(folder)} if MODEL_NAME in name else {})
        for name in names
    ]


def build_job_labels(plan: list[PlannedJob], always_shown: Sequence[str] = ()) -> list[str]:
    return [
        " ".join(f"{key}={value}" for key, value in names.items())
        or " ".join(select_overrides_of_job_groups(planned.overrides))
        or "(no overrides)"
        for names, planned in zip(select_displayed_overrides(plan, always_shown), plan, strict=True)
    ]


def select_overrides_of_job_groups(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the groups that make a job, without folders, stores and printing.

    Of a model's path, the last part remains.
    """
    of_job = [text for text in overrides if text.partition("=")[0].partition(".")[0] in JOB_GROUPS]
    prefix = f"{MODEL_NAME}="
    return [f"{prefix}{Path(text).name}" if text.startswith(f"{prefix}/") else text for text in of_job]


def format_job_counts_by_state(plan: list[PlannedJob]) -> str:
    """Return one line with the number of jobs in each state."""
    totals = Counter(planned.state for planned in plan)
    duplicates = sum(planned.same_as is not None for planned in plan)
    parts = [f"{totals[state]} {state}" for state in PlanState if totals[state]]
    return f"{format_count(len(plan), 'job')}: {', '.join(parts)}" + (
        f" ({duplicates} listed twice, run once)" if duplicates else ""
    )


def print_plan(plan: list[PlannedJob]) -> None:
    """Print each job's state, shared base model, and estimated memory and time."""
    estimates = estimate_planned_jobs(plan)
    bases = {
        base: number for number, base in enumerate(dict.fromkeys(p.base for p in plan if p.base), start=1)
    }
    keys, names = build_job_name_columns(select_displayed_overrides(plan))
    rows = [_format_estimate_cells(estimates.get(number), planned) for number, planned in enumerate(plan)]
    is_full = any(job.config and job.config.print is PrintMode.full for job in plan)
    filled = [
        column
        for column in range(len(ESTIMATE_COLUMNS))
        if any(row[column] for row in rows) and (is_full or ESTIMATE_USES[column] is not ColumnUse.memory)
    ]
    states = [plans.job_state_text(job.state, job.same_as is not None) for job in plan]
    shared = [f"{bases[job.base]}" if job.base else "" for job in plan]
    columns = [
        *to_job_name_table_columns(keys, names),
        Column("state", states, False, use=ColumnUse.result),
        *(
            Column(ESTIMATE_COLUMNS[column], [row[column] for row in rows], False, use=ESTIMATE_USES[column])
            for column in filled
        ),
        build_job_id_column([job.job_id for job in plan], names),
        *([Column("base", shared, False, drop_order=2, use=ColumnUse.job)] if is_full else []),
    ]
    print_table_fitted_to_terminal(
        create_console(non_terminal_width=NO_WIDTH if is_full else WIDTH), columns, plans.HAS_ALL_COLUMNS
    )
    if any(estimate.fit is not None for estimate in estimates.values()):
        room, of_gpus = _get_free_main_memory_mib(), visible_gpus.measure_free_gpu_memory_mib()
        caches = [estimate.fit.max_prompt_cache_mib for estimate in estimates.values() if estimate.fit]
        lines = plans.format_available_memory_lines(PROCESS_MIB, *room, of_gpus, max(caches, default=0.0))
        print("\n".join(lines))
    is_quick = any(job.config and job.config.plan == "quick" for job in plan)
    for line in render_notes(make_statistical_power_notes(plan, estimates, is_quick)):
        print(line)
    for number, (planned, label) in enumerate(zip(plan, build_job_labels(plan), strict=True)):
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
    is_per_worker = any(job.config is not None and job.config.workers not in (AUTO, "1") for job in plan)
    to_load = {job.base for job in plan if job.base and job.state in (PlanState.todo, PlanState.resume)}
    print(
        plans.format_plan_total_line(
            format_job_counts_by_state(plan),
            len(to_load),
            is_per_worker,
            *_estimate_total_time(plan, estimates),
        )
    )


def _format_estimate_cells(estimate: JobEstimate | None, planned: PlannedJob) -> list[str]:
    """Format a job's number of questions or prompts, and its estimated memory and time, as table
    cells.
    """
    count = "" if planned.input_count is None else f"{planned.input_count:,}"
    fit = estimate.fit if estimate else None
    if fit is None:
        memory = [""] * 6
    else:
        predicted = fit.predicted
        memory = [
            f"{predicted.weight_mib:,.0f}",
            f"{predicted.kv_cache_mib:,.0f}",
            plans.format_prompt_cache_cell(fit.max_prompt_cache_mib),
            f"{predicted.activation_mib:,.0f}",
            f"{predicted.total_mib:,.0f}",
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
    return [count, *memory, *format_estimated_time_and_source(estimate.time if estimate else None)]


def _get_free_main_memory_mib() -> tuple[float, bool]:
    """Return the main memory that is free for models, in MiB, and whether a cgroup limits it."""
    available = machine.available_memory_mib()
    group = min(machine.read_cgroup_free_mib(), default=inf)
    return min(group, available), group <= available


def _estimate_total_time(
    plan: list[PlannedJob], estimates: dict[int, JobEstimate]
) -> tuple[float | None, float, bool, int]:
    """Estimate the total run time of all unfinished jobs, in seconds.

    Also returns the relative error, whether the total is an upper bound, and the number of jobs without
    estimate.
    """
    to_do = [
        number
        for number, planned in enumerate(plan)
        if planned.state in (PlanState.todo, PlanState.resume) and planned.same_as is None
    ]
    times = [time for number in to_do if number in estimates and (time := estimates[number].time) is not None]
    if not times:
        return None, 0.0, False, 0
    seconds = sum(time.seconds for time in times)
    spread = sum(time.seconds * time.spread for time in times) / max(seconds, 1e-9)
    is_upper_bound = any(time.is_only_bounded for time in times)
    return seconds, spread, is_upper_bound, len(to_do) - len(times)


def print_next_step_hints(config: RunnerConfig, names: Sequence[Mapping[str, str]] = ()) -> None:
    """Print the MLflow address of the jobs, and the command that compares the jobs."""
    store = stores.create_store_from_config(config)
    if store and config.print.is_table:
        compare = " ".join([stores.build_compare_command(store), *_format_baseline_option(names)])
        print(escape_control_characters(grid_lines.format_hint_line(grid_lines.NEXT, compare)))
        print(
            escape_control_characters(
                grid_lines.format_hint_line(grid_lines.MLFLOW, stores.format_mlflow_url_or_command(store.uri))
            )
        )
        if (number := _get_cached_experiment_id(store)) is not None:
            print(
                escape_control_characters(
                    grid_lines.format_scores_line(
                        run_table.build_run_table_view_url(store.uri, number),
                        is_local=not stores.is_server(store.uri),
                    )
                )
            )


def _format_baseline_option(displayed_overrides: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the `--baseline` option that selects the jobs with default choices, such as quantization=none.

    A plain choice is, for example, quantization=none. The list is empty if no job has all of
    them.
    """
    plain_values = {
        key: value
        for key, value in PLAIN_CHOICES.items()
        if len({row.get(key) for row in displayed_overrides}) > 1
        and any(row.get(key) == value for row in displayed_overrides)
    }
    is_there = any(plain_values.items() <= row.items() for row in displayed_overrides)
    if not plain_values or not is_there:
        return []
    return ["--baseline", ",".join(f"{key}={value}" for key, value in plain_values.items())]


def _get_cached_experiment_id(store: stores.Store) -> str | None:
    """Return the id of the MLflow experiment if it is cached. Does not query MLflow."""
    number = connection.get_cached_experiment_id(store)
    if (
        number is None
        and (noted := published_index.find_current_published_entry(store, "")) is not None
        and store.sqlite_file is not None
    ):
        return noted.identity.split()[0]
    return number


def build_grid_table_rows(
    plan: list[PlannedJob],
    outcomes: dict[int, JobOutcome],
    interrupted: bool = False,
    required_keys: Sequence[str] = (),
) -> list[GridLine]:
    lines = []
    for number, (planned, names) in enumerate(
        zip(plan, select_displayed_overrides(plan, required_keys), strict=True)
    ):
        source = number if planned.same_as is None else planned.same_as
        outcome = outcomes.get(source)
        record = outcome.record if outcome else plan[source].record
        lines.append(
            GridLine(names, _format_job_status(planned, outcome, interrupted), planned.job_id, record)
        )
    return lines


def _format_job_status(planned: PlannedJob, outcome: JobOutcome | None, interrupted: bool) -> str:
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
    for number, (planned, label) in enumerate(zip(plan, build_job_labels(plan), strict=True)):
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
