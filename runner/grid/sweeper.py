"""The grid: expand the overrides, plan every job, run what is not done, show all jobs, exit with
the right code.

Hydra's own sweeper composes each job twice, stops at the first failure and shows no table. This
plugin and `WorkerLauncher` are this project's defaults; `hydra/sweeper=optuna` and
`hydra/launcher=joblib|ray|…` replace them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runner.config.compose import Composer
from runner.config.hydra import without_hydra
from runner.config.root import RunnerConfig
from runner.grid import model_list
from runner.grid.expand import Values, check_exclude, excluded, expand
from runner.grid.gguf_grids import refuse_other_quantizations
from runner.grid.known_jobs import fetch_known, mark_known
from runner.grid.launchers import LaunchingSweeper, PlanLauncher
from runner.grid.named import with_named
from runner.grid.other_launchers import ForeignLaunch, check_settings
from runner.grid.outcomes import Outcome
from runner.grid.parents import ParentRuns
from runner.grid.plan import PlannedJob, State, mark_duplicates, plan_composed, share_error
from runner.grid.show import labels, show_failures, show_hints, show_plan, summary, table_lines
from runner.render import starts
from runner.render.notes import note_text, render_notes
from runner.report import show_grid
from runner.tracking import grid_runs
from runner_base import ConfigError, JobFailed, Progress, Status, TrackingError, doing, say, signals
from runner_base.errors import check_output_folder
from runner_base.notes import note
from runner_engine.checkpoints import sharing


@dataclass
class Grid:
    """A planned grid, and how its jobs ended."""

    plan: list[PlannedJob]
    overrides: list[str]  # as the user gave them
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    is_logged: bool = True  # MLflow shows it as ended, unless tracking=none

    @property
    def settings(self) -> RunnerConfig:
        """The config whose settings apply to the whole grid: output folder, tracking, print,
        workers."""
        config = next((planned.config for planned in self.plan if planned.config is not None), None)
        if config is None:  # no job of the grid can work
            assert self.plan[0].error is not None
            raise self.plan[0].error
        return config

    def to_do(self) -> list[int]:
        """Return the numbers of the jobs that have to run, without duplicates."""
        return [
            number
            for number, planned in enumerate(self.plan)
            if planned.same_as is None and (planned.state in (State.todo, State.resume) or planned.unlogged)
        ]


class GridSweeper(LaunchingSweeper):
    """Hydra's sweeper for grids in which a failed job ends no other, and which can be resumed."""

    def __init__(
        self,
        params: dict[str, str] | None = None,
        zip: list[dict[str, str]] | None = None,
        cases: list[dict[str, str]] | None = None,
        exclude: list[dict[str, str]] | None = None,
        files: str | None = None,
        reference: str | None = None,
    ) -> None:
        self.params, self.zip, self.cases, self.exclude = (
            params or {},
            zip or [],
            cases or [],
            exclude or [],
        )
        self.files, self.reference = files, reference

    def sweep(self, arguments: list[str]) -> None:
        """Plan the grid, and run it unless only the plan is wanted."""
        grid = self.plan(arguments)
        settings = grid.settings
        # once, not for each job
        check_output_folder("output_dir", settings.output_dir, is_written=not settings.plan)
        if grid.settings.plan:
            mark_known(grid.plan)
            show_plan(grid.plan)
            refuse_impossible(grid.plan)
            return
        finish(grid, self.do(grid))

    def do(self, grid: Grid) -> bool:
        """Run the jobs of a planned grid that are not done; return whether the user stopped it."""
        with doing(starts.FINDING_KNOWN_JOBS):
            fetch_known(grid.plan)
        say(summary(grid.plan))
        for planned, label in zip(grid.plan, labels(grid.plan), strict=True):
            if planned.made_for:
                say(f"note: {label}: {note_text(note('added_for_others', jobs=planned.made_for))}")
        grid_runs.end_dead(Path(grid.settings.output_dir).expanduser().absolute())
        parents = ParentRuns(grid.plan, grid.overrides, grid.outcomes, self.study)
        with doing(starts.READING_GRID_RUNS):
            parents.find_unlogged()
        try:
            return self.run(grid, parents)
        except KeyboardInterrupt:  # it came after the last job
            signals.answer()
            return True

    @property
    def study(self) -> str:
        """The name of the study's file; empty where the grid comes from the command line alone."""
        name = Path(str(self.master.hydra.job.config_name)).stem
        return "" if name == "config" else name

    def plan(self, arguments: list[str]) -> Grid:
        """Compose and identify every job; jobs that cannot work are known before anything runs."""
        if self.files == "":
            raise ConfigError("this study compares the models in a folder: give files=FOLDER", code="missing")
        loader = self.context.config_loader
        lists = self.over_files(expand(arguments, self.params, self.zip, loader, self.cases))
        composer = Composer(loader, self.master.hydra.job.config_name, self.master)
        grid = Grid([], arguments)
        values: list[Values] = []
        left_out: dict[
            str, list[str]
        ] = {}  # override -> the choices, in the order of the grid, that have no such key
        seen: set[tuple[str, ...]] = set()
        with sharing(), Progress(len(lists), "planning") as bar:
            for overrides in lists:
                composed, lacking = composer.compose_without_missing_keys(overrides)
                composed, choices = without_hydra(composed)
                bar.advance()
                values.append(partial(_value_of, composed, choices))
                if excluded(self.exclude, values[-1]):
                    continue
                for line in lacking:
                    if self.files is not None and model_list.is_filled_in(line):
                        continue  # only likelihoods have a reference
                    group = line.partition(".")[0]
                    left_out.setdefault(line, []).append(f"{group}={choices.get(group)}")
                used = [line for line in overrides if line not in lacking]
                if (
                    not lacking or tuple(used) not in seen
                ):  # a sweep over a key that a job lacks adds the job once
                    grid.plan.append(plan_composed(used, composed, choices))
                seen.add(tuple(used))
            share_error(grid.plan)
            grid.plan = with_named(grid.plan, composer)
        for planned in grid.plan if self.files is not None else ():
            planned.unnamed = model_list.keys_of_one_value(lists)
        check_exclude(self.exclude, values, sorted(_known_keys(self.master)))
        if not grid.plan:
            raise ConfigError(
                f"hydra.sweeper.exclude leaves none of the {len(lists)} jobs of this grid", code="empty"
            )
        refuse_other_quantizations(grid.plan)
        _report_left_out(left_out, grid.plan, composer)
        mark_duplicates(grid.plan)
        return grid

    def over_files(self, lists: list[list[str]]) -> list[list[str]]:
        """Return the jobs of each model that `files=` names, and say what was found."""
        if self.files is None:
            if self.reference is not None:
                raise ConfigError(
                    f"reference={self.reference} is one of the models of files=FOLDER: give that, too",
                    code="missing",
                )
            return lists
        models, left_out = model_list.listed(self.files)
        reference = model_list.reference_among(models, self.reference)
        given = {line.partition("=")[0].lstrip("+~") for overrides in lists for line in overrides}
        of_models = model_list.jobs_of(models, reference, given)
        for line in render_notes(model_list.found_models(self.files, models, left_out, reference)):
            say(line)
        return [[*of_model, *overrides] for of_model in of_models for overrides in lists]

    def run(self, grid: Grid, parents: ParentRuns) -> bool:
        """Launch the jobs below their parent runs in MLflow; return whether the user stopped the
        grid."""
        name = str(self.master.hydra.runtime.choices["hydra/launcher"])
        if not isinstance(self.launcher, PlanLauncher):
            check_settings(name, grid.settings)
        numbers, interrupted = grid.to_do(), False
        with signals.deferred():  # a signal takes effect when the grid's runs in MLflow have ended, too
            with doing(starts.STARTING_GRID_RUN):
                parents.start()
            try:
                with signals.interruptible():
                    if numbers and isinstance(self.launcher, PlanLauncher):
                        interrupted = self.launcher.run_plan(grid.plan, numbers, grid.outcomes)
                    elif numbers:
                        with doing(f"running {len(numbers)} jobs by hydra/launcher={name}"):
                            interrupted = ForeignLaunch(self.launcher, name, grid.plan, grid.outcomes).run(
                                numbers
                            )
            except KeyboardInterrupt:
                interrupted = True
            finally:
                with doing(starts.ENDING_GRID_RUN):
                    grid.is_logged = parents.finish(interrupted)
        return interrupted


def finish(grid: Grid, interrupted: bool) -> None:
    """Show all jobs and the failures; raise the error whose exit code fits."""
    settings = grid.settings
    show_grid(table_lines(grid.plan, grid.outcomes, interrupted), settings.print)
    problems = show_failures(grid.plan, grid.outcomes)
    for planned in grid.plan:
        if planned.job is not None and settings.rerun and (folders := planned.job.set_aside_folders()):
            say(f"earlier results of {planned.job_id}, set aside by rerun=..., are kept in {folders[-1]}")
    show_hints(settings)
    unlogged = sum(
        bool(outcome.message) and outcome.status is Status.FINISHED for outcome in grid.outcomes.values()
    )
    not_logged = note_text(note("not_logged", results=unlogged))
    if unlogged and (interrupted or problems):
        say(not_logged)
    if interrupted:
        raise KeyboardInterrupt
    if problems:
        codes = [outcome.exit_code for outcome in grid.outcomes.values()]
        codes += [planned.exit_code for planned in grid.plan]
        raise not_finished(problems, len(grid.plan), max(codes))
    if unlogged or not grid.is_logged:
        raise TrackingError(
            not_logged
            if unlogged
            else "the grid is done, but MLflow shows it as RUNNING: run the same command to end it there",
            code="failed",
        )


def not_finished(problems: int, jobs: int, exit_code: int) -> JobFailed:
    failed = JobFailed(f"{problems} of {jobs} jobs are not finished, see above", code="failed")
    failed.exit_code = exit_code
    return failed


def refuse_impossible(plan: list[PlannedJob]) -> None:
    """Raise an error if a job of a plan cannot work, as the plan of that job alone does."""
    impossible = sum(planned.state is State.impossible for planned in plan)
    if impossible:
        some = "none" if impossible == len(plan) else f"{impossible}"
        can = "can" if impossible == len(plan) else "cannot"
        raise ConfigError(f"{some} of these {len(plan)} jobs {can} work, see above", code="bad_value")


def _report_left_out(left_out: dict[str, list[str]], plan: list[PlannedJob], composer: Composer) -> None:
    """Say which jobs lack a key that other jobs have; raise Hydra's error for a key that no job
    has."""
    used_keys = {line.partition("=")[0] for planned in plan for line in planned.overrides}
    choices_without: dict[str, list[str]] = {}
    for line, choices in left_out.items():
        choices_without.setdefault(line.partition("=")[0], []).extend(choices)
    keys_without: dict[str, list[str]] = {}
    for key, choices in choices_without.items():
        if key not in used_keys:
            raise next(errors[key] for errors in composer.missing_keys.values() if key in errors)
        keys_without.setdefault(", ".join(dict.fromkeys(choices)), []).append(key)
    for without, keys in keys_without.items():
        say(f"note: {note_text(note('keys_left_out', keys=keys, choices=without))}")


_ABSENT = object()


def _value_of(composed: DictConfig, choices: dict[str, str], key: str) -> str | None:
    """Return a job's value for a key as text, for a group its choice; None where the job has no
    such key."""
    if key in choices:
        return choices[key]
    value: object = OmegaConf.select(composed, key, default=_ABSENT)
    if value is _ABSENT:
        return None
    return "null" if value is None else str(value)


def _known_keys(config: DictConfig) -> set[str]:
    keys = {str(key) for key in config.hydra.runtime.choices if not str(key).startswith("hydra")}
    for group in map(str, config):
        if group != "hydra":
            node = config[group]
            keys |= {f"{group}.{key!s}" for key in node} if isinstance(node, DictConfig) else {group}
    return keys
