"""MLflow's tables in sqlite, read without MLflow: its import takes seconds, and its client milliseconds for each run.

Nothing is written here, and only this module knows the tables.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

RUNS = """
select runs.run_uuid, runs.status, tags.key, tags.value
from runs join tags on tags.run_uuid = runs.run_uuid
where runs.experiment_id = ? and runs.lifecycle_stage = 'active'
  and (tags.key in ('job_id', 'grid', 'mlflow.parentRunId')
       or runs.status = 'RUNNING' and tags.key in ('begun', 'output_dir'))
"""
OF_JOB = " and runs.run_uuid in (select run_uuid from tags where key = 'job_id' and value = ?)"
NEWEST = " order by runs.start_time desc, runs.rowid desc"

WHOLE_RUNS = """
select run_uuid, artifact_uri,
  (select json_group_object(key, value) from params where params.run_uuid = runs.run_uuid),
  (select json_group_object(key, value) from tags where tags.run_uuid = runs.run_uuid)
from runs where experiment_id = ? and lifecycle_stage = 'active' and status = ?
"""
OF_JOBS = """
  and run_uuid in (
    select run_uuid from tags where key = 'job_id' and value in (select value from json_each(?))
    union select run_uuid from tags where key = 'mlflow.parentRunId' and value = ?)
"""
METRICS = "select run_uuid, key, value, is_nan from latest_metrics where run_uuid in (select value from json_each(?))"
MODEL = """
select logged_models.model_id from logged_models join logged_model_tags using (model_id)
where logged_models.experiment_id = ? and lifecycle_stage = 'active' and tag_key = ? and tag_value = ?
order by creation_timestamp_ms desc limit 1
"""
AT_ONCE = 500  # runs
HAS_JSON = sqlite3.sqlite_version_info >= (3, 38)


@dataclass
class StoredRun:
    """A run as the tables have it."""

    run_id: str
    artifacts: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)


def opened(file: Path) -> closing[sqlite3.Connection]:
    """Open a database to read it."""
    return closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=10))


def experiments(database: sqlite3.Connection, name: str) -> list[tuple[str, str]]:
    """Return the id and the stage of the experiment of this name, if there is one."""
    return database.execute("select experiment_id, lifecycle_stage from experiments where name = ?", [name]).fetchall()


def tags_of_runs(
    database: sqlite3.Connection, experiment_id: str, job_id: str | None
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield id, status and the tags that the ledger needs, of all runs or those of one job, the newest first."""
    runs: dict[str, tuple[str, dict[str, str]]] = {}
    query, values = RUNS + (OF_JOB if job_id else "") + NEWEST, [experiment_id, *([job_id] if job_id else [])]
    for run_id, status, key, value in database.execute(query, values):
        runs.setdefault(run_id, (status, {}))[1][key] = value
    yield from ((run_id, status, tags) for run_id, (status, tags) in runs.items())


def model_with_tag(file: Path, experiment_id: str, key: str, value: str) -> str | None:
    """Return the id of the newest logged model with a tag; None if there is none."""
    with opened(file) as database:
        found = database.execute(MODEL, [experiment_id, key, value]).fetchone()
    return None if found is None else str(found[0])


def whole_runs(
    file: Path, experiment_id: str, status: str, job_ids: Collection[str] | None = None, parent: str = ""
) -> Iterator[StoredRun]:
    """Yield the runs with a status, the newest first: all, or those of some jobs and those below a parent run."""
    query, values = WHOLE_RUNS, [experiment_id, status]
    if job_ids is not None:
        query, values = query + OF_JOBS, [*values, json.dumps([*job_ids]), parent]
    with opened(file) as database:
        found = database.execute(f"{query} order by start_time desc, run_uuid", values)
        while rows := found.fetchmany(AT_ONCE):
            runs = {
                run_id: StoredRun(run_id, artifacts or "", json.loads(params), json.loads(tags))
                for run_id, artifacts, params, tags in rows
            }
            for run_id, key, value, is_nan in database.execute(METRICS, [json.dumps([*runs])]):
                runs[run_id].metrics[key] = float("nan") if is_nan else value
            yield from runs.values()
