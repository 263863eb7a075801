"""Hydra sweeper for grids: expands overrides, plans every job, runs unfinished jobs, and prints a
table.

Hydra's own sweeper composes each job twice, stops at the first failure and shows no table. This
plugin and `WorkerLauncher` are this project's defaults; `hydra/sweeper=optuna` and
`hydra/launcher=joblib|ray|…` replace them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runner.config.compose import Composer
from runner.config.hydra import split_job_config_and_choices
from runner.config.root import PrintMode, RunnerConfig
from runner.grid import model_list
from runner.grid.dependencies import add_dependency_jobs
from runner.grid.expand import ValueGetter, check_exclude_keys, expand_grid, is_excluded_by_rules
from runner.grid.gguf_grids import reject_quantization_sweep_of_gguf
from runner.grid.grid_gate import check_gate_settings, exit_with_gate_verdict_afterwards
from runner.grid.grid_output import (
    build_grid_table_rows,
    build_job_labels,
    format_job_counts_by_state,
    print_failures,
    print_next_step_hints,
    print_plan,
)
from runner.grid.launchers import LaunchingSweeper, PlanLauncher
from runner.grid.other_launchers import OtherLauncherRun, reject_settings_unsupported_by_launcher
from runner.grid.outcomes import JobOutcome
from runner.grid.parent_runs import ParentRuns
from runner.grid.plan import PlannedJob, PlanState, divide_error_rate, mark_duplicate_jobs, plan_composed_job
from runner.grid.server_results import download_server_results, mark_jobs_done_on_server
from runner.render import grid_lines, progress_messages
from runner.render.notes import format_note, render_notes
from runner.report import is_stderr_same_file_as_stdout, print_grid_results
from runner.tracking import grid_runs
from runner.tracking.stores import make_relative_to_cwd
from runner_base import (
    ConfigError,
    JobFailed,
    Progress,
    Status,
    TrackingError,
    escape_control_characters,
    print_message,
    report_step,
    signals,
)
from runner_base.errors import check_output_folder
from runner_base.notes import note
from runner_engine.checkpoints import share_model_files_between_jobs


@dataclass
class Grid:
    """A planned grid, and the outcomes of its jobs."""

    plan: list[PlannedJob]
    overrides: list[str]  # as the user gave them
    outcomes: dict[int, JobOutcome] = field(default_factory=dict)
    is_logged: bool = True  # MLflow shows it as ended, unless tracking=none
    began: float = field(default_factory=time.monotonic)

    @property
    def settings(self) -> RunnerConfig:
        """Config of the first valid job, whose settings (such as the output folder) apply to the whole
        grid.
        """
        config = next((planned.config for planned in self.plan if planned.config is not None), None)
        if config is None:  # no job of the grid can work
            assert self.plan[0].error is not None
            raise self.plan[0].error
        return config

    def unique(self) -> list[int]:
        return [number for number, planned in enumerate(self.plan) if planned.same_as is None]

    def jobs_to_run(self) -> list[int]:
        """Return the numbers of the jobs that have not finished yet, without duplicates."""
        return [
            number
            for number, planned in enumerate(self.plan)
            if planned.same_as is None
            and (planned.state in (PlanState.todo, PlanState.resume) or planned.unlogged)
        ]


class GridSweeper(LaunchingSweeper):
    """Hydra sweeper that continues after a job fails, and that can resume an interrupted grid."""

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
        """Plan the grid and, unless plan=true, run it."""
        grid = self.plan_grid(arguments)
        settings = grid.settings
        check_gate_settings(grid.plan)
        # once, not for each job
        check_output_folder("output_dir", settings.output_dir, needs_write=not settings.plan)
        if grid.settings.plan:
            mark_jobs_done_on_server(grid.plan)
            print_plan(grid.plan)
            reject_impossible_jobs(grid.plan)
            return
        interrupted = self.run_unfinished_jobs(grid)
        with exit_with_gate_verdict_afterwards(grid.plan, grid.outcomes):
            report_grid_results_and_failures(grid, interrupted)

    def run_unfinished_jobs(self, grid: Grid) -> bool:
        """Run the unfinished jobs of a planned grid. Returns True if the user stopped the grid."""
        with report_step(progress_messages.FINDING_KNOWN_JOBS):
            download_server_results(grid.plan)
        print_message(format_job_counts_by_state(grid.plan))
        for planned, label in zip(grid.plan, build_job_labels(grid.plan), strict=True):
            if planned.made_for:
                print_message(
                    f"note: {label}: {format_note(note('added_for_others', jobs=planned.made_for))}"
                )
        grid_runs.end_runs_of_dead_grids(Path(grid.settings.output_dir).expanduser().absolute())
        parents = ParentRuns(grid.plan, grid.overrides, grid.outcomes, self.study_name)
        launcher = self.launcher if isinstance(self.launcher, PlanLauncher) else None
        try:
            if launcher is not None:
                launcher.start_importing(grid.plan, grid.jobs_to_run())
            with report_step(progress_messages.READING_GRID_RUNS):
                parents.mark_jobs_missing_in_mlflow()
            try:
                return self.launch_jobs(grid, parents)
            except KeyboardInterrupt:  # it came after the last job
                signals.mark_interrupt_handled()
                return True
        finally:
            if launcher is not None:
                launcher.stop_importing()

    @property
    def study_name(self) -> str:
        name = Path(str(self.master.hydra.job.config_name)).stem
        return "" if name == "config" else name

    def plan_grid(self, arguments: list[str]) -> Grid:
        """Compose and identify every job, so that invalid jobs are known before the grid starts."""
        if self.files == "":
            raise ConfigError("this study compares the models in a folder. Add files=FOLDER", code="missing")
        loader = self.context.config_loader
        lists = self.combine_overrides_with_each_model(
            expand_grid(arguments, self.params, self.zip, loader, self.cases)
        )
        composer = Composer(loader, self.master.hydra.job.config_name, self.master)
        grid = Grid([], arguments)
        values: list[ValueGetter] = []
        left_out: dict[
            str, list[str]
        ] = {}  # override -> the choices, in the order of the grid, that have no such key
        seen: set[tuple[str, ...]] = set()
        with share_model_files_between_jobs(), Progress(len(lists), "planning", "jobs") as bar:
            for overrides in lists:
                composed, lacking = composer.compose_config_without_missing_keys(overrides)
                composed, choices = split_job_config_and_choices(composed)
                bar.advance()
                values.append(partial(_get_config_value, composed, choices))
                if is_excluded_by_rules(self.exclude, values[-1]):
                    continue
                for line in lacking:
                    if self.files is not None and model_list.is_reference_override(line):
                        continue  # only likelihoods have a reference
                    group = line.partition(".")[0]
                    left_out.setdefault(line, []).append(f"{group}={choices.get(group)}")
                used = [line for line in overrides if line not in lacking]
                if (
                    not lacking or tuple(used) not in seen
                ):  # a sweep over a key that a job lacks adds the job once
                    grid.plan.append(plan_composed_job(used, composed, choices))
                seen.add(tuple(used))
            divide_error_rate(grid.plan)
            grid.plan = add_dependency_jobs(grid.plan, composer)
        for planned in grid.plan if self.files is not None else ():
            planned.unnamed = model_list.find_keys_constant_across_jobs(lists)
        check_exclude_keys(self.exclude, values, sorted(_list_known_keys(self.master)))
        if not grid.plan:
            raise ConfigError(
                f"hydra.sweeper.exclude removes all {len(lists)} jobs of this grid", code="empty"
            )
        reject_quantization_sweep_of_gguf(grid.plan)
        _report_omitted_override_keys(left_out, grid.plan, composer)
        mark_duplicate_jobs(grid.plan)
        return grid

    def combine_overrides_with_each_model(self, job_overrides: list[list[str]]) -> list[list[str]]:
        """Combine each job's overrides with each model in `files=`, and print notes on the
        models.
        """
        if self.files is None:
            if self.reference is not None:
                raise ConfigError(
                    f"reference={self.reference} has no effect without files=FOLDER. Add files=FOLDER",
                    code="missing",
                )
            return job_overrides
        models, left_out = model_list.find_models(self.files)
        reference = model_list.choose_reference_model(models, self.reference)
        given = {line.partition("=")[0].lstrip("+~") for overrides in job_overrides for line in overrides}
        of_models = model_list.build_model_overrides(models, reference, given)
        for line in render_notes(
            model_list.make_notes_on_listed_models(self.files, models, left_out, reference)
        ):
            print_message(line)
        return [[*of_model, *overrides] for of_model in of_models for overrides in job_overrides]

    def launch_jobs(self, grid: Grid, parent_runs: ParentRuns) -> bool:
        """Launch the jobs as child runs of their MLflow parent runs. Returns True if the user stopped
        the grid.
        """
        name = str(self.master.hydra.runtime.choices["hydra/launcher"])
        if not isinstance(self.launcher, PlanLauncher):
            reject_settings_unsupported_by_launcher(name, grid.settings)
        numbers, interrupted = grid.jobs_to_run(), False
        with signals.defer_signals():  # a signal takes effect when the grid's runs in MLflow have ended, too
            with report_step(progress_messages.STARTING_GRID_RUN):
                parent_runs.start_parent_runs()
            try:
                with signals.interruptible_block():
                    if numbers and isinstance(self.launcher, PlanLauncher):
                        interrupted = self.launcher.run_plan(grid.plan, numbers, grid.outcomes)
                    elif numbers:
                        with report_step(f"running {len(numbers)} jobs by hydra/launcher={name}"):
                            interrupted = OtherLauncherRun(self.launcher, name, grid.plan, grid.outcomes).run(
                                numbers
                            )
            except KeyboardInterrupt:
                interrupted = True
            finally:
                with report_step(progress_messages.ENDING_GRID_RUN):
                    grid.is_logged = parent_runs.finish_runs(interrupted)
        return interrupted


def report_grid_results_and_failures(grid: Grid, interrupted: bool) -> None:
    """Print the final table and all failures. If jobs failed, raise an error with their exit
    code.
    """
    settings = grid.settings
    lines = build_grid_table_rows(grid.plan, grid.outcomes, interrupted)
    # the reader has seen a line for each job
    has_lines = is_stderr_same_file_as_stdout() and all(number in grid.outcomes for number in grid.unique())
    print_grid_results(lines, settings.print, has_table=not has_lines or settings.print is PrintMode.full)
    problems = print_failures(grid.plan, grid.outcomes)
    for planned in grid.plan:
        if (
            planned.job is not None
            and settings.rerun
            and (folders := planned.job.list_replaced_result_folders())
        ):
            print_message(f"job {planned.job_id} ran again. Its earlier results are in {folders[-1]}")
    if settings.print.is_table:
        folder = str(make_relative_to_cwd(Path(settings.output_dir).expanduser() / "jobs"))
        statuses = [line.status for line in lines]
        print(
            escape_control_characters(
                grid_lines.format_grid_summary_line(statuses, time.monotonic() - grid.began, folder)
            )
        )
    print_next_step_hints(settings, [line.names for line in lines])
    unlogged = sum(
        bool(outcome.message) and outcome.status is Status.FINISHED for outcome in grid.outcomes.values()
    )
    not_logged = format_note(note("not_logged", results=unlogged))
    if unlogged and (interrupted or problems):
        print_message(not_logged)
    if interrupted:
        raise KeyboardInterrupt
    if problems:
        codes = [outcome.exit_code for outcome in grid.outcomes.values()]
        codes += [planned.exit_code for planned in grid.plan]
        raise _make_unfinished_jobs_error(problems, len(grid.plan), max(codes))
    if unlogged or not grid.is_logged:
        raise TrackingError(
            not_logged
            if unlogged
            else "the grid is done, but its status in MLflow is RUNNING. Repeat the command to update it",
            code="failed",
        )


def _make_unfinished_jobs_error(num_unfinished: int, num_jobs: int, exit_code: int) -> JobFailed:
    failed = JobFailed(f"{num_unfinished} of {num_jobs} jobs did not finish. See errors above", code="failed")
    failed.exit_code = exit_code
    return failed


def reject_impossible_jobs(plan: list[PlannedJob]) -> None:
    impossible = sum(planned.state is PlanState.impossible for planned in plan)
    if impossible:
        some = "none" if impossible == len(plan) else f"{impossible}"
        can = "can" if impossible == len(plan) else "cannot"
        raise ConfigError(f"{some} of these {len(plan)} jobs {can} run. See errors above", code="bad_value")


def _report_omitted_override_keys(
    missing_keys: dict[str, list[str]], plan: list[PlannedJob], composer: Composer
) -> None:
    used_keys = {line.partition("=")[0] for planned in plan for line in planned.overrides}
    choices_without: dict[str, list[str]] = {}
    for line, choices in missing_keys.items():
        choices_without.setdefault(line.partition("=")[0], []).extend(choices)
    keys_without: dict[str, list[str]] = {}
    for key, choices in choices_without.items():
        if key not in used_keys:
            raise next(errors[key] for errors in composer.missing_keys.values() if key in errors)
        keys_without.setdefault(", ".join(dict.fromkeys(choices)), []).append(key)
    for without, keys in keys_without.items():
        print_message(f"note: {format_note(note('keys_left_out', keys=keys, choices=without))}")


_ABSENT = object()


def _get_config_value(composed: DictConfig, choices: dict[str, str], key: str) -> str | None:
    """Return a config key's value, or a group's choice, as text. None if the job has no such key."""
    if key in choices:
        return choices[key]
    value: object = OmegaConf.select(composed, key, default=_ABSENT)
    if value is _ABSENT:
        return None
    return "null" if value is None else str(value)


def _list_known_keys(config: DictConfig) -> set[str]:
    keys = {str(key) for key in config.hydra.runtime.choices if not str(key).startswith("hydra")}
    for group in map(str, config):
        if group != "hydra":
            node = config[group]
            keys |= {f"{group}.{key!s}" for key in node} if isinstance(node, DictConfig) else {group}
    return keys
