"""Manages the parent runs of a grid in MLflow, one in each store to which jobs are logged."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.grid import parent_notes
from runner.grid.grid_output import build_job_labels
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import PlannedJob, PlanState
from runner.records import grid_records
from runner.tracking import grid_runs, job_runs, published_index
from runner.tracking.sink import was_logged_to
from runner.tracking.stored_runs import RUNNING, StoredRuns, read_stored_runs
from runner.tracking.stores import Store, create_store_from_config
from runner_base import Status, TrackingError, redact_secrets

log = logging.getLogger(__name__)


@dataclass
class ParentRuns:
    """Starts and ends a grid's parent runs in MLflow, and finds finished jobs that are not
    logged.
    """

    plan: list[PlannedJob]
    overrides: list[str]
    outcomes: dict[int, JobOutcome]
    study: str = ""  # the name of the file with the grid, if there is one
    _stores: dict[Store, list[PlannedJob]] = field(default_factory=dict)
    _runs: list[grid_runs.GridRun] = field(default_factory=list)
    _record: grid_records.GridRecord | None = None  # None: the grid has nothing to do

    @property
    def grid_id(self) -> str:
        """Hash of the sorted job ids. Grids with the same jobs have the same id."""
        names = sorted(planned.job_id or " ".join(planned.overrides) for planned in self.plan)
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]

    def mark_jobs_missing_in_mlflow(self) -> None:
        """Query each MLflow store once, and mark the finished jobs that are missing in the store."""
        stores: dict[Store, list[PlannedJob]] = {}
        for planned in self.plan:
            if planned.config is None or planned.state is PlanState.impossible:
                continue
            if (store := create_store_from_config(planned.config)) is not None:
                stores.setdefault(store, []).append(planned)
        for store, jobs in stores.items():
            done = [
                planned for planned in jobs if planned.state is PlanState.done and planned.same_as is None
            ]
            all_done = all(planned.state is PlanState.done for planned in self.plan)
            if (
                all_done
                and store.sqlite_file is not None
                and published_index.find_current_published_entry(store, self.grid_id)
            ):
                continue
            try:
                stored = read_stored_runs(store, {job.job_id for job in jobs}, self.grid_id)
            except TrackingError as error:
                if len(done) == len(jobs) and all(
                    was_logged_to(store, job.record) for job in done if job.record
                ):
                    log.warning("%s. The jobs' results are already logged there", str(error).rstrip("."))
                    continue
                raise
            grid_runs.end_abandoned_runs(store, stored)
            parent = next((run for run, _ in stored.grids.get(self.grid_id, [])), None)
            for planned in done:
                is_below = parent is not None and stored.find_run(planned.job_id, parent)
                planned.unlogged |= not (is_below or stored.find_run_without_existing_parent(planned.job_id))
            if not self._is_grid_completely_logged(stored, jobs):
                self._stores[store] = jobs
            elif all_done and parent is not None:
                job_runs.cache_run_id(store, self.grid_id, parent)

    def _is_grid_completely_logged(self, stored_runs: StoredRuns, jobs: list[PlannedJob]) -> bool:
        """Return whether a store contains this grid with all its jobs and its final status."""
        for run, status in stored_runs.grids.get(self.grid_id, [])[:1]:
            all_below = all(
                stored_runs.find_run(job.job_id, run) for job in jobs if job.state is PlanState.done
            )
            to_do = any(job.state in (PlanState.todo, PlanState.resume) for job in jobs)
            return all_below and not to_do and status == self._grid_status(interrupted=False)
        return False

    def start_parent_runs(self) -> None:
        """Start the parent runs, set their ids as the parents of the jobs, and write the grid's record."""
        for store, jobs in self._stores.items():
            done = [
                planned.job_id
                for planned in jobs
                if planned.state is PlanState.done and planned.same_as is None
            ]
            name = grid_runs.GridName(
                self.grid_id,
                parent_notes.format_grid_title(self.plan, self.study),
                parent_notes.build_grid_params(self.plan, self.study),
            )
            run = grid_runs.start_grid_run(store, name, self._start_tags, self._convert_plan_to_json(), done)
            self._runs.append(run)
            for planned in jobs:
                assert planned.config is not None
                planned.config.tracking.parent_run_id = run.run_id
        self._write_initial_grid_record()

    def _write_initial_grid_record(self) -> None:
        """Write the grid's record, unless all jobs are done and the record already exists."""
        to_do = any(job.state in (PlanState.todo, PlanState.resume) for job in self.plan)
        if not (to_do or self._runs) and grid_records.has_grid_record(self._output_dir, self.grid_id):
            return
        self._record = grid_records.GridRecord(
            self.grid_id,
            parent_notes.format_grid_title(self.plan, self.study),
            time.time_ns() // 1_000_000,
            RUNNING,
            **self._convert_plan_to_json(),
            params=parent_notes.build_grid_params(self.plan, self.study),
            tags=self._start_tags,
            runs=[run.run_id for run in self._runs],
        )
        grid_records.write_grid_record(self._output_dir, self._record)

    @cached_property
    def _start_tags(self) -> dict[str, str]:
        return grid_runs.build_grid_start_tags(self.overrides)

    @property
    def _output_dir(self) -> Path:
        config = next(planned.config for planned in self.plan if planned.config is not None)
        return Path(config.output_dir).expanduser().absolute()

    def finish_runs(self, interrupted: bool) -> bool:
        """End the parent runs with the grid's status. Returns whether all stores were updated."""
        status = self._grid_status(interrupted)
        if self._record is not None:
            self._log_grid_results(status)
            grid_records.write_grid_record(self._output_dir, self._record)
        ended = [grid_runs.finish_grid_run(run, status, self._convert_plan_to_json()) for run in self._runs]
        return all(ended)

    def _log_grid_results(self, status: Status) -> None:
        """Log and record the best jobs and the verdict.

        If an MLflow store fails, the error is reported at the end of the grid.
        """
        assert self._record is not None
        said = parent_notes.build_parent_run_content(
            self.plan, self.outcomes, self._redacted_overrides, status is Status.FINISHED
        )
        self._record.status = status.value
        self._record.jobs = self._convert_plan_to_json()["jobs"]
        self._record.metrics, self._record.notes = said.metrics, said.tags
        self._record.description, self._record.first_metric = said.note, said.first_metric
        for run in self._runs:
            try:
                grid_runs.log_grid_results(run, said.metrics, said.tags, said.note, said.first_metric)
            except TrackingError as error:
                log.debug("%s", error)

    @property
    def _redacted_overrides(self) -> list[str]:
        return [redact_secrets(override) for override in self.overrides]

    def _grid_status(self, interrupted: bool) -> Status:
        finished = all(self._get_job_status(number) is Status.FINISHED for number in range(len(self.plan)))
        return Status.FINISHED if finished else Status.KILLED if interrupted else Status.FAILED

    def _get_job_status(self, number: int) -> Status | None:
        same_as = self.plan[number].same_as
        number = number if same_as is None else same_as
        outcome = self.outcomes.get(number)
        if outcome is not None:
            return outcome.status
        return Status.FINISHED if self.plan[number].state is PlanState.done else None

    @cached_property
    def _split_configs(self) -> tuple[dict[str, str], list[dict[str, str]]]:
        return grid_records.separate_common_config_keys([planned.config for planned in self.plan])

    def _convert_plan_to_json(self) -> dict[str, Any]:
        """Return the plan as JSON data. Values shared by all jobs are stored once."""
        outcomes = map(self.outcomes.get, range(len(self.plan)))
        common, own = self._split_configs
        names = build_job_labels(self.plan)
        jobs = [
            {
                "job_id": planned.job_id or None,
                "name": redact_secrets(name),
                "overrides": [redact_secrets(override) for override in planned.overrides],
                "config": None if planned.config is None else keys,
                "planned": planned.state.value,
                "status": outcome.status.value if outcome else None,
                "problem": redact_secrets(planned.problem or (outcome.message if outcome else "")),
            }
            for planned, name, keys, outcome in zip(self.plan, names, own, outcomes, strict=True)
        ]
        return {"jobs": jobs, "config": common}
