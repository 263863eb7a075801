"""A job's folder that is deleted while the job runs is noticed at the next answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


@pytest.mark.thorough
@pytest.mark.slow
def test_a_deleted_folder_ends_the_job_with_one_message(runner: Callable[..., Any], tmp_path: Path) -> None:
    words = ["model=stub", "model.delay_s=0.3", "task.limit=40", "print=none", f"output_dir={tmp_path}/here"]
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(
        lambda: [1 for path in tmp_path.glob("here/jobs/*/samples.jsonl") if path.read_text().count("\n") > 2]
    )
    (folder,) = (tmp_path / "here" / "jobs").glob("*-*")
    shutil.rmtree(folder)
    deleted_at = time.monotonic()
    _, err = process.communicate(timeout=100)
    assert time.monotonic() - deleted_at < 9, "40 answers take 12 s"
    assert process.returncode == 1, err
    [line] = err.splitlines()
    assert line.startswith(f"error: {folder}/samples.jsonl and its answers were deleted during the job")
    assert statuses(tmp_path / "here") == ["FAILED"]
    done = runner("model=stub", "model.delay_s=0", *words[2:])
    assert done.code == 0, done.err
    assert statuses(tmp_path / "here") == ["FAILED", "FINISHED"]


@pytest.mark.thorough
@pytest.mark.slow
def test_in_a_grid_the_run_of_the_deleted_job_ends_too(tmp_path: Path) -> None:
    words = [
        "-m",
        "model=stub",
        "model.delay_s=0.2",
        "task.limit=40",
        "seed=1,2",
        f"output_dir={tmp_path}/here",
    ]
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *words],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    samples = "here/jobs/*/samples.jsonl"
    begun = wait_for(lambda: [path for path in tmp_path.glob(samples) if path.read_text().count("\n") > 2])
    shutil.rmtree(begun[0].parent)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    assert "were deleted during the job" in err
    assert statuses(tmp_path / "here") == ["FAILED", "FAILED", "FINISHED"], "the grid, and its two jobs"


def statuses(output_dir: Path) -> list[str]:
    """Return how the runs in MLflow have ended."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{output_dir}/mlflow.db")
    return sorted(run.info.status for run in client.search_runs(["1"]))
