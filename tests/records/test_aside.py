"""Evidence that rerun=... sets aside, and output folders that are moved or copied."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for
from stored import jobs

Run = Callable[..., Any]
STUB = ("model=stub", "task.limit=2", "print=json")
WHOLE = ("model=stub", "task.limit=400")
SLOW = (*WHOLE, "model.delay_s=0.25")  # the same job, which takes 100 s


@pytest.fixture
def database(tmp_path: Path, new_database: Callable[[Path], None]) -> Path:
    new_database(tmp_path / "outputs" / "mlflow.db")
    return tmp_path / "outputs" / "mlflow.db"


# ------------------------------------------------------------------------------------------- rerun


def evidence(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tmp_path.glob("outputs/jobs/*/[!.]*")}


@pytest.mark.thorough
def test_rerun_touches_nothing_before_its_checks_have_passed(runner: Run, tmp_path: Path) -> None:
    assert runner(*STUB).code == 0
    before = evidence(tmp_path)
    done = runner(*STUB, "rerun=all", "tracking.uri=http://127.0.0.1:9/")
    assert done.code == 2
    assert evidence(tmp_path) == before


@pytest.mark.thorough
@pytest.mark.slow
def test_what_rerun_sets_aside_is_deleted_when_the_job_is_done_again(runner: Run, tmp_path: Path) -> None:
    assert runner(*WHOLE).code == 0
    before = evidence(tmp_path)
    (job,) = (tmp_path / "outputs" / "jobs").iterdir()
    (job / "samples.jsonl").rename(job / "kept")
    process = restarted(tmp_path, job)
    process.terminate()
    assert process.wait(timeout=200) == 130
    (old,) = (tmp_path / "outputs" / "jobs").glob("*.old-*")
    assert (old / "kept").read_bytes() == before["samples.jsonl"]
    assert (old / "result.json").read_bytes() == before["result.json"]
    assert str(old) in (tmp_path / "stderr").read_text()
    assert "1 results logged" not in runner(module="runner.tracking.sync").out, (
        "what is set aside does not count as a job"
    )
    assert runner(*WHOLE, "rerun=all").code == 0
    assert [path.name for path in (tmp_path / "outputs" / "jobs").iterdir()] == [job.name]
    assert json.loads((job / "result.json").read_text())["status"] == "FINISHED"


def restarted(folder: Path, job: Path) -> subprocess.Popen[bytes]:
    """Start the job with rerun=all, and return when it has set the earlier files aside."""
    with (folder / "stderr").open("wb") as errors:
        process = warm_process.popen(
            [sys.executable, "-m", "runner", *SLOW, "rerun=all"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    wait_for((job / "samples.jsonl").exists)
    return process


# ------------------------------------------------------------------------------- moved and copied
# folders


@pytest.mark.thorough
@pytest.mark.slow
def test_a_moved_and_a_copied_folder_keep_to_themselves(runner: Run, tmp_path: Path, database: Path) -> None:
    assert runner("-m", *STUB, "seed=1,2").code == 0
    shutil.copytree(tmp_path / "outputs", tmp_path / "a copy")
    (tmp_path / "outputs").rename(tmp_path / "moved")
    for name in ("a copy", "moved"):
        done = runner("-m", *STUB, "seed=1,2,3", f"output_dir='{name}'")
        assert done.code == 0, done.err
        folder = tmp_path / name
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
            uris = [uri for (uri,) in connection.execute("select artifact_uri from runs")]
        assert len(uris) == 7, "two grids, and two of the jobs are below both"
        assert all(uri.startswith(folder.as_uri() + "/") for uri in uris)
        assert len(list(folder.glob("mlartifacts/*/artifacts/samples.jsonl"))) == 5
        assert {row.tags["output_dir"].rpartition("/")[0] for row in jobs(folder / "mlflow.db")} == {
            str(folder / "jobs")
        }
    assert not (tmp_path / "outputs").exists()
