"""Hydra's launcher for worker processes: it decides how many there are and shows how the jobs go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.config.hydra import to_config
from runner.core import machine
from runner.core.errors import ConfigError, JobFailed
from runner.core.result import Status
from runner.grid.compose import Composer
from runner.grid.outcome import Outcome, objective
from runner.grid.plan import Planned, plan_job, refuse_stdin
from runner.grid.sizing import how_many
from runner.grid.table import labels
from runner.grid.view import View
from runner.grid.workers import WorkerPool


class WorkerLauncher(Launcher):
    """Runs jobs in worker processes that keep a loaded base from job to job."""

    def __init__(self, fresh: bool = False) -> None:
        self.fresh = fresh

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over."""
        self.master, self.context = config, hydra_context

    def run_plan(self, plan: list[Planned], numbers: list[int]) -> tuple[dict[int, Outcome], bool]:
        """Do these jobs of a plan; return how they ended and whether the user stopped them."""
        settings = plan[numbers[0]].config
        assert settings is not None
        names = labels(plan)
        with View(plan, len(numbers), names.__getitem__) as view:
            pool = WorkerPool(
                plan=plan,
                numbers=numbers,
                workers_wanted=how_many(plan, numbers, settings.workers),
                log_folder=Path(settings.output_dir).expanduser().absolute() / "workers" / str(os.getpid()),
                events=view,
                job_timeout_s=settings.job_timeout_s,
                fresh=self.fresh,
                gpus=len(machine.gpu_models()),
            )
            return pool.run(), pool.interrupted

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs for another package's sweeper, such as Optuna's, which gets one number per job."""
        composer = Composer(self.context.config_loader, self.master)
        plan = []
        for overrides in job_overrides:
            composed, _ = without_hydra(composer.compose(list(overrides)))
            config = to_config(composed)
            refuse_stdin(config)
            plan.append(plan_job(list(overrides), config, OmegaConf.to_yaml(composed)))
        for planned in plan:
            if planned.problem:
                raise ConfigError(planned.problem)
            if planned.config is not None and planned.config.plan:
                raise ConfigError("plan=true: only hydra/sweeper=grid knows its jobs beforehand")
        Path(self.master.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # the sweeper leaves its own files there
        outcomes, interrupted = self.run_plan(plan, list(range(len(plan))))
        if interrupted:
            raise KeyboardInterrupt
        returns = []
        for number, planned in enumerate(plan):
            outcome = outcomes[number]
            done = JobReturn(overrides=planned.overrides, status=JobStatus.COMPLETED)
            if outcome.status is Status.FINISHED and outcome.record is not None:
                done.return_value = objective(outcome.record)
            else:
                done.status = JobStatus.FAILED
                done.return_value = JobFailed(outcome.message)
            returns.append(done)
        return returns


def without_hydra(composed: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Return a job's config as the runner knows it, and the choice of each group, which only Hydra's half holds."""
    choices = {str(group): str(choice) for group, choice in composed.hydra.runtime.choices.items()}
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    return composed, choices
