"""A launcher that breaks: what it does until it is down counts as this grid's work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus

from runner.config.root import RunnerConfig
from runner.grid.grid_output import build_grid_table_rows
from runner.grid.other_launchers import OtherLauncherRun
from runner.grid.outcomes import run_grid_job
from runner.grid.plan import plan_job
from runner.tasks.gsm8k.keys import Gsm8kConfig


class GoesDownSlowly:
    """Runs its first job and breaks; the second job starts and ends before the launcher is down."""

    def __init__(self, configs: list[RunnerConfig]) -> None:
        self.configs, self.is_broken = configs, False

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        if not self.is_broken:
            run_grid_job(self.configs[0])
            self.is_broken = True
            raise RuntimeError("a process died")
        assert (len(overrides), initial_job_idx) == (1, 1)
        run_grid_job(self.configs[1])
        job_return = JobReturn()
        job_return.return_value, job_return.status = run_grid_job(self.configs[1]), JobStatus.COMPLETED
        assert job_return.return_value.record.from_ledger, "the result was recorded before"
        return [job_return]


def test_a_job_that_ends_while_the_launcher_goes_down_is_this_grids_work(
    make_config: Callable[..., RunnerConfig], caplog: pytest.LogCaptureFixture
) -> None:
    configs = [make_config(seed=seed, task=Gsm8kConfig(limit=2)) for seed in (1, 2)]
    plan = [plan_job([f"seed={config.seed}"], config) for config in configs]
    launcher: Any = GoesDownSlowly(configs)
    launch = OtherLauncherRun(launcher, "joblib", plan)
    launch.run([0, 1])
    assert "hydra/launcher=joblib broke: a process died" in caplog.text
    assert [line.status for line in build_grid_table_rows(plan, launch.outcomes)] == ["finished", "finished"]
