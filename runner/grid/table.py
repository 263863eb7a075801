"""A grid as text: the names of its jobs, the plan, the table at the end, the failures."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from runner.core import machine
from runner.core.result import Status
from runner.grid.outcome import Outcome
from runner.grid.plan import Planned, State
from runner.grid.sizing import need_of
from runner.report import GridLine, console


def job_names(plan: list[Planned]) -> list[dict[str, str]]:
    """Return for each job the overrides in which the jobs differ: key -> value."""
    rows = [dict(_pair(text) for text in planned.overrides) for planned in plan]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    differing = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    return [{key: row[key] for key in differing if key in row} for row in rows]


def labels(plan: list[Planned]) -> list[str]:
    """Return a short name for each job."""
    return [
        " ".join(f"{key}={value}" for key, value in names.items()) or planned.name
        for names, planned in zip(job_names(plan), plan, strict=True)
    ]


def table_lines(plan: list[Planned], outcomes: dict[int, Outcome], interrupted: bool = False) -> list[GridLine]:
    """Return the lines of the table at the end, in the order of the grid."""
    lines = []
    for number, (planned, names) in enumerate(zip(plan, job_names(plan), strict=True)):
        source = number if planned.same_as is None else planned.same_as
        outcome = outcomes.get(source)
        record = outcome.record if outcome else plan[source].record
        status = _status_text(planned, outcome, interrupted)
        lines.append(GridLine(names, status, planned.job.job_id if planned.job else "", record))
    return lines


def _status_text(planned: Planned, outcome: Outcome | None, interrupted: bool) -> str:
    """Return the status of a job at the end of its grid, in a word or two."""
    if outcome is not None:
        recorded = outcome.record is not None and outcome.record.from_ledger
        return "done before" if recorded else outcome.status.value.lower()
    if planned.state is State.done:
        return "done before"
    if planned.state is State.impossible:
        return planned.state.value
    return "stopped" if interrupted else "not begun"


def show_plan(plan: list[Planned], out: TextIO) -> None:
    """Print what would run, what is done, what cannot work, and which jobs share a loaded base."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from runner.grid.view import summary

    bases = {base: number for number, base in enumerate(dict.fromkeys(p.base for p in plan if p.base), start=1)}
    names = job_names(plan)
    keys = list(dict.fromkeys(key for row in names for key in row))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("job", no_wrap=True)
    for column in (*keys, "state", "base", "needs MiB"):
        table.add_column(column, overflow="fold")
    known: dict[str, str] = {}
    for planned, row in zip(plan, names, strict=True):
        state = planned.state.value
        if planned.same_as is not None and planned.job is not None:
            state += " (the same job as one above)"
        base = f"{bases[planned.base]}" if planned.base else ""
        job_id = planned.job.job_id if planned.job else ""
        table.add_row(job_id, *(escape(row.get(key, "")) for key in keys), state, base, _needs(planned, known))
    console(out).print(table)
    print(
        "needs: weights, KV cache and activations as predicted, a worker's own 600 MiB not counted; "
        f"{machine.available_mib():,.0f} MiB of main memory are free",
        file=out,
    )
    for planned, label in zip(plan, labels(plan), strict=True):
        if planned.problem:
            print(f"impossible: {label}\n    {planned.problem}", file=out)
        for note in planned.notes:
            print(f"note: {label}\n    {note}", file=out)
    print(f"{summary(plan)}; {len(bases)} bases to load at most once each", file=out)


def _needs(planned: Planned, known: dict[str, str]) -> str:
    """Predict the memory of a job; jobs that differ in nothing that matters for it are computed once."""
    if planned.config is None or planned.resolved is None or planned.job is None or not planned.base:
        return ""
    key = f"{planned.base} {planned.config.generation}"
    if key not in known:
        known[key] = f"{need_of(planned.config, planned.resolved).mib:,.0f}"
    return known[key]


def show_failures(plan: list[Planned], outcomes: dict[int, Outcome], out: TextIO) -> int:
    """Print each job that is not finished, with its cause and its log; return how many there are."""
    failures = 0
    for number, (planned, label) in enumerate(zip(plan, labels(plan), strict=True)):
        outcome = outcomes.get(number)
        if planned.state is State.impossible:
            print(f"impossible: {label}: {planned.problem}", file=out)
        elif outcome is not None and outcome.status is not Status.FINISHED:
            log = planned.job.folder / "log.txt" if planned.job else Path()
            print(f"{outcome.status.value}: {label}: {outcome.message}\n    log: {log}", file=out)
        else:
            continue
        failures += 1
    return failures


def _pair(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value
