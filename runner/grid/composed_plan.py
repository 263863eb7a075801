"""Plans jobs from their composed configs, and shares one error of 5 % among those that are compared while they run.

A job that decides while it runs cannot wait for the others, as Holm's adjustment of a table does: it knows its share
at the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from runner.config.compose import Composer
from runner.config.hydra import to_config, without_hydra
from runner.core.errors import ConfigError, RunnerError
from runner.grid.plan import PlannedJob, plan_job


def plan_all(lists: Sequence[Sequence[str]], context: HydraContext, master: DictConfig) -> list[PlannedJob]:
    """Compose and plan the job of each list of overrides."""
    composer = Composer(context.config_loader, master.hydra.job.config_name, master)
    return [plan_composed(one, *without_hydra(composer.compose(one))) for one in map(list, lists)]


def plan_composed(overrides: list[str], composed: DictConfig, choices: Mapping[str, str]) -> PlannedJob:
    """Plan a job of a grid from its composed config."""
    try:
        config = to_config(composed, choices)
    except RunnerError as error:
        return PlannedJob(overrides, problem=str(error), exit_code=error.exit_code)
    if config.task.reads_stdin:
        file = "give a file (task.prompts=FILE), or " if hasattr(config.task, "prompts") else ""
        problem = (
            f"task={config.task.name} would read stdin, which the jobs of a grid do not have: {file}run it without -m"
        )
        return PlannedJob(overrides, problem=problem, exit_code=ConfigError.exit_code)
    if config.task.is_endless:
        problem = f"task={config.task.name} runs until it is stopped, so it cannot be a job of a grid: start it alone"
        return PlannedJob(overrides, problem=problem, exit_code=ConfigError.exit_code)
    planned = plan_job(overrides, config)
    planned.composed = composed
    return planned


def share_error(plan: list[PlannedJob]) -> None:
    """Count the comparisons of a grid, and plan the jobs whose key leaves the number to it again, each with its share.

    Jobs that cannot run now count, too: whether memory is short today must not change the share of the others.
    """
    compared = [planned for planned in plan if planned.is_compared]
    comparisons = len({planned.job_id or " ".join(planned.overrides) for planned in compared})
    for number, planned in enumerate(plan):
        config = planned.config
        if not planned.is_compared or config is None or planned.composed is None:
            continue
        key = config.task.comparisons_key
        if getattr(config.task, key) is not None:
            continue  # the user has said how many there are, in this grid and others
        OmegaConf.update(planned.composed, f"task.{key}", comparisons)
        again = plan_job(planned.overrides, replace(config, task=replace(config.task, **{key: comparisons})))
        plan[number] = replace(again, composed=planned.composed, filled_in=[f"task.{key}={comparisons}"])
