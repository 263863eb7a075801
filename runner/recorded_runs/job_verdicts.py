"""Compares the jobs of a folder or grid with the first job of each task."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from runner.recorded_runs.folder_runs import load_runs_of_jobs
from runner.recorded_runs.sample_reader import SampleReader
from runner_compare import (
    ComparisonOptions,
    NotPaired,
    build_comparison_table,
    conclusion_and_findings,
    key_label,
)


def compute_comparison_verdicts(output_dir: Path, job_ids: Sequence[str]) -> list[str]:
    runs = [
        run
        for run in load_runs_of_jobs(output_dir, job_ids)
        if (run.correct_and_total or run.likelihood_unit) and not run.errors
    ]
    lines: list[str] = []
    for task in dict.fromkeys(run.task for run in runs):
        of_task = [run for run in runs if run.task == task]
        if len(of_task) < 2:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            reader = SampleReader(None, output_dir, Path(scratch))
            try:
                table = build_comparison_table(of_task, ComparisonOptions(base=of_task[0]), reader)
            except NotPaired as reason:
                lines.append(f"{task}: not compared: {reason}")
                continue
        base = next(row for row in table.rows if row.is_baseline)
        name = ", ".join(f"{key_label(key)}={value}" for key, value in base.config.items()) or base.run.job_id
        conclusion, *findings = conclusion_and_findings(table)
        lines += [f"{task}, compared with {name}: {conclusion}", *findings]
    return lines
