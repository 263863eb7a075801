"""Copies the parent runs of grids to another MLflow store, for runner-sync."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.records import grid_records
from runner.records.grid_records import GridRecord
from runner.records.jobs import LOCK
from runner.render.notes import format_note
from runner.tracking import grid_runs
from runner.tracking.connection import connect_for_reading
from runner.tracking.pending_runs import TAG
from runner.tracking.stored_runs import (
    GRID,
    GRID_STARTED_MS,
    RUNNING,
    StoredRuns,
    download_artifact,
    search_runs,
)
from runner.tracking.stores import Store, default_sqlite_uri
from runner_base import ConfigError, Record, Status, parse_json, print_message
from runner_base.files import is_locked
from runner_base.notes import note

OF_NOTES = ("best", "verdict")  # tags of a grid's run that say what it has come to


@dataclass
class GridsToSync:
    """Grids of an output folder that are copied to another store, and their jobs."""

    store: Store
    records: Sequence[GridRecord]
    jobs: dict[str, list[str]] = field(default_factory=dict)  # grid -> its finished jobs
    runs: list[tuple[GridRecord, grid_runs.GridRun]] = field(default_factory=list)

    def assign_jobs(self, finished_records: Mapping[str, Record]) -> None:
        """Assign each finished job to the grid that ran it, or to the first grid that contains it."""
        for job_id, record in finished_records.items():
            listing = [grid for grid in self.records if job_id in grid.job_ids]
            parent = record.params.get("tracking.parent_run_id")
            own = [grid for grid in listing if parent in grid.runs]
            if listing:
                self.jobs.setdefault((own or listing)[0].grid, []).append(job_id)

    def start_parent_runs(self, stored_runs: StoredRuns) -> dict[str, str]:
        """Start the parent runs of missing or incomplete grids. Returns each job's parent run id."""
        parents: dict[str, str] = {}
        for record in self.records:
            jobs = self.jobs.get(record.grid, [])
            if not jobs or _is_running(self.store.output_dir, record):
                continue
            known = stored_runs.grids.get(record.grid, [])
            if known and known[0][1] == _final_status(record) and _has_all_job_runs(stored_runs, jobs):
                continue
            run = grid_runs.start_grid_run(
                self.store,
                grid_runs.GridName(record.grid, record.title, record.params),
                record.tags,
                _to_plan(record),
                jobs,
            )
            self.runs.append((record, run))
            parents |= dict.fromkeys(jobs, run.run_id)
        return parents

    def finish_runs(self) -> int:
        """Log the grids' results, end their parent runs, and return the number of grids."""
        for record, run in self.runs:
            grid_runs.log_grid_results(
                run, record.metrics, record.notes, record.description, record.first_metric
            )
            grid_runs.finish_grid_run(run, Status(_final_status(record)), _to_plan(record))
        return len(self.runs)


def collect_grids_to_sync(store: Store) -> GridsToSync:
    """Return all grids that ran in the output folder, oldest first.

    Grids from versions without such records are read from the folder's own database.
    """
    records = grid_records.read_grid_records(store.output_dir)
    if not store.is_default_database:
        known = {record.grid for record in records}
        own = Store(default_sqlite_uri(store.output_dir), store.experiment, store.output_dir)
        records += [record for record in _read_database_grids(own) if record.grid not in known]
    return GridsToSync(store, sorted(records, key=lambda record: record.started_ms))


def _final_status(record: GridRecord) -> str:
    """Return a grid's final status. A grid whose process died counts as interrupted."""
    return Status.KILLED.value if record.status == RUNNING else record.status


def _is_running(output_dir: Path, record: GridRecord) -> bool:
    return record.status == RUNNING and any(
        is_locked(output_dir / "jobs" / job_id / LOCK) for job_id in record.job_ids
    )


def _has_all_job_runs(stored_runs: StoredRuns, jobs: Collection[str]) -> bool:
    grids = {run for runs in stored_runs.grids.values() for run, _ in runs}
    return all(grids & {*stored_runs.jobs.get(job, {}).values()} for job in jobs)


def _to_plan(record: GridRecord) -> dict[str, Any]:
    return {"jobs": record.jobs, "config": record.config}


def _read_database_grids(store: Store) -> list[GridRecord]:
    if store.sqlite_file is None or not store.sqlite_file.exists():
        return []
    with connect_for_reading(store) as experiment, tempfile.TemporaryDirectory() as scratch:
        if experiment is None:
            return []
        found = [
            _read_grid_record(experiment.client, run, Path(scratch, run.info.run_id))
            for run in search_runs(*experiment, f"tags.{GRID} LIKE '%'")
        ]
    return [record for record in found if record is not None]


def _read_grid_record(client: Any, run: Any, temp_folder: Path) -> GridRecord | None:
    tags = dict(run.data.tags)
    try:
        path = download_artifact(client, run.info.run_id, grid_runs.PLAN, temp_folder)
        plan = {} if path is None else parse_json(path.read_text(encoding="utf-8"))
        jobs = [{"job_id": job["job_id"], **job} for job in plan.get("jobs", [])]
    except (ConfigError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        damaged = note("grid_plan_unreadable", run=run.info.run_id, reason=error)
        print_message(format_note(note("left_out", what=damaged)))
        return None
    start = {
        key: value
        for key, value in tags.items()
        if not key.startswith("mlflow.") or key == "mlflow.source.git.commit"
        if key not in (GRID, TAG, "output_dir", grid_runs.OWN_NOTE, *OF_NOTES)
    }
    return GridRecord(
        tags[GRID],
        tags.get(grid_runs.RUN_NAME, ""),
        int(tags.get(GRID_STARTED_MS, run.info.start_time)),
        run.info.status,
        jobs,
        plan.get("config") or {},
        dict(run.data.params),
        start,
        dict(run.data.metrics),
        {key: tags[key] for key in OF_NOTES if key in tags},
        tags.get(grid_runs.NOTE, ""),
        runs=[run.info.run_id],
    )
