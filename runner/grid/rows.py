"""`runner.grid(...)`: a grid from Python, planned, done and recorded as `runner -m` does, and its table as data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from runner.compat.variable_overrides import variables_as_overrides
from runner.config.hydra import adapt_plugins, hydra_of
from runner.core.errors import ConfigError
from runner.grid.other_launchers import run_launched
from runner.grid.plan import Outcome, PlannedJob
from runner.grid.show import table_lines
from runner.grid.sweeper import Grid, GridSweeper
from runner.library.jobs import Overrides, as_a_command, words


def rows(*overrides: Overrides, study: str | Path | None = None) -> list[dict[str, Any]]:
    """Do every job of a grid and return one dictionary a job: what differs, how it ended, its metrics.

    `pandas.DataFrame(rows)` takes them. A job that fails is a row with its error. `study` is a study's YAML file.
    """
    with as_a_command():
        sweeper, arguments = sweeper_of(words(overrides), study)
        grid = sweeper.plan(arguments)
        if grid.settings.plan:
            return [row | {"status": it.state.value} for row, it in zip(_rows(grid), grid.plan, strict=True)]
        if sweeper.do(grid):
            raise KeyboardInterrupt
        return _rows(grid)


def sweeper_of(arguments: list[str], study: str | Path | None) -> tuple[GridSweeper, list[str]]:
    """Return the sweeper that Hydra would call, and what it would be called with."""
    Plugins.instance()
    adapt_plugins()
    name, folder = ("config", None) if study is None else (Path(study).stem, str(Path(study).parent))
    hydra = hydra_of(folder)
    wanted = [*variables_as_overrides(arguments, name, folder), *arguments, "hydra.mode=MULTIRUN"]
    master = hydra.compose_config(name, wanted, RunMode.MULTIRUN, with_log_configuration=False)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(master))
    sweeper = Plugins.instance().instantiate_sweeper(config=master, hydra_context=context, task_function=_task)
    if not isinstance(sweeper, GridSweeper):
        raise ConfigError("hydra/sweeper: runner.grid() does grids. For a search: runner -m hydra/sweeper=optuna ...")
    asked: Any = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    return sweeper, asked


def _task(composed: DictConfig) -> Outcome:
    """Do one job in the process of another launcher."""
    return run_launched(composed, HydraConfig.get())


def _rows(grid: Grid) -> list[dict[str, Any]]:
    found = []
    lines = table_lines(grid.plan, grid.outcomes)
    for number, (line, planned) in enumerate(zip(lines, grid.plan, strict=True)):
        outcome = grid.outcomes.get(number if planned.same_as is None else planned.same_as)
        error = outcome.message if outcome else planned.problem
        names = {key: _value(planned, key, text) for key, text in line.names.items()}
        row = {"job_id": line.job_id, **names, "status": line.status, "error": error or None}
        found.append(row | (line.record.result.metrics if line.record else {}))
    return found


def _value(planned: PlannedJob, key: str, text: str) -> Any:
    """Return what a job has for a key, as the number that it is; a group's choice stays a name."""
    value: Any = planned.config
    for part in key.split("."):
        value = getattr(value, part, None)
    is_plain = isinstance(value, str | int | float)
    return (value.value if isinstance(value, Enum) else value) if is_plain else text
