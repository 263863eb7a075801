"""Base classes of launchers that receive a grid's whole plan, and the launcher with local worker processes.

hydra/launcher=joblib, submitit_… and others receive lists of overrides; other_launchers.py
handles them.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from runner.config.root import RunnerConfig
from runner.grid.grid_output import build_job_labels
from runner.grid.live_view import GridView
from runner.grid.outcomes import JobOutcome, extract_objective
from runner.grid.plan import PlannedJob, PlanState, plan_jobs
from runner.grid.trials import Trials
from runner.grid.worker_limits import compute_worker_limits
from runner.grid.worker_process import Worker, start_worker_process
from runner.grid.workers import WorkerPool
from runner_base import ConfigError, JobFailed, Status, visible_gpus

NO_PLAN = "plan=true needs hydra/sweeper=grid, because other sweepers choose jobs while they run"


class LaunchingSweeper(Sweeper):
    """Base class of Hydra sweepers that work with any Hydra launcher."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.master, self.context = config, hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )


class PlanLauncher(Launcher):
    """Base class of Hydra launchers that run a whole plan of jobs.

    The jobs of other sweepers are planned before they start.
    """

    def __init__(self) -> None:
        self.trials = Trials()  # for another sweeper

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.master, self.context = config, hydra_context

    def start_importing(self, plan: list[PlannedJob], numbers: list[int]) -> None:
        """Optionally start a process that imports the libraries of these jobs, while the grid prepares them."""

    def stop_importing(self) -> None:
        """End that process if no job has used it."""

    @abstractmethod
    def run_jobs(
        self, settings: RunnerConfig, plan: list[PlannedJob], numbers: list[int], **shared: Any
    ) -> bool:
        """Run the given jobs of a plan. Returns True if the user stopped them."""

    def run_plan(
        self,
        plan: list[PlannedJob],
        job_numbers: list[int],
        outcomes: dict[int, JobOutcome],
        trials: Trials | None = None,
    ) -> bool:
        """Run the given jobs of a plan with a progress display. Returns True if the user stopped them."""
        known = frozenset(number for number in job_numbers if plan[number].state is PlanState.done)
        settings = plan[job_numbers[0]].config
        assert settings is not None
        shared = {"outcomes": outcomes, "job_timeout_s": settings.job_timeout_s}
        with (
            GridView(build_job_labels(plan), len(job_numbers), known, numbers=job_numbers)
            if trials is None
            else trials.create_trial_progress_view() as view
        ):
            return self.run_jobs(settings, plan, job_numbers, view=view, **shared)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        plan = plan_jobs(job_overrides, self.context, self.master)
        for planned in plan:
            if planned.error is not None:
                raise planned.error
            if planned.config is not None and planned.config.plan:
                raise ConfigError(NO_PLAN, code="conflict")
        # the sweeper writes its own files there
        Path(self.master.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        trials = self.trials
        numbers = list(range(len(trials.plan), len(trials.plan) + len(plan)))
        for planned in plan:
            planned.unnamed = trials.unnamed
        trials.plan += plan
        if self.run_plan(trials.plan, numbers, trials.outcomes, trials):
            raise KeyboardInterrupt
        returns = []
        for number, planned in zip(numbers, plan, strict=True):
            outcome = trials.outcomes[number]
            job_return = JobReturn(overrides=planned.overrides, status=JobStatus.COMPLETED)
            if outcome.status is Status.FINISHED and outcome.record is not None:
                job_return.return_value = extract_objective(outcome.record)[1]
            else:
                job_return.status, job_return.return_value = (
                    JobStatus.FAILED,
                    JobFailed(outcome.message, code="failed"),
                )
            returns.append(job_return)
        return returns


class WorkerLauncher(PlanLauncher):
    """Launcher that runs jobs in local worker processes. A worker keeps its loaded model for the
    next job.
    """

    def __init__(self, fresh: bool = False) -> None:
        super().__init__()
        self.fresh = fresh
        self._idle_worker: Worker | None = None

    def start_importing(self, plan: list[PlannedJob], numbers: list[int]) -> None:
        """Start the first worker. Importing MLflow and torch takes as long as opening MLflow here."""
        unfinished = (plan[number] for number in numbers if plan[number].state is not PlanState.done)
        config = next((planned.config for planned in unfinished if planned.config is not None), None)
        if config is None or self.fresh or visible_gpus.find_visible_gpus():
            return
        self._idle_worker = start_worker_process(_get_log_folder(config), 0)
        self._idle_worker.connection.send(config)

    def stop_importing(self) -> None:
        if (idle := self._idle_worker) is not None:
            self._idle_worker = None
            idle.kill()
            idle.process.wait()
            idle.connection.close()

    def run_jobs(
        self, settings: RunnerConfig, plan: list[PlannedJob], numbers: list[int], **shared: Any
    ) -> bool:
        idle_worker, self._idle_worker = self._idle_worker, None
        return WorkerPool(
            plan=plan,
            numbers=numbers,
            limits=compute_worker_limits(plan, numbers, settings.workers),
            log_folder=_get_log_folder(settings),
            fresh=self.fresh,
            gpus=visible_gpus.find_visible_gpus(),
            idle_worker=idle_worker,
            **shared,
        ).run()


def _get_log_folder(settings: RunnerConfig) -> Path:
    return Path(settings.output_dir).expanduser().absolute() / "workers" / str(os.getpid())
