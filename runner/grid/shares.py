"""One error of 5 % for a grid: its jobs that are compared while they run share it, and know their shares at the start.

A job that decides while it runs cannot wait for the others, as Holm's adjustment of a table does.
"""

from __future__ import annotations

from dataclasses import replace

from omegaconf import OmegaConf

from runner.grid.plan import PlannedJob, plan_job


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
