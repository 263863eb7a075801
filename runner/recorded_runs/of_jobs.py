"""The verdict over some jobs of a folder, such as those of a grid: each task's against its first
job."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from runner.recorded_runs.folder_runs import runs_of_jobs
from runner.recorded_runs.sample_reader import SampleReader
from runner_compare import ComparisonOptions, NotPaired, label, table_lines, tabulate


def verdicts(output_dir: Path, job_ids: Sequence[str]) -> list[str]:
    """Return what can be concluded of finished jobs, the first of each task being the baseline of
    its others."""
    runs = [run for run in runs_of_jobs(output_dir, job_ids) if (run.score or run.unit) and not run.errors]
    lines: list[str] = []
    for task in dict.fromkeys(run.task for run in runs):
        of_task = [run for run in runs if run.task == task]
        if len(of_task) < 2:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            reader = SampleReader(None, output_dir, Path(scratch))
            try:
                table = tabulate(of_task, ComparisonOptions(base=of_task[0]), reader)
            except NotPaired as reason:
                lines.append(f"{task}: not compared: {reason}")
                continue
        base = next(row for row in table.rows if row.is_baseline)
        name = ", ".join(f"{label(key)}={value}" for key, value in base.config.items()) or base.run.job_id
        conclusion, *findings = table_lines(table)
        lines += [f"{task}, compared with {name}: {conclusion}", *findings]
    return lines
