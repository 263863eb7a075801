"""What a grid says where Slurm, or the package of a launcher or a search, is missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hidden_packages
import pytest
from grids import mlflow_runs


@pytest.mark.thorough
@pytest.mark.slow
def test_slurm_composes_and_reports_that_it_is_missing(runner: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="pip install 'runner-llm[dev]'")
    slurm = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "model=stub")
    shown = runner(*slurm, "--cfg", "hydra", "--package", "hydra.launcher")
    assert shown.code == 0, shown.err
    assert "SlurmLauncher" in shown.out
    assert "partition: gpu" in shown.out
    # also where Slurm is installed
    done = runner("-m", *slurm, PATH=os.path.dirname(sys.executable))
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "1 job: 1 to do",
        "error: hydra/launcher=submitit_slurm did not start the jobs: "
        'Could not detect "srun", are you indeed on a slurm cluster?',
    ]
    assert [(run.is_grid, run.status) for run in mlflow_runs(tmp_path)] == [(True, "FAILED")]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("choice", "extra"),
    [
        ("hydra/launcher=submitit_slurm", "submitit"),
        ("hydra/launcher=ray", "ray"),
        ("hydra/sweeper=optuna", "optuna"),
    ],
)
def test_a_missing_package_is_named(
    runner: Callable[..., Any], tmp_path: Path, choice: str, extra: str
) -> None:
    hidden_packages.assert_named(runner, tmp_path, choice, extra)
