"""The runs that a store has, read with few queries; sqlite is read without MLflow, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runner.core.result import Status
from runner.core.uris import sqlite_path
from runner.store import sqlite_runs
from runner.store.mlflow_store import Store, clear_errors, find_store, refuse_deleted

PARENT = "mlflow.parentRunId"
GRID = "grid"
PAGE = 1000  # runs per query: each takes 100 KiB and more


@dataclass
class StoredRuns:
    """The runs of an experiment that were not deleted, the newest first."""

    jobs: dict[str, dict[str, str | None]] = field(default_factory=dict)  # FINISHED runs: job -> run -> its parent
    grids: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # grid -> its runs with their status
    running: dict[str, dict[str, str]] = field(default_factory=dict)  # RUNNING runs of jobs and grids -> their tags

    def run_of(self, job_id: str, parent: str | None) -> str | None:
        """Return a run of a job below this parent, or any run of it if the parent is None."""
        runs = self.jobs.get(job_id, {})
        return next((run for run, above in runs.items() if parent in (None, above)), None)

    def free_run_of(self, job_id: str) -> str | None:
        """Return a run of a job without a parent."""
        return next((run for run, above in self.jobs.get(job_id, {}).items() if above is None), None)

    def orphan_of(self, job_id: str) -> str | None:
        """Return a run of a job without a parent, or whose parent was deleted."""
        grids = {run for runs in self.grids.values() for run, _ in runs}
        return next((run for run, above in self.jobs.get(job_id, {}).items() if above not in grids), None)


def read_runs(store: Store, job_id: str | None = None) -> StoredRuns:
    """Return the runs of all jobs and grids that the store has, or those of one job."""
    stored = StoredRuns()
    with clear_errors(store.uri):
        read = _from_mlflow if sqlite_path(store.uri) is None else _from_sqlite
        for run_id, status, tags in read(store, job_id):
            if status == "RUNNING":
                stored.running[run_id] = tags
            if "job_id" in tags and status == Status.FINISHED:
                stored.jobs.setdefault(tags["job_id"], {})[run_id] = tags.get(PARENT)
            elif GRID in tags:
                stored.grids.setdefault(tags[GRID], []).append((run_id, status))
    return stored


def _from_sqlite(store: Store, job_id: str | None) -> Iterator[tuple[str, str, dict[str, str]]]:
    file = sqlite_path(store.uri)
    assert file is not None
    if not (file.exists() and file.stat().st_size):
        return
    with sqlite_runs.opened(file) as database:
        for experiment_id, stage in sqlite_runs.experiments(database, store.experiment):
            refuse_deleted(store, stage, experiment_id)
            yield from sqlite_runs.tags_of_runs(database, experiment_id, job_id)


def _from_mlflow(store: Store, job_id: str | None) -> Iterator[tuple[str, str, dict[str, str]]]:
    opened = find_store(store)
    if opened is None:
        return
    client, experiment_id = opened
    of_job = f"tags.job_id = '{job_id}'" if job_id else "tags.job_id LIKE '%'"
    queries = [f"{of_job} and attributes.status = '{status}'" for status in (Status.FINISHED.value, "RUNNING")]
    for query in queries if job_id else [*queries, f"tags.{GRID} LIKE '%'"]:
        token: str | None = None
        while True:
            newest = ["attributes.start_time DESC"]
            page: Any = client.search_runs([experiment_id], query, 1, PAGE, newest, token)
            yield from ((run.info.run_id, run.info.status, run.data.tags) for run in page)
            token = page.token
            if not token:
                break
