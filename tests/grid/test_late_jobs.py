"""A launcher that breaks, or that does not start at once: what it does in the meantime counts as this grid's work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus

from runner.config.root import RunnerConfig
from runner.config.task import Gsm8kConfig
from runner.core.errors import ConfigError
from runner.grid.other_launchers import MAX_RAY_STARTS, RAY_STARTED_SLOWLY, ForeignLaunch
from runner.grid.plan import plan_job, run_job
from runner.grid.show import table_lines


class GoesDownSlowly:
    """Runs its first job and breaks; the second job starts and ends before the launcher is down."""

    def __init__(self, configs: list[RunnerConfig]) -> None:
        self.configs, self.is_broken = configs, False

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        if not self.is_broken:
            run_job(self.configs[0])
            self.is_broken = True
            raise RuntimeError("the actor died")
        assert (len(overrides), initial_job_idx) == (1, 1)
        run_job(self.configs[1])
        job_return = JobReturn()
        job_return.return_value, job_return.status = run_job(self.configs[1]), JobStatus.COMPLETED
        assert job_return.return_value.record.from_ledger, "the result was recorded before"
        return [job_return]


def test_a_job_that_ends_while_the_launcher_goes_down_is_this_grids_work(
    make_config: Callable[..., RunnerConfig], caplog: pytest.LogCaptureFixture
) -> None:
    configs = [make_config(seed=seed, task=Gsm8kConfig(limit=2)) for seed in (1, 2)]
    plan = [plan_job([f"seed={config.seed}"], config) for config in configs]
    launcher: Any = GoesDownSlowly(configs)
    launch = ForeignLaunch(launcher, "ray", plan)
    launch.run([0, 1])
    assert "hydra/launcher=ray broke: the actor died" in caplog.text
    assert [line.status for line in table_lines(plan, launch.outcomes)] == ["finished", "finished"]


class StartsSlowly:
    """Gives up several times before it runs its jobs, as Ray does on a busy machine."""

    def __init__(self, config: RunnerConfig, failures: int) -> None:
        self.config, self.failures, self.starts = config, failures, 0

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        self.starts += 1
        if self.starts <= self.failures:
            raise RuntimeError(f"{RAY_STARTED_SLOWLY}. This could happen because the GCS has become overloaded.")
        job_return = JobReturn()
        job_return.return_value, job_return.status = run_job(self.config), JobStatus.COMPLETED
        return [job_return]


@pytest.mark.parametrize("failures", [1, MAX_RAY_STARTS - 1, MAX_RAY_STARTS])
def test_a_launcher_that_starts_slowly_is_started_again(
    failures: int, make_config: Callable[..., RunnerConfig], caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(task=Gsm8kConfig(limit=2))
    plan = [plan_job([], config)]
    launcher: Any = StartsSlowly(config, failures)
    launch = ForeignLaunch(launcher, "ray", plan)
    if failures == MAX_RAY_STARTS:
        with pytest.raises(ConfigError, match=f"hydra/launcher=ray could not start the jobs: {RAY_STARTED_SLOWLY}"):
            launch.run([0])
    else:
        launch.run([0])
        assert [line.status for line in table_lines(plan, launch.outcomes)] == ["finished"]
    assert launcher.starts == min(failures + 1, MAX_RAY_STARTS)
    assert caplog.text.count("Ray did not start within its 30 s") == launcher.starts - 1
