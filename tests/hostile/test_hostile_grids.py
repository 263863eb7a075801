"""A few faults of bench/faults.py at chosen moments: kills while a difference is decided, and a
second process.

In the end the results of every job are those of an undisturbed grid, and MLflow has each job once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_evidence import check, evidence
from grids import Grid, end_at, put_choices, put_clock, wait_for

pytestmark = pytest.mark.thorough

QUESTIONS = 32
WHOLE = "generation=greedy generation.max_new_tokens=96 generation.batch_size=4"
CHOICES = {
    "model": {"real": "model@_here_, _self_]\nname: embedded\ndevice: cpu\ndtype: float32\n"},
    "task": {"solve": f"gsm8k@_here_, _self_]\nlimit: {QUESTIONS}\nearly_stop_vs: {WHOLE}\n"},
    "generation": {
        "whole": "greedy@_here_, _self_]\nmax_new_tokens: 96\nbatch_size: 4\n",
        "short": "greedy@_here_, _self_]\nmax_new_tokens: 3\nbatch_size: 4\n",
    },
}  # fmt: skip
# samples on disk: within the baseline, and while the difference is decided
MOMENTS = (1, QUESTIONS // 2, QUESTIONS + 3)
Start = Callable[..., Grid]


@pytest.fixture
def start(tmp_path: Path, new_database: Callable[[Path], None]) -> Iterator[Start]:
    """Return a function that starts the grid in a folder; `name` begins the names of its output
    files."""
    put_choices(tmp_path / "conf", **CHOICES)
    started: list[Grid] = []

    def call(folder: str, name: str = "", **environment: str) -> Grid:
        if not (tmp_path / folder).exists():
            new_database(tmp_path / folder / "outputs" / "mlflow.db")
        grid = [
            "model=real",
            "task=solve",
            "generation=whole,short",
            "generation.batch_size=4",
            "workers=2",
            "print=none",
        ]
        started.append(
            Grid(tmp_path / folder, [f"--config-dir={tmp_path / 'conf'}", "-m", *grid], environment, name)
        )
        return started[-1]

    yield call
    for one in started:
        one.end()


@pytest.fixture
def truth(start: Start, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The results of the undisturbed grid, whose second job stops before its last question."""
    done = start("undisturbed").wait()
    assert done.code == 0, done.err
    of_jobs = evidence(tmp_path / "undisturbed")
    (decided,) = [job for job in of_jobs.values() if job["metrics"].get("questions_left")]
    assert decided["metrics"]["questions_asked"] < QUESTIONS
    return of_jobs


def wait_until_written(grid: Grid, lines: int) -> None:
    """Wait until a grid's jobs have written so many samples, or it has ended."""
    files = "outputs/jobs/*/samples.jsonl"
    wait_for(
        lambda: (
            sum(file.read_bytes().count(b"\n") for file in grid.folder.glob(files)) >= lines
            or grid.process.poll() is not None
        )
    )


def test_kills_change_neither_the_decision_nor_the_samples(
    start: Start, truth: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder, kills = tmp_path / "killed", 0
    for moment in MOMENTS:
        grid = start("killed")
        wait_until_written(grid, moment)
        if grid.process.poll() is None:
            end_at(grid.process.pid, signal.SIGKILL)
            kills += grid.process.wait() == -signal.SIGKILL
    done = start("killed").wait()
    assert done.code == 0, done.err
    assert kills == len(MOMENTS)
    check(folder, truth)


def test_two_processes_share_a_grid_while_the_clock_of_one_jumps(
    start: Start, truth: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    jumps = put_clock(tmp_path / "clock")
    one = start("shared")
    wait_until_written(one, 1)
    other = start("shared", "other_", **jumps)
    codes = [grid.wait().code for grid in (one, other)]
    assert 0 in codes, (one.err.read_text(), other.err.read_text())
    last = start(
        "shared", "last_"
    ).wait()  # whether or not the others failed at jobs that another process was doing
    assert last.code == 0, last.err
    check(tmp_path / "shared", truth)
