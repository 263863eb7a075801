"""The command line as a user sees it: exit codes, one clear message, no result lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import warm_process
from disks import mount_tmpfs
from grids import wait_for
from impatient import impatient

from runner.config.tasks import TASKS
from runner_engine.quantization import CHOICES

Run = Callable[..., Any]  # the fixture `runner`: takes arguments, returns a finished command
NewDatabase = Callable[[Path], None]
STUB = ("model=stub", "task.limit=5")
LIMITED = sorted(name for name, task in TASKS.items() if "limit" in {key.name for key in fields(task)})
WHOLE = ("model=stub", "task.limit=400")
SLOW = (*WHOLE, "model.delay_s=0.25")  # the same job, which takes 100 s


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantization=int9"], f"quantization=int9: unknown choice. Did you mean int8? Choices: {', '.join(sorted(CHOICES))}"),
        (["task.limit=many"], "task.limit=many: a whole number is needed"),
        (["taks=gsm8k"], "taks: no group or key 'taks'. Did you mean task?\n"),
        (["task.limt=3"], "task.limt: no key 'task.limt'. Did you mean task.limit?\n"),
        (["+task.extra=1", *STUB], "task.extra: no key 'task.extra'."),
        (["+task.module=runner.tasks.sweep", *STUB], "task.module: no key 'task.module'."),
        (["+extra=1", *STUB], "extra: no group or key 'extra'."),
        (["model.dtype=fp8"], "model.dtype=fp8: unknown choice. Choices: auto, bfloat16, float16, float32"),
        (["task.limit=-3"], "task.limit=-3: must be 1 or more, or null for all"),
        (["model=auto"], "model.name has no value. Give model.name=VALUE"),
        (["model=auto", "model.name=./nope"], "model.name=./nope: model path does not exist: "),
        (["model=auto", "model.name=nope"], "does not exist, and the name is no hub id of the form OWNER/NAME"),
        (["model=auto", "model.name=some/model"], "The model is not in the cache, and the hub cannot be reached"),
        (["model=auto", "model.name=."], "does not contain config.json"),
        (["quantization=none,nf4"], "To sweep over them, add --multirun"),
        (["task.split=tset", *STUB], "Did you mean test? Choices: hard, hard5, test, train, valid"),
        (["lora=peft", "lora.path=./nope"], "lora.path=./nope: adapter path does not exist: "),
        (["-m", "quantization=none,int9"], "quantization=int9: unknown choice."),
        (["task=chat", "task.limit=5"], f"task.limit: no key 'task.limit'. Choices: task.load, task.system. task.limit is a key of other tasks: {', '.join(LIMITED)}\n"),
        (["task=pipeline", "task.parts=parts"], "task=pipeline is now task=generate model=parts model.name=FOLDER. Use model.stages"),
        (["-m", "task.limt=1,2"], "task.limt: no key 'task.limt'. Did you mean task.limit?"),
        (["-cn", "nope"], "Cannot find primary config 'nope'"),
        (["foo"], "foo: this is not a valid override: write KEY=VALUE or GROUP=CHOICE"),
        (["seed=;"], """seed=;: the value cannot be parsed, because its special characters are not quoted. Write "seed=';'\""""),
        (["task.data=a,b.jsonl"], """To sweep over them, add --multirun (-m). If the value is one text, add inner quotes: "task.data='a,b.jsonl'\""""),
        (["task=sweep", "new_tokens=2"], "new_tokens: no group or key 'new_tokens'. Did you mean task.new_tokens? To record a note, use +notes.new_tokens=2"),
        (["quantization.name=nf4", *STUB], "quantization.name=nf4: the group quantization has no key `name`. Use quantization=nf4. Choices for quantization: auto_round, "),
        (["batch_size=2"], "Did you mean generation.batch_size or task.batch_size?"),
        (["task=likelihood", "task.stride=2000"], "task.stride=2000: task.stride must be smaller than task.window=1024"),
        (["task=likelihood", "task.reference=quantization=noen"], "task.reference=quantization=noen: quantization=noen: unknown choice. Did you mean none?"),
        (["task=likelihood", "task.reference=likelihood-0123456789ab", *STUB], "has no finished job with this id. Run a reference with task.keep_top_k=64. There is none yet"),
        (["task=generate", "task.prompt=a", "task.stop=。"], "task.stop=。: a list is needed: task.stop=[。]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_input_is_one_message_and_exit_2(runner: Run, arguments: list[str], message: str) -> None:
    done = runner(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert done.out == ""


def test_the_version_is_the_runners(runner: Run) -> None:
    done = runner("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"runner {version('runner-llm')} (Hydra ")


@pytest.mark.thorough
def test_overrides_may_be_anywhere(runner: Run) -> None:
    for order in (
        ["plan=true", "-m", "seed=1,2"],
        ["-m", "plan=true", "seed=1,2"],
        ["plan=true", "seed=1,2", "-m"],
    ):
        done = runner(*STUB, "tracking=none", *order)
        assert done.code == 0, done.err
        assert "2 jobs: 2 to do" in done.out
    assert "seed: 7" in runner("seed=7", "--cfg", "job", *STUB).out


@pytest.mark.thorough
def test_a_sweep_needs_no_plus(runner: Run) -> None:
    for key in ("hydra.sweeper.params.task.limit=1,2", "hydra.sweeper.params={task.limit: '1,2'}"):
        done = runner("-m", "model=stub", "tracking=none", "plan=true", key)
        assert done.code == 0, done.err
        assert "2 jobs: 2 to do" in done.out


@pytest.mark.thorough
@pytest.mark.slow
def test_first_run_then_the_ledger(runner: Run, tmp_path: Path) -> None:
    first = runner(*STUB, database=False)
    assert first.code == 0, first.err
    assert "accuracy" in first.out
    assert "mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db" in first.out
    second = runner(*STUB, "print=json")
    assert second.json()["status"] == "FINISHED"
    assert "is already complete" in second.err
    folder = Path(second.json()["output_dir"])
    assert sorted(file.name for file in folder.iterdir() if not file.name.startswith(".")) == [
        "config.yaml",
        "log.txt",
        "measured.json",
        "result.json",
        "samples.jsonl",
    ]
    assert len((folder / "samples.jsonl").read_text().splitlines()) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"], "nothing is left beside the results"
    assert statuses(tmp_path) == ["FINISHED"], "the second start logs nothing"
    third = runner(*STUB, "rerun=true", "print=none")
    assert (third.code, third.out) == (0, "")
    assert statuses(tmp_path) == ["FINISHED", "FINISHED"]


@pytest.mark.thorough
@pytest.mark.slow
def test_json_is_one_line_per_job_and_a_grid_runs_despite_impossible_jobs(
    runner: Run, tmp_path: Path
) -> None:
    done = runner("-m", "model=stub", "task.limit=2,3", "task.split=tset,test", "print=json")
    assert done.code == 2
    lines = [json.loads(line) for line in done.out.strip().splitlines()]
    assert [line["metrics"]["n"] for line in lines] == [2, 3]
    assert set(lines[0]) == {"job_id", "status", "output_dir", "metrics", "mlflow_run_id"}
    assert done.err.count("impossible: ") == 2
    assert "Did you mean test?" in done.err
    assert "error: 2 of 4 jobs did not finish" in done.err
    assert sorted(statuses(tmp_path)) == ["FAILED", "FINISHED", "FINISHED"], (
        "two jobs, and the grid, in which two are missing"
    )


@pytest.mark.thorough
def test_corrupt_samples_are_rejected_and_kept(runner: Run) -> None:
    folder = Path(runner(*STUB, "print=json", "tracking=none").json()["output_dir"])
    (folder / "result.json").unlink()
    samples = folder / "samples.jsonl"
    text = samples.read_text().replace('{"index": 2', '{"index" 2')
    samples.write_text(text)
    done = runner(*STUB, "tracking=none")
    assert done.code == 2
    assert "samples.jsonl, line 3: the line is not a valid sample (" in done.err
    assert "Traceback" not in done.err
    assert samples.read_text() == text
    assert runner(*STUB, "tracking=none", "rerun=true").code == 0


@pytest.mark.thorough
def test_output_folder_that_cannot_be_written(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = runner(*STUB, "output_dir=file/outputs")
    assert done.code == 2
    assert done.err == (
        f"error: output_dir=file/outputs: {tmp_path}/file is a file. Choose a writable folder: output_dir=...\n"
    )
    grid = runner("-m", "model=stub", "task.limit=2,3", "output_dir=file")
    assert grid.code == 2
    assert (
        grid.err
        == f"error: output_dir=file: {tmp_path}/file is a file. Choose a writable folder: output_dir=...\n"
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    folder = tmp_path / "small"
    mount_tmpfs(folder, "size=256k")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> object:
    folder = tmp_path / "frozen"
    mount_tmpfs(folder, "ro")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_read_only_output_folder(runner: Run, read_only: Path) -> None:
    done = runner(*STUB, f"output_dir={read_only}")
    assert done.code == 2
    assert "Read-only file system" in done.err
    assert "output_dir=" in done.err
    assert "Traceback" not in done.err


@pytest.mark.thorough
@pytest.mark.slow
def test_full_disk_keeps_what_was_written(runner: Run, small_disk: Path) -> None:
    many = ("model=stub", "task.limit=2000", "tracking=none", f"output_dir={small_disk}")
    done = runner(*many)
    assert done.code == 1
    assert "the disk is full" in done.err
    assert "Traceback" not in done.err
    (samples,) = small_disk.glob("jobs/*/samples.jsonl")
    kept = samples.read_text().count("\n")
    assert kept > 50
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = runner(*many, "print=json")
    assert again.code == 0, again.err
    assert samples.read_text().count("\n") == 2000
    indices = [json.loads(line)["index"] for line in samples.read_text().splitlines()]
    assert sorted(indices) == list(range(2000)), "none duplicated, none lost"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_locked_database_is_an_error_before_the_job(runner: Run, tmp_path: Path) -> None:
    assert runner(*STUB).code == 0
    lock = sqlite3.connect(tmp_path / "outputs" / "mlflow.db")
    lock.execute("BEGIN EXCLUSIVE")
    try:
        done = runner(*STUB, "seed=1", **impatient(tmp_path))
    finally:
        lock.close()
    assert done.code == 2
    assert "the database is locked by another program" in done.err
    assert "Traceback" not in done.err
    assert runner(*STUB, "seed=1").code == 0


def test_an_unwritable_database_is_an_error_before_the_job(runner: Run, tmp_path: Path) -> None:
    done = runner(*STUB, "tracking.uri=sqlite:////proc/nope.db")
    assert done.code == 2
    assert "cannot write to MLflow at sqlite:////proc/nope.db: " in done.err
    assert "tracking=none" in done.err
    assert "Traceback" not in done.err
    (tmp_path / "notes.txt").write_text("this is no database, and long enough to be looked at " * 20)
    other = runner(*STUB, f"tracking.uri=sqlite:///{tmp_path}/notes.txt")
    assert other.code == 2
    assert "file is not a database" in other.err


@pytest.mark.thorough
@pytest.mark.slow
def test_a_database_that_is_locked_at_the_end_loses_no_result(runner: Run, tmp_path: Path) -> None:
    assert runner(*STUB).code == 0
    slow = ["model=stub", "task.limit=20", "model.delay_s=0.5", "seed=5"]
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *slow],
        cwd=tmp_path,
        env=os.environ | impatient(tmp_path),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    jobs = tmp_path / "outputs" / "jobs"
    # then the start is logged, and nine seconds are left
    wait_for(lambda: len([*jobs.glob("*/samples.jsonl")]) == 2)
    lock = sqlite3.connect(tmp_path / "outputs" / "mlflow.db")
    lock.execute("BEGIN EXCLUSIVE")
    _, err = process.communicate(timeout=200)
    lock.close()
    assert process.returncode == 2
    assert "The result is kept in" in err
    assert "Traceback" not in err
    again = runner(*slow, "print=json")
    assert again.code == 0, again.err
    assert "is already complete" in again.err
    assert again.json()["mlflow_run_id"]
    assert sorted(statuses(tmp_path)) == ["FINISHED", "FINISHED"], "the run that was begun has been finished"


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupt_then_resume(
    runner: Run, tmp_path: Path, new_database: NewDatabase, sent: signal.Signals
) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *SLOW],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: lines_of(tmp_path) >= 2)
    process.send_signal(sent)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert out == ""
    assert statuses(tmp_path) == ["KILLED"]
    kept = lines_of(tmp_path)
    assert 2 <= kept < 400
    again = runner(*WHOLE)
    assert again.code == 0
    assert f"{kept} of 400 samples come from an earlier" in again.out
    assert lines_of(tmp_path) == 400
    assert statuses(tmp_path) == ["FINISHED", "KILLED"]


@pytest.mark.slow
def test_a_killed_process_leaves_a_true_status_in_the_end(
    runner: Run, tmp_path: Path, new_database: NewDatabase
) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *SLOW], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: lines_of(tmp_path) >= 2)
    process.kill()
    process.wait()
    assert statuses(tmp_path) == ["RUNNING"]
    again = runner(*WHOLE)
    assert again.code == 0, again.err
    assert "of 400 samples come from an earlier" in again.out
    assert statuses(tmp_path) == ["FINISHED", "KILLED"]


@pytest.mark.slow
def test_several_processes_open_a_missing_database_at_once(tmp_path: Path) -> None:
    processes = [
        warm_process.popen(
            [sys.executable, "-m", "runner", *STUB, f"seed={seed}"], cwd=tmp_path, stdout=subprocess.DEVNULL
        )
        for seed in range(4)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0, 0, 0]
    assert statuses(tmp_path) == ["FINISHED"] * 4


def lines_of(folder: Path) -> int:
    return sum(file.read_text().count("\n") for file in folder.glob("outputs/jobs/*/samples.jsonl"))


def statuses(folder: Path) -> list[str]:
    """Read the statuses of runs from the database itself, which is quicker than through MLflow."""
    path = folder / "outputs" / "mlflow.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=60)) as database:
        try:
            return sorted(row[0] for row in database.execute("select status from runs"))
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []  # the tables are being created
