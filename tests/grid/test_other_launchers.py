"""The same grid under Hydra's other launchers: the same samples, metrics, failures and ways to
resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import hidden_packages
import pytest
import warm_process
from grids import FAULTS, mlflow_runs, results, samples, wait_for, without_time

ROOT = Path(__file__).resolve().parents[2]
# 8 jobs, none of which can reuse answers of another, half of them with a real model
GRID = ("model=stub,tiny", "generation=greedy,sampling", "seed=1,2", "task.limit=3", "generation.max_new_tokens=12",
        "print=json")  # fmt: skip
TINY = "defaults: [/hydra/schema/model/model@_here_, _self_]\nname: {}\ndevice: cpu\ndtype: float32\nthreads: 1\n"
# metrics of the process, not of the answers; base_loads: only our own workers keep a loaded base
OF_THE_PROCESS = ("seconds", "load_s", "prefill_tok_per_s", "decode_tok_per_s", "peak_rss_mib", "base_loads",
                  "load_peak_rss_mib", "load_rss_mib", "draft_tokens", "accepted_tokens")  # fmt: skip
THOROUGH = pytest.mark.thorough
SLOW = pytest.mark.slow
SUBMITIT = pytest.param("submitit_local", marks=THOROUGH)
NEEDS = {"joblib": "hydra-joblib-launcher", "submitit_local": "hydra-submitit-launcher"}
# the process of the job with seed 2 dies, once, when the result is on disk and MLflow does not have
# it yet
DIES_BEFORE_MLFLOW = """
from pathlib import Path
from runner.tracking.job_runs import JobRun

finish_in_mlflow, once = JobRun.log_result, Path(os.environ["DIED_ONCE"])

def die_once(run, record):
    if record.params["seed"] == "2" and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    finish_in_mlflow(run, record)

JobRun.log_result = die_once
"""
# for slow shared disks, submitit waits 15 s for the result of a dead job
IMPATIENT = "\nimport submitit.core.core\nsubmitit.core.core.Job._results_timeout_s = 1\n"


class Done:
    """A finished process and the folder that it worked in."""

    def __init__(self, done: subprocess.CompletedProcess[str], folder: Path) -> None:
        self.code, self.out, self.err, self.folder = (done.returncode, done.stdout, done.stderr, folder)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of stdout, which has nothing else."""
        return [json.loads(line) for line in self.out.splitlines()]


Start = Callable[..., Done]  # takes a folder and arguments, returns a finished grid


@pytest.fixture(scope="session")
def start(new_database: Callable[[Path], None]) -> Start:
    """Return a function that runs `python -m runner -m ARGUMENTS` in a folder, to its end."""

    def call(folder: Path, *arguments: str, python: str = sys.executable, **environment: str) -> Done:
        if "tracking=none" not in arguments and not (folder / "outputs").exists():
            new_database(folder / "outputs" / "mlflow.db")
        folder.mkdir(exist_ok=True)
        command = [python, "-m", "runner", "-m", *arguments]
        keys: dict[str, Any] = {"cwd": folder, "env": os.environ | environment}
        return Done(warm_process.complete(command, timeout_s=400, **keys), folder)

    return call


@pytest.fixture(scope="session")
def with_tiny(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The argument that adds the choice model=tiny."""
    conf = tmp_path_factory.mktemp("conf")
    (conf / "model").mkdir()
    (conf / "model" / "tiny.yaml").write_text(TINY.format(tiny_llama))
    return f"--config-dir={conf}"


@pytest.fixture(scope="session")
def reference(start: Start, with_tiny: str, made_once: Callable[[str, Callable[[Path], None]], Path]) -> Done:
    """The grid under our own launcher."""

    def make(folder: Path) -> None:
        done = start(folder, with_tiny, *GRID)
        assert done.code == 0, done.err
        (folder / "stdout").write_text(done.out)

    folder = made_once("reference", make)
    done = Done(subprocess.CompletedProcess([], 0, (folder / "stdout").read_text(), ""), folder)
    assert len(done.lines) == 8
    return done


@pytest.fixture
def python_for() -> Callable[[str], str]:
    def python(launcher: str) -> str:
        if launcher in NEEDS:
            try:
                metadata.version(NEEDS[launcher])
            except metadata.PackageNotFoundError:
                pytest.skip(f"{NEEDS[launcher]} is not installed: pip install 'runner-llm[dev]'")
        return sys.executable

    return python


@pytest.fixture
def faults(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that breaks jobs by seed, as in "2=raise", in any process; `more` runs at
    each process's start."""
    folder = tmp_path / "faults"
    folder.mkdir()

    def variables(faults: str, more: str = "") -> dict[str, str]:
        (folder / "sitecustomize.py").write_text(FAULTS + more)
        return {"PYTHONPATH": str(folder), "FAULTS": faults}

    return variables


def timeless_samples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every job's samples without their times, in the order of the questions."""
    return {
        job: sorted(map(without_time, lines), key=lambda sample: int(sample["index"]))
        for job, lines in samples(folder).items()
    }


def timeless(lines: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, float]]]:
    """Return what the grid prints of each job, in its order, without times and paths."""
    return [
        (
            line["job_id"],
            line["status"],
            {key: value for key, value in line["metrics"].items() if key not in OF_THE_PROCESS},
        )
        for line in lines
    ]


def assert_children_of_one_grid(folder: Path, status: str) -> None:
    """Assert that the one grid's run has this status, and is the parent of every job's run."""
    runs = mlflow_runs(folder)
    (parent,) = (run for run in runs if run.is_grid)
    assert parent.status == status
    assert {run.tags.get("mlflow.parentRunId") for run in runs if not run.is_grid} == {parent.run_id}


# ------------------------------------------------------------------------------- the same grid
# elsewhere


@pytest.mark.thorough
@SLOW
@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=THOROUGH), SUBMITIT])
def test_the_same_grid_gives_the_same_results(
    launcher: str,
    start: Start,
    with_tiny: str,
    reference: Done,
    python_for: Callable[[str], str],
    tmp_path: Path,
) -> None:
    python, folder = python_for(launcher), tmp_path / "work"
    done = start(folder, with_tiny, f"hydra/launcher={launcher}", *GRID, python=python)
    assert done.code == 0, done.err
    assert timeless(done.lines) == timeless(reference.lines)
    assert timeless_samples(folder) == timeless_samples(reference.folder)
    assert_children_of_one_grid(folder, "FINISHED")
    assert [run.status for run in mlflow_runs(folder)] == ["FINISHED"] * 9
    assert done.lines[0]["mlflow_run_id"] in {run.run_id for run in mlflow_runs(folder)}
    # another launcher finds all jobs done
    before = results(folder)
    again = start(folder, with_tiny, *GRID)
    assert (again.code, timeless(again.lines)) == (0, timeless(done.lines))
    assert "8 jobs: 8 done" in again.err
    assert results(folder) == before
    assert len(mlflow_runs(folder)) == 9, "a start with nothing to do creates no run"


@pytest.mark.thorough
@SLOW
@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=THOROUGH), "joblib", SUBMITIT])
def test_a_job_that_fails_fails_alone(
    launcher: str,
    start: Start,
    python_for: Callable[[str], str],
    faults: Callable[..., dict[str, str]],
    tmp_path: Path,
) -> None:
    python, folder = python_for(launcher), tmp_path / "work"
    # `basic` runs jobs in the grid's own process
    died = "sys.exit" if launcher == "basic" else "kill"
    grid = (f"hydra/launcher={launcher}", "model=stub", "seed=1,2,3,4", "task.limit=3")
    more = IMPATIENT if launcher == "submitit_local" else ""
    done = start(folder, *grid, python=python, **faults(f"2=raise,4={died}", more))
    assert done.code == 1, done.err
    message = (
        "a plug-in or a library called sys.exit(7) in "
        if died == "sys.exit"
        else f"hydra/launcher={launcher} lost the process of this job: "
    )
    assert "FAILED: seed=2: RuntimeError: out of luck\n" in done.err
    assert f"FAILED: seed=4: {message}" in done.err
    assert done.err.endswith("error: 2 of 4 jobs did not finish. See errors above\n")
    assert "Traceback" not in done.err
    rows = [line.split() for line in done.out.splitlines() if "gsm8k-" in line and " finished " in line]
    assert [row[0] for row in rows] == ["1", "3"], "the table has all that finished"
    assert done.out.count("gsm8k-") == 4, "and all that did not"
    assert_children_of_one_grid(folder, "FAILED")
    logged = {run.job_id for run in mlflow_runs(folder) if not run.is_grid}
    assert len(logged) == 4
    assert "RUNNING" not in {run.status for run in mlflow_runs(folder)}
    assert (
        sorted(result["status"] for result in results(folder).values()) == ["FAILED"] * 2 + ["FINISHED"] * 2
    )
    # without the faults and with our own launcher, only these two run, and resume from the sample
    # that they had
    again = start(folder, *grid[1:], "print=json")
    assert again.code == 0, again.err
    assert "4 jobs: 2 to resume, 2 done" in again.err
    assert [line["metrics"]["n"] for line in again.lines] == [3] * 4
    assert all([s["index"] for s in job] == [0, 1, 2] for job in samples(folder).values()), (
        "none twice, none lost"
    )


@THOROUGH
def test_a_process_that_dies_between_disk_and_mlflow(
    start: Start, python_for: Callable[[str], str], faults: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    python, folder = python_for("joblib"), tmp_path / "work"
    grid = ("hydra/launcher=joblib", "model=stub", "seed=1,2", "task.limit=3", "print=json")
    environment = faults("", DIES_BEFORE_MLFLOW) | {
        "FAULTS": "none=raise",
        "DIED_ONCE": str(tmp_path / "died"),
    }
    done = start(folder, *grid, python=python, **environment)
    assert (tmp_path / "died").exists(), done.err
    assert done.code == 0, done.err
    assert "hydra/launcher=joblib broke: " in done.err
    assert [line["status"] for line in done.lines] == ["FINISHED"] * 2
    runs = [run for run in mlflow_runs(folder) if not run.is_grid]
    assert "RUNNING" not in {run.status for run in runs}, "the run whose process died has ended"
    assert len({run.job_id for run in runs if run.status == "FINISHED"}) == 2, "and MLflow has both results"
    assert all([s["index"] for s in job] == [0, 1, 2] for job in samples(folder).values()), (
        "none twice, none lost"
    )


@THOROUGH
@pytest.mark.parametrize(
    ("launcher", "number", "send"),
    [
        ("joblib", signal.SIGINT, os.killpg),  # as a terminal does
        ("joblib", signal.SIGTERM, os.kill),  # as a scheduler does: only the grid's own process
        ("joblib", signal.SIGTERM, os.killpg),  # as systemd does
        ("submitit_local", signal.SIGINT, os.killpg),
    ],
)
def test_a_signal_keeps_what_was_done(
    launcher: str,
    number: signal.Signals,
    send: Callable[[int, int], None],
    start: Start,
    python_for: Callable[[str], str],
    faults: Callable[..., dict[str, str]],
    new_database: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    python = python_for(launcher)
    new_database(tmp_path / "outputs" / "mlflow.db")
    both_at_once = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    grid = ("model=stub", "seed=1,2", "task.limit=16", "print=json")
    process = warm_process.popen(
        [python, "-m", "runner", "-m", f"hydra/launcher={launcher}", *both_at_once, *grid], cwd=tmp_path,
        env=os.environ | faults("1=hang,2=hang"), start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: [len(lines) for lines in samples(tmp_path).values()] == [1, 1])
    send(process.pid, number)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted: what was done is kept" in err
    assert [len(lines) for lines in samples(tmp_path).values()] == [1, 1]
    assert {run.status for run in mlflow_runs(tmp_path)} == {"KILLED"}
    again = start(tmp_path, *grid)  # our own launcher resumes them, and waits for nothing
    assert again.code == 0, again.err
    assert all([s["index"] for s in job] == list(range(16)) for job in timeless_samples(tmp_path).values())


# ----------------------------------------------------------------------------------------- what is
# not supported


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("launcher", "setting", "message"),
    [
        ("basic", "job_timeout_s=9", "job_timeout_s=9: hydra/launcher=basic cannot enforce this limit. Use hydra/launcher=workers"),
        ("submitit_local", "job_timeout_s=9", "job_timeout_s=9: hydra/launcher=submitit_local cannot enforce this limit. Use hydra.launcher.timeout_min=..."),
        ("joblib", "workers=3", "workers=3: hydra/launcher=joblib sets this itself. Use hydra.launcher.n_jobs=3"),
    ],
)  # fmt: skip
def test_settings_that_only_our_launcher_supports_are_rejected(
    runner: Callable[..., Any], python_for: Callable[[str], str], launcher: str, setting: str, message: str
) -> None:
    python_for(launcher)
    done = runner("-m", f"hydra/launcher={launcher}", "model=stub", setting)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"1 job: 1 to do\nerror: {message}\n"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("choice", "extra"), [("hydra/launcher=joblib", "joblib"), ("hydra/launcher=submitit_local", "submitit")]
)
def test_a_missing_package_is_named(
    runner: Callable[..., Any], tmp_path: Path, choice: str, extra: str
) -> None:
    hidden_packages.assert_named(runner, tmp_path, choice, extra)
