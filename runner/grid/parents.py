"""The parent runs of a grid's jobs in MLflow: one in each store that the jobs are logged to."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.grid import parent_notes
from runner.grid.outcomes import Outcome
from runner.grid.plan import PlannedJob, State
from runner.grid.show import labels
from runner.records import grid_records
from runner.tracking import grid_runs, job_runs, published
from runner.tracking.sink import was_logged
from runner.tracking.stored_runs import RUNNING, StoredRuns, read_runs
from runner.tracking.stores import Store, store_of
from runner_base import Status, TrackingError, without_secrets

log = logging.getLogger(__name__)


@dataclass
class ParentRuns:
    """Reads what the stores have of a grid, and starts and ends its runs there."""

    plan: list[PlannedJob]
    overrides: list[str]
    outcomes: dict[int, Outcome]
    study: str = ""  # the name of the file with the grid, if there is one
    _stores: dict[Store, list[PlannedJob]] = field(default_factory=dict)
    _runs: list[grid_runs.GridRun] = field(default_factory=list)
    _record: grid_records.GridRecord | None = None  # None: the grid has nothing to do

    @property
    def grid(self) -> str:
        """The name of the grid, which follows from its jobs: the same jobs are the same grid."""
        names = sorted(planned.job_id or " ".join(planned.overrides) for planned in self.plan)
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]

    def find_unlogged(self) -> None:
        """Read each store once; mark the done jobs that have neither a run below this grid nor a
        run without a grid."""
        stores: dict[Store, list[PlannedJob]] = {}
        for planned in self.plan:
            if planned.config is None or planned.state is State.impossible:
                continue
            if (store := store_of(planned.config)) is not None:
                stores.setdefault(store, []).append(planned)
        for store, jobs in stores.items():
            done = [planned for planned in jobs if planned.state is State.done and planned.same_as is None]
            all_done = all(planned.state is State.done for planned in self.plan)
            if all_done and store.file is not None and published.unchanged(store, self.grid):
                continue
            try:
                stored = read_runs(store, {job.job_id for job in jobs}, self.grid)
            except TrackingError as error:
                if len(done) == len(jobs) and all(
                    was_logged(store, job.record) for job in done if job.record
                ):
                    log.warning(
                        "%s. The results were logged there when the jobs were done", str(error).rstrip(".")
                    )
                    continue
                raise
            grid_runs.end_abandoned(store, stored)
            parent = next((run for run, _ in stored.grids.get(self.grid, [])), None)
            for planned in done:
                is_below = parent is not None and stored.run_of(planned.job_id, parent)
                planned.unlogged |= not (is_below or stored.orphan_of(planned.job_id))
            if not self._is_up_to_date(stored, jobs):
                self._stores[store] = jobs
            elif all_done and parent is not None:
                job_runs.note_found(store, self.grid, parent)

    def _is_up_to_date(self, stored: StoredRuns, jobs: list[PlannedJob]) -> bool:
        """Return whether a store shows this grid as it is, with nothing to do."""
        for run, status in stored.grids.get(self.grid, [])[:1]:
            all_below = all(stored.run_of(job.job_id, run) for job in jobs if job.state is State.done)
            to_do = any(job.state in (State.todo, State.resume) for job in jobs)
            return all_below and not to_do and status == self._status(interrupted=False)
        return False

    def start(self) -> None:
        """Start the runs, give each job the id of its parent run, and write the grid's record."""
        for store, jobs in self._stores.items():
            done = [
                planned.job_id for planned in jobs if planned.state is State.done and planned.same_as is None
            ]
            name = grid_runs.GridName(
                self.grid,
                parent_notes.title(self.plan, self.study),
                parent_notes.params(self.plan, self.study),
            )
            run = grid_runs.start(store, name, self._start_tags, self._plan_as_data(), done)
            self._runs.append(run)
            for planned in jobs:
                assert planned.config is not None
                planned.config.tracking.parent_run_id = run.run_id
        self._start_record()

    def _start_record(self) -> None:
        """Write the grid's record, unless all its jobs are done and recorded."""
        to_do = any(job.state in (State.todo, State.resume) for job in self.plan)
        if not (to_do or self._runs) and grid_records.exists(self._output_dir, self.grid):
            return
        self._record = grid_records.GridRecord(
            self.grid,
            parent_notes.title(self.plan, self.study),
            time.time_ns() // 1_000_000,
            RUNNING,
            **self._plan_as_data(),
            params=parent_notes.params(self.plan, self.study),
            tags=self._start_tags,
            runs=[run.run_id for run in self._runs],
        )
        grid_records.write(self._output_dir, self._record)

    @cached_property
    def _start_tags(self) -> dict[str, str]:
        return grid_runs.describe_start(self.overrides)

    @property
    def _output_dir(self) -> Path:
        config = next(planned.config for planned in self.plan if planned.config is not None)
        return Path(config.output_dir).expanduser().absolute()

    def finish(self, interrupted: bool) -> bool:
        """End the runs with the grid's status; return whether all stores could be written."""
        status = self._status(interrupted)
        if self._record is not None:
            self._log_notes(status)
            grid_records.write(self._output_dir, self._record)
        ended = [grid_runs.finish(run, status, self._plan_as_data()) for run in self._runs]
        return all(ended)

    def _log_notes(self, status: Status) -> None:
        """Log and record the best jobs and the verdict; a store that fails here fails at the end of
        the grid, too."""
        assert self._record is not None
        said = parent_notes.notes(self.plan, self.outcomes, self._shown_overrides, status is Status.FINISHED)
        self._record.status = status.value
        self._record.jobs = self._plan_as_data()["jobs"]
        self._record.metrics, self._record.notes = said.metrics, said.tags
        self._record.description, self._record.first_metric = said.note, said.first_metric
        for run in self._runs:
            try:
                grid_runs.log_notes(run, said.metrics, said.tags, said.note, said.first_metric)
            except TrackingError as error:
                log.debug("%s", error)

    @property
    def _shown_overrides(self) -> list[str]:
        return [without_secrets(override) for override in self.overrides]

    def _status(self, interrupted: bool) -> Status:
        finished = all(self._status_of(number) is Status.FINISHED for number in range(len(self.plan)))
        return Status.FINISHED if finished else Status.KILLED if interrupted else Status.FAILED

    def _status_of(self, number: int) -> Status | None:
        same_as = self.plan[number].same_as
        number = number if same_as is None else same_as
        outcome = self.outcomes.get(number)
        if outcome is not None:
            return outcome.status
        return Status.FINISHED if self.plan[number].state is State.done else None

    @cached_property
    def _configs(self) -> tuple[dict[str, str], list[dict[str, str]]]:
        return grid_records.split_configs([planned.config for planned in self.plan])

    def _plan_as_data(self) -> dict[str, Any]:
        """Return the plan as plain data: the keys in which all jobs agree, and of each job its id,
        name, overrides, other keys, planned state, status and problem."""
        outcomes = map(self.outcomes.get, range(len(self.plan)))
        common, own = self._configs
        names = labels(self.plan)
        jobs = [
            {
                "job_id": planned.job_id or None,
                "name": without_secrets(name),
                "overrides": [without_secrets(override) for override in planned.overrides],
                "config": None if planned.config is None else keys,
                "planned": planned.state.value,
                "status": outcome.status.value if outcome else None,
                "problem": without_secrets(planned.problem or (outcome.message if outcome else "")),
            }
            for planned, name, keys, outcome in zip(self.plan, names, own, outcomes, strict=True)
        ]
        return {"jobs": jobs, "config": common}
