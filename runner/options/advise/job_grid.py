"""Implements `runner-advise --run`, which runs the recommended jobs as one grid."""

from __future__ import annotations

from runner.grid.grid_api import create_grid_sweeper
from runner.grid.sweeper import report_grid_results_and_failures
from runner.options.advise.advice import Advice


def run_recommended_jobs(advice: Advice) -> None:
    """Run the recommended jobs as one grid, with the same progress output and logs as `runner -m`."""
    jobs = [dict(word.partition("=")[::2] for word in candidate.overrides) for candidate in advice.chosen]
    keys = list(dict.fromkeys(key for job in jobs for key in job))
    shared = [key for key in keys if len({job.get(key) for job in jobs}) == 1]
    differing = [key for key in keys if key not in shared]
    sweeper, arguments = create_grid_sweeper([f"{key}={jobs[0][key]}" for key in shared], None)
    if differing:
        sweeper.zip = [{key: ",".join(job.get(key, "null") for job in jobs) for key in differing}]
    grid = sweeper.plan_grid(arguments)
    report_grid_results_and_failures(grid, sweeper.run_unfinished_jobs(grid))
