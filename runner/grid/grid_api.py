"""Python function `runner.grid(...)`: plans, runs and records a grid, and returns its table as data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config.hydra_versions import allow_hydra_to_instantiate_classes
from runner.config.runner_hydra import create_hydra
from runner.config.variables import read_variable_overrides
from runner.grid.grid_output import build_grid_table_rows
from runner.grid.other_launchers import run_launched_job
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import PlannedJob
from runner.grid.sweeper import Grid, GridSweeper
from runner.library.jobs import Overrides, command_environment, convert_to_command_line_overrides
from runner.library.notebook_view import GridRows
from runner_base import ConfigError


def run_grid(*overrides: Overrides, study: str | Path | None = None) -> GridRows:
    """Run every job of a grid. Returns one dictionary per job with the varied keys, status and metrics.

    A notebook shows them as a picture and a table; `to_df()` and `pandas.DataFrame(rows)` make a
    data frame. A job that fails is a table row with its error. `study` is a study's YAML file.
    """
    with command_environment():
        sweeper, arguments = create_grid_sweeper(convert_to_command_line_overrides(overrides), study)
        grid = sweeper.plan_grid(arguments)
        if grid.settings.plan:
            plan = _build_result_table(grid)
            return GridRows(
                (row | {"status": planned.state.value} for row, planned in zip(plan, grid.plan, strict=True)),
                plan.keys,
                plan.output_dir,
            )
        if sweeper.run_unfinished_jobs(grid):
            raise KeyboardInterrupt
        return _build_result_table(grid)


def create_grid_sweeper(arguments: list[str], study_file: str | Path | None) -> tuple[GridSweeper, list[str]]:
    """Return the sweeper and overrides that Hydra would create for this command line."""
    name, folder = (
        ("config", None) if study_file is None else (Path(study_file).stem, str(Path(study_file).parent))
    )
    hydra = create_hydra(folder)
    all_overrides = [*read_variable_overrides(arguments, name, folder), *arguments, "hydra.mode=MULTIRUN"]
    master = hydra.compose_config(name, all_overrides, RunMode.MULTIRUN, with_log_configuration=False)
    with allow_hydra_to_instantiate_classes():
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(master))
    sweeper = Plugins.instance().instantiate_sweeper(
        config=master, hydra_context=context, task_function=_run_composed_job
    )
    if not isinstance(sweeper, GridSweeper):
        raise ConfigError(
            "runner.grid() cannot run searches. Use the command: runner -m hydra/sweeper=optuna ...",
            key="hydra/sweeper",
            code="unsupported",
        )
    task_overrides: Any = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    return sweeper, task_overrides


def _run_composed_job(composed: DictConfig) -> JobOutcome:
    return run_launched_job(composed, HydraConfig.get())


def _build_result_table(grid: Grid) -> GridRows:
    rows: list[dict[str, Any]] = []
    lines = build_grid_table_rows(grid.plan, grid.outcomes)
    for number, (line, planned) in enumerate(zip(lines, grid.plan, strict=True)):
        outcome = grid.outcomes.get(number if planned.same_as is None else planned.same_as)
        error = outcome.message if outcome else planned.problem
        names = {key: _get_typed_config_value(planned, key, text) for key, text in line.names.items()}
        row = {"job_id": line.job_id, **names, "status": line.status, "error": error or None}
        rows.append(row | (line.record.result.metrics if line.record else {}))
    return GridRows(
        rows, [*dict.fromkeys(key for line in lines for key in line.names)], grid.settings.output_dir
    )


def _get_typed_config_value(planned: PlannedJob, key: str, text: str) -> Any:
    """Return a key's value in a job's config. For a config group, return the group's choice."""
    value: Any = planned.config
    for part in key.split("."):
        value = getattr(value, part, None)
    is_plain = isinstance(value, str | int | float)
    return (value.value if isinstance(value, Enum) else value) if is_plain else text
