"""A job that is interrupted and goes on is one run in MLflow, and a run's name says what is unusual
about it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for
from stored import rows

from runner.config.root import RunnerConfig
from runner.records import run_names
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.dtypes import Dtype
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalConfig

WHOLE = ("model=stub", "task.limit=12", "print=none")
SLOW = (*WHOLE, "model.delay_s=0.5")  # the same job
# mlflow 3.17 uses an old name of sqlalchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")


def stopped(folder: Path, sent: signal.Signals, *words: str, beside: str = "") -> None:
    """Start the job, and send it a signal once it has new samples."""

    def lines() -> int:
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("outputs/jobs/*/samples.jsonl"))

    before = lines()
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *SLOW, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    wait_for(lambda: lines() > before)
    if beside:
        (job,) = folder.glob("outputs/jobs/*-*")
        (job / beside).write_text("")
    process.send_signal(sent)
    assert process.wait(timeout=200) == (130 if sent is signal.SIGINT else -sent)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("-m", "seed=1")], ids=["job", "grid"])
def test_a_job_that_goes_on_has_its_run_again(
    runner: Callable[..., Any], tmp_path: Path, new_database: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    database = tmp_path / "outputs" / "mlflow.db"
    new_database(database)
    count = 2 if words else 1  # the grid has a run above that of its job
    for sent in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        stopped(tmp_path, sent, *words)
        left = "RUNNING" if sent is signal.SIGKILL else "KILLED"
        assert [row.status for row in rows(database)] == [left] * count
    done = runner(*SLOW, *words, process=True)
    assert done.code == 0, done.err
    assert [row.status for row in rows(database)] == ["FINISHED"] * count


@pytest.mark.thorough
@pytest.mark.slow
def test_what_cannot_be_the_same_run_is_another_one(
    runner: Callable[..., Any], tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    database = tmp_path / "outputs" / "mlflow.db"
    new_database(database)
    stopped(tmp_path, signal.SIGINT)
    # its param model.delay_s is another one, which MLflow cannot change
    assert runner(*WHOLE, process=True).code == 0
    assert sorted(row.status for row in rows(database)) == ["FINISHED", "KILLED"]
    stopped(tmp_path, signal.SIGINT, "rerun=all")
    assert runner(*SLOW, "rerun=all", process=True).code == 0
    assert sorted(row.status for row in rows(database)) == ["FINISHED", "FINISHED", "KILLED", "KILLED"]


@pytest.mark.slow
def test_begun_answers_are_no_artifact(tmp_path: Path, new_database: Callable[[Path], None]) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    stopped(tmp_path, signal.SIGINT, beside="partial.jsonl")
    logged = {path.name for path in tmp_path.glob("outputs/**/artifacts/*")}
    assert "samples.jsonl" in logged
    assert "partial.jsonl" not in logged


def test_names_tell_runs_apart_that_differ_in_any_key(make_config: Callable[..., RunnerConfig]) -> None:
    model, usual = (
        LocalConfig(name="/models/smol"),
        {"task": Gsm8kConfig(), "generation": GenerationConfig()},
    )
    assert run_names.create_run_name(make_config(**usual | {"model": model})) == "gsm8k smol test"
    limited = usual | {"model": model, "task": Gsm8kConfig(limit=20), "quantization": Nf4Config(), "seed": 3}
    assert run_names.create_run_name(make_config(**limited)) == "gsm8k smol nf4 test limit=20 seed=3"
    precise = usual | {
        "model": LocalConfig(name="/models/smol", dtype=Dtype.float32),
        "task": Gsm8kConfig(limit=60),
    }
    assert run_names.create_run_name(make_config(**precise)) == "gsm8k smol test dtype=float32 limit=60"
