"""`runner.grid(...)`: a grid from Python, planned, run and recorded as by `runner -m`, with its
table as data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config.hydra_versions import named_classes
from runner.config.runner_hydra import hydra_of
from runner.config.variables import variables_as_overrides
from runner.grid.other_launchers import run_launched
from runner.grid.outcomes import Outcome
from runner.grid.plan import PlannedJob
from runner.grid.show import table_lines
from runner.grid.sweeper import Grid, GridSweeper
from runner.library.jobs import Overrides, as_a_command, command_words
from runner.library.shown import GridRows
from runner_base import ConfigError


def rows(*overrides: Overrides, study: str | Path | None = None) -> GridRows:
    """Run every job of a grid and return one dictionary per job: what differs, how it ended, its
    metrics.

    A notebook shows them as a picture and a table; `to_df()` and `pandas.DataFrame(rows)` make a
    data frame. A job that fails is a row with its error. `study` is a study's YAML file.
    """
    with as_a_command():
        sweeper, arguments = sweeper_of(command_words(overrides), study)
        grid = sweeper.plan(arguments)
        if grid.settings.plan:
            plan = _as_rows(grid)
            return GridRows(
                (row | {"status": planned.state.value} for row, planned in zip(plan, grid.plan, strict=True)),
                plan.keys,
                plan.output_dir,
            )
        if sweeper.do(grid):
            raise KeyboardInterrupt
        return _as_rows(grid)


def sweeper_of(arguments: list[str], study: str | Path | None) -> tuple[GridSweeper, list[str]]:
    """Return the sweeper that Hydra would call, and the overrides that Hydra would pass to it."""
    name, folder = ("config", None) if study is None else (Path(study).stem, str(Path(study).parent))
    hydra = hydra_of(folder)
    all_overrides = [*variables_as_overrides(arguments, name, folder), *arguments, "hydra.mode=MULTIRUN"]
    master = hydra.compose_config(name, all_overrides, RunMode.MULTIRUN, with_log_configuration=False)
    with named_classes():
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(master))
    sweeper = Plugins.instance().instantiate_sweeper(
        config=master, hydra_context=context, task_function=_task
    )
    if not isinstance(sweeper, GridSweeper):
        raise ConfigError(
            "runner.grid() does grids. For a search: runner -m hydra/sweeper=optuna ...",
            key="hydra/sweeper",
            code="unsupported",
        )
    task_overrides: Any = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    return sweeper, task_overrides


def _task(composed: DictConfig) -> Outcome:
    """Run one job in the process of another launcher."""
    return run_launched(composed, HydraConfig.get())


def _as_rows(grid: Grid) -> GridRows:
    rows: list[dict[str, Any]] = []
    lines = table_lines(grid.plan, grid.outcomes)
    for number, (line, planned) in enumerate(zip(lines, grid.plan, strict=True)):
        outcome = grid.outcomes.get(number if planned.same_as is None else planned.same_as)
        error = outcome.message if outcome else planned.problem
        names = {key: _value(planned, key, text) for key, text in line.names.items()}
        row = {"job_id": line.job_id, **names, "status": line.status, "error": error or None}
        rows.append(row | (line.record.result.metrics if line.record else {}))
    return GridRows(
        rows, [*dict.fromkeys(key for line in lines for key in line.names)], grid.settings.output_dir
    )


def _value(planned: PlannedJob, key: str, text: str) -> Any:
    """Return the value that a job's config has for a key; for a group, the name of its choice."""
    value: Any = planned.config
    for part in key.split("."):
        value = getattr(value, part, None)
    is_plain = isinstance(value, str | int | float)
    return (value.value if isinstance(value, Enum) else value) if is_plain else text
