"""The grid: expand the overrides, plan every job, run what is not done, show all, exit with the truth.

Hydra's own sweeper composes each job twice, stops at the first failure and shows no table. The two plugins here are
Hydra's defaults; `hydra/sweeper=optuna` and `hydra/launcher=joblib|submitit_local|ray|…` still take their place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from runner.checkpoints.resolve import sharing
from runner.config.compose import Composer
from runner.config.hydra import to_config, without_hydra
from runner.config.root import RunnerConfig
from runner.core import machine, signals
from runner.core.console import say
from runner.core.errors import ConfigError, JobFailed, RunnerError, TrackingError, check_output_folder
from runner.core.progress import Progress
from runner.core.result import Status
from runner.grid.expand import Values, check_exclude, excluded, expand
from runner.grid.other_launchers import ForeignLaunch, check_settings
from runner.grid.parents import Parents
from runner.grid.plan import Outcome, PlannedJob, State, how_many, mark_twins, objective, plan_job
from runner.grid.search import Trials
from runner.grid.show import GridView, labels, show_failures, show_hints, show_plan, summary, table_lines
from runner.grid.workers import WorkerPool
from runner.report import show_grid
from runner.store import grid_runs


class WorkerLauncher(Launcher):
    """Runs jobs in worker processes that keep a loaded base from job to job."""

    def __init__(self, fresh: bool = False) -> None:
        self.fresh = fresh
        self.trials = Trials()  # where another package's sweeper launches them

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over."""
        self.master, self.context = config, hydra_context

    def run_plan(
        self, plan: list[PlannedJob], numbers: list[int], outcomes: dict[int, Outcome], trials: Trials | None = None
    ) -> bool:
        """Do these jobs of a plan, and fill in how they ended; return whether the user stopped them."""
        settings = plan[numbers[0]].config
        assert settings is not None
        with GridView(labels(plan), len(numbers)) if trials is None else trials.view() as view:
            return WorkerPool(
                plan=plan,
                numbers=numbers,
                workers_wanted=how_many(plan, numbers, settings.workers),
                log_folder=Path(settings.output_dir).expanduser().absolute() / "workers" / str(os.getpid()),
                view=view,
                job_timeout_s=settings.job_timeout_s,
                fresh=self.fresh,
                gpus=len(machine.gpu_models()),
                outcomes=outcomes,
            ).run()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs for another package's sweeper, such as Optuna's, which gets one number per job."""
        composer = Composer(self.context.config_loader, self.master.hydra.job.config_name, self.master)
        plan = [plan_composed(one, *without_hydra(composer.compose(one))) for one in map(list, job_overrides)]
        for planned in plan:
            if planned.problem:
                raise ConfigError(planned.problem)
            if planned.config is not None and planned.config.plan:
                raise ConfigError("plan=true: only hydra/sweeper=grid knows its jobs beforehand")
        Path(self.master.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # the sweeper leaves its own files there
        trials = self.trials
        numbers = list(range(len(trials.plan), len(trials.plan) + len(plan)))
        trials.plan += plan
        if self.run_plan(trials.plan, numbers, trials.outcomes, trials):
            raise KeyboardInterrupt
        returns = []
        for number, planned in zip(numbers, plan, strict=True):
            outcome = trials.outcomes[number]
            done = JobReturn(overrides=planned.overrides, status=JobStatus.COMPLETED)
            if outcome.status is Status.FINISHED and outcome.record is not None:
                done.return_value = objective(outcome.record)[1]
            else:
                done.status, done.return_value = JobStatus.FAILED, JobFailed(outcome.message)
            returns.append(done)
        return returns


@dataclass
class Grid:
    """A planned grid, and how its jobs ended."""

    plan: list[PlannedJob]
    overrides: list[str]  # as the user gave them
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    is_logged: bool = True  # MLflow has it as ended, where it is tracked

    @property
    def settings(self) -> RunnerConfig:
        """The config that speaks for the whole grid: output folder, tracking, print, workers."""
        config = next((planned.config for planned in self.plan if planned.config is not None), None)
        if config is None:  # not one job of the grid can work
            raise ConfigError(self.plan[0].problem)
        return config

    def to_do(self) -> list[int]:
        """Return the jobs that have to run, each once."""
        return [
            number
            for number, planned in enumerate(self.plan)
            if planned.same_as is None and (planned.state in (State.todo, State.resume) or planned.unlogged)
        ]


class GridSweeper(Sweeper):
    """Hydra's sweeper for grids that survive."""

    def __init__(
        self,
        params: dict[str, str] | None = None,
        zip: list[dict[str, str]] | None = None,
        exclude: list[dict[str, str]] | None = None,
    ) -> None:
        self.params, self.zip, self.exclude = params or {}, zip or [], exclude or []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over."""
        self.master, self.context = config, hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Do the grid."""
        grid = self.plan(arguments)
        settings = grid.settings
        check_output_folder("output_dir", settings.output_dir, is_written=not settings.plan)  # once, not for each job
        if grid.settings.plan:
            show_plan(grid.plan)
            if all(planned.state is State.impossible for planned in grid.plan):
                raise ConfigError(f"none of these {len(grid.plan)} jobs can work, see above")
            return
        finish(grid, self.do(grid))

    def do(self, grid: Grid) -> bool:
        """Do what is not done of a planned grid; return whether the user stopped it."""
        say(summary(grid.plan))
        grid_runs.end_dead(Path(grid.settings.output_dir).expanduser().absolute())
        parents = Parents(grid.plan, grid.overrides, grid.outcomes)
        parents.look()
        try:
            return self.run(grid, parents)
        except KeyboardInterrupt:  # it came when all was done
            return True

    def plan(self, arguments: list[str]) -> Grid:
        """Compose and identify every job; what cannot work is known before anything runs."""
        loader = self.context.config_loader
        lists = expand(arguments, self.params, self.zip, loader)
        composer = Composer(loader, self.master.hydra.job.config_name, self.master)
        grid = Grid([], arguments)
        values: list[Values] = []
        left_out: dict[str, list[str]] = {}  # override -> the choices, in the order of the grid, that have no such key
        seen: set[tuple[str, ...]] = set()
        with sharing(), Progress(len(lists), "planning") as bar:
            for overrides in lists:
                composed, left = composer.compose_without_lacking(overrides)
                composed, choices = without_hydra(composed)
                bar.advance()
                values.append(partial(_value_of, composed, choices))
                if excluded(self.exclude, values[-1]):
                    continue
                for line in left:
                    group = line.partition(".")[0]
                    left_out.setdefault(line, []).append(f"{group}={choices.get(group)}")
                taken = [line for line in overrides if line not in left]
                if not left or tuple(taken) not in seen:  # a sweep over a key that a job lacks asks for it once
                    grid.plan.append(plan_composed(taken, composed, choices))
                seen.add(tuple(taken))
        check_exclude(self.exclude, values, sorted(_known_keys(self.master)))
        if not grid.plan:
            raise ConfigError(f"hydra.sweeper.exclude leaves none of the {len(lists)} jobs of this grid")
        _say_left_out(left_out, grid.plan, composer)
        mark_twins(grid.plan)
        return grid

    def run(self, grid: Grid, parents: Parents) -> bool:
        """Hand the jobs to the launcher below their MLflow runs; returns whether the user stopped it."""
        name = str(self.master.hydra.runtime.choices["hydra/launcher"])
        if not isinstance(self.launcher, WorkerLauncher):
            check_settings(name, grid.settings)
        numbers, interrupted = grid.to_do(), False
        with signals.held():  # whoever stops the grid waits until its runs have ended, too
            parents.start()
            try:
                with signals.heard():
                    if numbers and isinstance(self.launcher, WorkerLauncher):
                        interrupted = self.launcher.run_plan(grid.plan, numbers, grid.outcomes)
                    elif numbers:
                        elsewhere = ForeignLaunch(self.launcher, name, grid.plan, grid.outcomes)
                        elsewhere.run(numbers)
                        interrupted = elsewhere.interrupted
            except KeyboardInterrupt:
                interrupted = True
            finally:
                grid.is_logged = parents.finish(interrupted)
        return interrupted


def finish(grid: Grid, interrupted: bool) -> None:
    """Show all jobs and the failures, and leave with the exit code that fits."""
    settings = grid.settings
    show_grid(table_lines(grid.plan, grid.outcomes, interrupted), settings.print)
    problems = show_failures(grid.plan, grid.outcomes)
    for planned in grid.plan:
        if planned.job is not None and settings.rerun and (aside := planned.job.aside()):
            say(f"what {planned.job_id} had before rerun=... is kept in {aside[-1]}")
    show_hints(settings)
    unlogged = sum(bool(outcome.message) and outcome.status is Status.FINISHED for outcome in grid.outcomes.values())
    not_logged = f"{unlogged} results are on disk but not in MLflow yet: runner-sync logs them, or the same command"
    if unlogged and (interrupted or problems):
        say(not_logged)
    if interrupted:
        raise KeyboardInterrupt
    if problems:
        failed = JobFailed(f"{problems} of {len(grid.plan)} jobs are not finished, see above")
        codes = [outcome.exit_code for outcome in grid.outcomes.values()]
        failed.exit_code = max(codes + [planned.exit_code for planned in grid.plan])
        raise failed
    if unlogged or not grid.is_logged:
        raise TrackingError(
            not_logged if unlogged else "the grid is done, but MLflow shows it as RUNNING: start it again"
        )


def plan_composed(overrides: list[str], composed: DictConfig, choices: Mapping[str, str]) -> PlannedJob:
    """Plan a job of a grid from its composed config."""
    try:
        config = to_config(composed, choices)
    except RunnerError as error:
        return PlannedJob(overrides, problem=str(error), exit_code=error.exit_code)
    if config.task.reads_stdin:
        file = "give a file (task.prompts=FILE), or " if hasattr(config.task, "prompts") else ""
        problem = (
            f"task={config.task.name} reads stdin here, which the jobs of a grid do not have: {file}run it without -m"
        )
        return PlannedJob(overrides, problem=problem, exit_code=ConfigError.exit_code)
    if config.task.is_endless:
        problem = (
            f"task={config.task.name} goes on until it is stopped, so it cannot be a job of a grid: start it alone"
        )
        return PlannedJob(overrides, problem=problem, exit_code=ConfigError.exit_code)
    planned = plan_job(overrides, config)
    planned.composed = composed
    return planned


def _say_left_out(left_out: dict[str, list[str]], plan: list[PlannedJob], composer: Composer) -> None:
    """Say which jobs go without a key that other jobs have; raise what Hydra says of a key that no job has."""
    had = {line.partition("=")[0] for planned in plan for line in planned.overrides}
    of_key: dict[str, list[str]] = {}
    for line, choices in left_out.items():
        of_key.setdefault(line.partition("=")[0], []).extend(choices)
    for key, choices in of_key.items():
        if key not in had:
            raise next(errors[key] for errors in composer.lacking.values() if key in errors)
        say(f"note: {key} is passed to the jobs that have it, and left out with {', '.join(dict.fromkeys(choices))}")


_ABSENT = object()


def _value_of(composed: DictConfig, choices: dict[str, str], key: str) -> str | None:
    """Return what a job has for a key, a group's choice or a value as text; None where it has no such key."""
    if key in choices:
        return choices[key]
    found: object = OmegaConf.select(composed, key, default=_ABSENT)
    if found is _ABSENT:
        return None
    return "null" if found is None else str(found)


def _known_keys(config: DictConfig) -> set[str]:
    keys = {str(key) for key in config.hydra.runtime.choices if not str(key).startswith("hydra")}
    for group in map(str, config):
        if group != "hydra":
            node = config[group]
            keys |= {f"{group}.{key!s}" for key in node} if isinstance(node, DictConfig) else {group}
    return keys
