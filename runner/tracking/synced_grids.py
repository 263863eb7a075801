"""runner-sync for grids: their runs in another store, with plan, description and verdict, and the
runs of their jobs below them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.records import grid_records
from runner.records.grid_records import GridRecord
from runner.records.jobs import LOCK
from runner.render.notes import note_text
from runner.tracking import grid_runs
from runner.tracking.connection import connected_to_read
from runner.tracking.pending_runs import TAG
from runner.tracking.stored_runs import GRID, GRID_STARTED_MS, RUNNING, StoredRuns, download, search
from runner.tracking.stores import Store, default_uri
from runner_base import ConfigError, Record, Status, parse_json, say
from runner_base.files import is_held
from runner_base.notes import note

OF_NOTES = ("best", "verdict")  # tags of a grid's run that say what it has come to


@dataclass
class SyncedGrids:
    """The grids of an output folder that a store is to have, and which job belongs to which."""

    store: Store
    records: Sequence[GridRecord]
    jobs: dict[str, list[str]] = field(default_factory=dict)  # grid -> its finished jobs
    runs: list[tuple[GridRecord, grid_runs.GridRun]] = field(default_factory=list)

    def assign(self, finished: Mapping[str, Record]) -> None:
        """Assign each finished job to the grid that has run it, or to the first one that lists
        it."""
        for job_id, record in finished.items():
            listing = [grid for grid in self.records if job_id in grid.job_ids]
            parent = record.params.get("tracking.parent_run_id")
            own = [grid for grid in listing if parent in grid.runs]
            if listing:
                self.jobs.setdefault((own or listing)[0].grid, []).append(job_id)

    def start(self, stored: StoredRuns) -> dict[str, str]:
        """Start the runs of the grids that the store lacks, or has only in part; return the parent
        run of each of their jobs."""
        parents: dict[str, str] = {}
        for record in self.records:
            jobs = self.jobs.get(record.grid, [])
            if not jobs or _is_running(self.store.output_dir, record):
                continue
            known = stored.grids.get(record.grid, [])
            if known and known[0][1] == _status(record) and _is_whole(stored, jobs):
                continue
            run = grid_runs.start(
                self.store,
                grid_runs.GridName(record.grid, record.title, record.params),
                record.tags,
                _plan(record),
                jobs,
            )
            self.runs.append((record, run))
            parents |= dict.fromkeys(jobs, run.run_id)
        return parents

    def finish(self) -> int:
        """Log what the grids have come to, and end their runs; return how many there are."""
        for record, run in self.runs:
            grid_runs.log_notes(run, record.metrics, record.notes, record.description, record.first_metric)
            grid_runs.finish(run, Status(_status(record)), _plan(record))
        return len(self.runs)


def grids_to_sync(store: Store) -> SyncedGrids:
    """Return the grids that the output folder has recorded, the first started first. Those from
    before such records existed are read from the folder's own database."""
    records = grid_records.read_all(store.output_dir)
    if not store.is_own:
        known = {record.grid for record in records}
        own = Store(default_uri(store.output_dir), store.experiment, store.output_dir)
        records += [record for record in _records_of(own) if record.grid not in known]
    return SyncedGrids(store, sorted(records, key=lambda record: record.started_ms))


def _status(record: GridRecord) -> str:
    """Return how a grid ended; one whose process has died was interrupted."""
    return Status.KILLED.value if record.status == RUNNING else record.status


def _is_running(output_dir: Path, record: GridRecord) -> bool:
    return record.status == RUNNING and any(
        is_held(output_dir / "jobs" / job_id / LOCK) for job_id in record.job_ids
    )


def _is_whole(stored: StoredRuns, jobs: Collection[str]) -> bool:
    """Whether the store has a run of each job below a grid."""
    grids = {run for runs in stored.grids.values() for run, _ in runs}
    return all(grids & {*stored.jobs.get(job, {}).values()} for job in jobs)


def _plan(record: GridRecord) -> dict[str, Any]:
    return {"jobs": record.jobs, "config": record.config}


def _records_of(store: Store) -> list[GridRecord]:
    """Return the grids of a folder's own database."""
    if store.file is None or not store.file.exists():
        return []
    with connected_to_read(store) as experiment, tempfile.TemporaryDirectory() as scratch:
        if experiment is None:
            return []
        found = [
            _record_of(experiment.client, run, Path(scratch, run.info.run_id))
            for run in search(*experiment, f"tags.{GRID} LIKE '%'")
        ]
    return [record for record in found if record is not None]


def _record_of(client: Any, run: Any, scratch: Path) -> GridRecord | None:
    tags = dict(run.data.tags)
    try:
        path = download(client, run.info.run_id, grid_runs.PLAN, scratch)
        plan = {} if path is None else parse_json(path.read_text(encoding="utf-8"))
        jobs = [{"job_id": job["job_id"], **job} for job in plan.get("jobs", [])]
    except (ConfigError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        damaged = note("grid_plan_unreadable", run=run.info.run_id, reason=error)
        say(note_text(note("left_out", what=damaged)))
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
