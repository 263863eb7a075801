"""A grid's runs, and where in MLflow the comparison of a grid is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.compare import store
from runner.compare.data import Run
from runner.core.errors import ConfigError

if TYPE_CHECKING:
    from runner.compare.store import Client

LAST = "last"
FOLDER = "comparison"  # among the artifacts of the grid's run


@dataclass
class Grid:
    """The run that a grid's jobs stand below."""

    run_id: str
    name: str  # the tag that the grid's process is known by
    title: str


def find_grid(client: Client, experiment: str, wanted: str) -> Grid:
    """Return the grid with this id, or the last one that was begun."""
    found = [
        Grid(item.info.run_id, item.data.tags["grid"], item.info.run_name)
        for item in store.search(client, experiment, "tags.grid LIKE '%'")
    ]
    if not found:
        raise ConfigError(f"--grid {wanted}: no grid in experiment {experiment} yet")
    fitting = [grid for grid in found if wanted and (grid.run_id.startswith(wanted) or grid.name.startswith(wanted))]
    if wanted == LAST:
        return found[0]
    if len(fitting) != 1:
        count = "several grids begin like that" if fitting else "no grid has this run id"
        there = ", ".join(f"{grid.run_id} ({grid.title})" for grid in (fitting or found)[:6])
        raise ConfigError(f"--grid {wanted}: {count}. Newest first: {there}")
    return fitting[0]


def runs_of(client: Client, grid: Grid, runs: list[Run], scratch: Path) -> list[Run]:
    """Return a grid's runs: those below it, and of jobs that were done before it began the recorded ones."""
    mine = [run for run in runs if run.grid == grid.run_id]
    plan = store.download(client, grid.run_id, "plan.json", scratch / grid.run_id)
    jobs = json.loads(plan.read_text(encoding="utf-8"))["jobs"] if plan is not None else []
    earlier = {job["job_id"] for job in jobs} - {run.job_id for run in mine}
    chosen = mine + [run for run in runs if run.job_id in earlier]
    if not chosen:
        raise ConfigError(f"--grid {grid.run_id}: none of its jobs has finished")
    return chosen


def grid_to_log_to(runs: list[Run]) -> str:
    """Return the one grid that all runs stand below."""
    found = sorted({run.grid for run in runs if run.grid})
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError("--log: these runs belong to no grid; --save FOLDER keeps the comparison in a folder")
    raise ConfigError(f"--log: these runs are of {len(found)} grids ({', '.join(found[:4])}): choose one with --grid")
