"""The MLflow runs that stand above a grid's jobs: one in each store that its jobs are logged to."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any

from runner.core.errors import TrackingError
from runner.core.result import Status
from runner.core.uris import without_secrets
from runner.grid.plan import Outcome, PlannedJob, State
from runner.store import grid_runs, ledger
from runner.store.look import StoredRuns, look
from runner.store.mlflow_store import Store, store_of

log = logging.getLogger(__name__)


@dataclass
class Parents:
    """Asks the stores what they have of a grid, and begins and ends its runs there."""

    plan: list[PlannedJob]
    overrides: list[str]
    outcomes: dict[int, Outcome]
    _stores: dict[Store, list[PlannedJob]] = field(default_factory=dict)
    _runs: list[grid_runs.GridRun] = field(default_factory=list)

    @property
    def grid(self) -> str:
        """The name of the grid: the same jobs are the same grid."""
        names = sorted(planned.job_id or " ".join(planned.overrides) for planned in self.plan)
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]

    def look(self) -> None:
        """Ask each store once; a done job that has no run below this grid, and no free one, is to be logged."""
        stores: dict[Store, list[PlannedJob]] = {}
        for planned in self.plan:
            if planned.config is None or planned.state is State.impossible:
                continue
            if (store := store_of(planned.config)) is not None:
                stores.setdefault(store, []).append(planned)
        for store, jobs in stores.items():
            done = [planned for planned in jobs if planned.state is State.done and planned.same_as is None]
            try:
                held = look(store)
            except TrackingError as error:
                if len(done) == len(jobs) and all(ledger.stood_there(store, it.record) for it in done if it.record):
                    log.warning("%s. The results were logged there when the jobs were done", str(error).rstrip("."))
                    continue
                raise
            grid_runs.end_left(store, held)
            parent = next((run for run, _ in held.grids.get(self.grid, [])), None)
            for planned in done:
                there = parent is not None and held.run_of(planned.job_id, parent)
                planned.unlogged |= not (there or held.orphan_of(planned.job_id))
            if not self._is_settled(held, jobs):
                self._stores[store] = jobs

    def _is_settled(self, held: StoredRuns, jobs: list[PlannedJob]) -> bool:
        """Whether a store shows this grid as it is, with nothing to do."""
        for run, status in held.grids.get(self.grid, [])[:1]:
            below = all(held.run_of(it.job_id, run) for it in jobs if it.state is State.done)
            to_do = any(it.state in (State.todo, State.resume) for it in jobs)
            return below and not to_do and status == self._status(interrupted=False)
        return False

    def start(self) -> None:
        """Open the runs, and tell each job below which one it stands."""
        for store, jobs in self._stores.items():
            done = [planned.job_id for planned in jobs if planned.state is State.done and planned.same_as is None]
            run = grid_runs.start(store, self.grid, self.overrides, self._described(), done)
            self._runs.append(run)
            for planned in jobs:
                assert planned.config is not None
                planned.config.tracking.parent_run_id = run.run_id

    def finish(self, interrupted: bool) -> bool:
        """End the runs with the status that is true; return whether all stores have it so."""
        ended = [grid_runs.finish(run, self._status(interrupted), self._described()) for run in self._runs]
        return all(ended)

    def _status(self, interrupted: bool) -> Status:
        finished = all(self._ended(number) is Status.FINISHED for number in range(len(self.plan)))
        return Status.FINISHED if finished else Status.KILLED if interrupted else Status.FAILED

    def _ended(self, number: int) -> Status | None:
        same_as = self.plan[number].same_as
        number = number if same_as is None else same_as
        outcome = self.outcomes.get(number)
        if outcome is not None:
            return outcome.status
        return Status.FINISHED if self.plan[number].state is State.done else None

    def _described(self) -> list[dict[str, Any]]:
        """Return the plan as plain data: every job with its id, what differs, and how it stands."""
        outcomes = map(self.outcomes.get, range(len(self.plan)))
        return [
            {
                "job_id": planned.job_id or None,
                "overrides": [without_secrets(override) for override in planned.overrides],
                "planned": planned.state.value,
                "status": outcome.status.value if outcome else None,
                "problem": without_secrets(planned.problem or (outcome.message if outcome else "")),
            }
            for planned, outcome in zip(self.plan, outcomes, strict=True)
        ]
