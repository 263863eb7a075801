"""A grid as a user sees it before and after it runs: names, plan, the table at the end, the
failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf
from pathlib import Path

from runner.config.root import AUTO, RunnerConfig
from runner.estimates.fit import PROCESS_MIB
from runner.estimates.jobs import JobEstimate, estimate_words
from runner.grid.outcomes import Outcome
from runner.grid.plan import PlannedJob, State, estimate_plan
from runner.grid.question_plan import question_notes
from runner.render import plans
from runner.render.notes import render_notes
from runner.report import GridLine, job_column, named_columns, naming_columns
from runner.tracking import connection, published, run_table, stores
from runner_base import Column, Status, Use, clock, counted, machine, plain, say, visible_gpus
from runner_base.console import console
from runner_base.files import shared_folder
from runner_base.notes import Note, note
from runner_base.printed_tables import print_fitted
from runner_base.tables import NO_WIDTH

MODEL_NAME = "model.name"
ESTIMATE_COLUMNS = ("questions", "weights MiB", "KV MiB", "activ. MiB", "peak MiB", "fits", "time", "basis")
ESTIMATE_USES = (Use.more, Use.memory, Use.memory, Use.memory, Use.result, Use.result, Use.result, Use.more)


def job_names(plan: list[PlannedJob], always: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return for each job the overrides in which the jobs differ, and those of the keys `always`:
    key -> value."""
    rows = [dict(text.partition("=")[::2] for text in planned.overrides) for planned in plan]
    keys = dict.fromkeys(key for row in rows for key in row)
    unnamed = {key for planned in plan for key in planned.unnamed}
    differing = [
        key
        for key in keys
        if key in always or (key not in unnamed and len({row.get(key) for row in rows}) > 1)
    ]
    folder = shared_folder(row[MODEL_NAME] for row in rows if MODEL_NAME in row)
    names = [{key: row[key] for key in differing if key in row} for row in rows]
    return [
        name | ({MODEL_NAME: name[MODEL_NAME].removeprefix(folder)} if MODEL_NAME in name else {})
        for name in names
    ]


def labels(plan: list[PlannedJob], always: Sequence[str] = ()) -> list[str]:
    """Return a short name for each job."""
    return [
        " ".join(f"{key}={value}" for key, value in names.items())
        or " ".join(planned.overrides)
        or "(no overrides)"
        for names, planned in zip(job_names(plan, always), plan, strict=True)
    ]


def summary(plan: list[PlannedJob]) -> str:
    """Count a plan in one line."""
    totals = Counter(planned.state for planned in plan)
    duplicates = sum(planned.same_as is not None for planned in plan)
    parts = [f"{totals[state]} {state}" for state in State if totals[state]]
    return f"{counted(len(plan), 'job')}: {', '.join(parts)}" + (
        f" ({duplicates} listed twice, run once)" if duplicates else ""
    )


def show_plan(plan: list[PlannedJob]) -> None:
    """Print each job's state, the base that it shares, and the memory and time that it will
    take."""
    estimates = estimate_plan(plan)
    bases = {
        base: number for number, base in enumerate(dict.fromkeys(p.base for p in plan if p.base), start=1)
    }
    keys, names = naming_columns(job_names(plan))
    rows = [_estimate_cells(estimates.get(number), planned) for number, planned in enumerate(plan)]
    filled = [column for column in range(len(ESTIMATE_COLUMNS)) if any(row[column] for row in rows)]
    states = [plans.state_cell(job.state, job.same_as is not None) for job in plan]
    shared = [f"{bases[job.base]}" if job.base else "" for job in plan]
    columns = [
        *named_columns(keys, names),
        Column("state", states, False, use=Use.result),
        *(
            Column(ESTIMATE_COLUMNS[column], [row[column] for row in rows], False, use=ESTIMATE_USES[column])
            for column in filled
        ),
        job_column([job.job_id for job in plan], names),
        Column("base", shared, False, drop_order=2, use=Use.job),
    ]
    print_fitted(console(width_elsewhere=NO_WIDTH), columns, plans.HAS_ALL_COLUMNS)
    if any(estimate.fit is not None for estimate in estimates.values()):
        room, of_gpus = _main_memory(), visible_gpus.free_mib()
        print(plans.memory_line(PROCESS_MIB, *room, of_gpus))
    is_quick = any(job.config and job.config.plan == "quick" for job in plan)
    for line in render_notes(question_notes(plan, estimates, is_quick)):
        print(line)
    for number, (planned, label) in enumerate(zip(plan, labels(plan), strict=True)):
        if planned.problem:
            print(plain(f"impossible: {label}\n    {planned.problem}"))
        taken = estimates.get(number, JobEstimate())
        notes: list[Note | str] = [*planned.notes]
        if planned.made_for:
            notes.insert(0, note("added_for_others", jobs=planned.made_for))
        notes += [taken.fit.would_fit] if taken.fit is not None and taken.fit.would_fit else []
        notes += taken.time.notes if taken.time is not None else []
        for text in render_notes(notes):
            print(plain(f"note: {label}\n    {text}"))
    each = (
        "each"
        if all(job.config is None or job.config.workers in (AUTO, "1") for job in plan)
        else "for each worker"
    )
    print(
        f"{summary(plan)}; {counted(len(bases), 'base')} to load at most once {each}{_total_time(plan, estimates)}"
    )


def _estimate_cells(taken: JobEstimate | None, planned: PlannedJob) -> list[str]:
    """Return the cells with the number of questions or prompts, and with the memory and time that a
    job will take."""
    count = "" if planned.input_count is None else f"{planned.input_count:,}"
    fit = taken.fit if taken else None
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
        is_possible = planned.state is not State.impossible
        # nothing tells the memory of the GPUs
        is_unknown = not fit.free_mib and bool(machine.gpu_models())
        memory.append(
            "see below" if not is_possible else "yes" if fit.fits else "unknown" if is_unknown else "no"
        )
    return [count, *memory, *estimate_words(taken.time if taken else None)]


def _main_memory() -> tuple[float, bool]:
    """Return how much main memory is free for models, and whether a control group limits it."""
    available = machine.available_mib()
    group = min(machine.cgroup_rooms_mib(), default=inf)
    return min(group, available), group <= available


def _total_time(plan: list[PlannedJob], estimates: dict[int, JobEstimate]) -> str:
    """Say how long the jobs to do will take, one after another."""
    to_do = [
        number
        for number, planned in enumerate(plan)
        if planned.state in (State.todo, State.resume) and planned.same_as is None
    ]
    times = [time for number in to_do if number in estimates and (time := estimates[number].time) is not None]
    if not times:
        return ""
    seconds = sum(time.seconds for time in times)
    spread = sum(time.seconds * time.spread for time in times) / max(seconds, 1e-9)
    not_counted = (
        f", {counted(len(to_do) - len(times), 'job')} not counted" if len(times) < len(to_do) else ""
    )
    return f"; one after another {clock(seconds)} ± {spread:.0%}{not_counted}"


def show_hints(settings: RunnerConfig) -> None:
    """Print where MLflow shows the jobs, and the command that compares them."""
    store = stores.store_of(settings)
    if store and settings.print.value == "table":
        hints = stores.see_all(store.uri), stores.compare_command(store)
        print(plain("See all: {}    Compare: {}".format(*hints)))
        if (number := _experiment_number(store)) is not None:
            print(plain(f"Jobs and their scores: {run_table.address(store.uri, number)}"))


def _experiment_number(store: stores.Store) -> str | None:
    """Return the number of the store's experiment, if it is known without asking MLflow."""
    number = connection.opened_experiment(store)
    if number is None and (noted := published.unchanged(store, "")) is not None and store.file is not None:
        return noted.identity.split()[0]
    return number


def table_lines(
    plan: list[PlannedJob], outcomes: dict[int, Outcome], interrupted: bool = False, keys: Sequence[str] = ()
) -> list[GridLine]:
    """Return the lines of the table at the end, in the order of the grid; `keys` are named even if
    all jobs agree."""
    lines = []
    for number, (planned, names) in enumerate(zip(plan, job_names(plan, keys), strict=True)):
        source = number if planned.same_as is None else planned.same_as
        outcome = outcomes.get(source)
        record = outcome.record if outcome else plan[source].record
        lines.append(GridLine(names, _status_text(planned, outcome, interrupted), planned.job_id, record))
    return lines


def _status_text(planned: PlannedJob, outcome: Outcome | None, interrupted: bool) -> str:
    """Return the status of a job at the end of its grid, in a word or two."""
    if outcome is not None:
        was_recorded = outcome.record is not None and outcome.record.from_ledger
        return "done before" if was_recorded else outcome.status.value.lower()
    if planned.state is State.done:
        return "done before"
    if planned.state is State.impossible:
        return planned.state.value
    return "stopped" if interrupted else "not started"


def show_failures(plan: list[PlannedJob], outcomes: dict[int, Outcome]) -> int:
    """Print each job that is not finished, with the cause and the log file; return how many there
    are."""
    failures = 0
    for number, (planned, label) in enumerate(zip(plan, labels(plan), strict=True)):
        outcome = outcomes.get(number)
        if planned.state is State.impossible:
            say(f"impossible: {label}: {planned.problem}")
        elif outcome is not None and outcome.status is not Status.FINISHED:
            log = planned.job.folder / "log.txt" if planned.job else Path()
            note = f"\n    note: {outcome.note}" if outcome.note else ""
            say(f"{outcome.status.value}: {label}: {outcome.message}{note}\n    log: {log}")
        else:
            continue
        failures += 1
    return failures
