"""Grids and workers are killed at random moments; in the end all results are as without kills."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grids import Grid, end_at, mlflow_runs, results, samples, without_time

Start = Callable[..., Grid]  # the fixture `grid`: arguments in, a started grid out
pytestmark = pytest.mark.slow

SEED = 20
# half of the jobs wait in a slow stub, the others compute
SLOW_STUB = "defaults: [/hydra/schema/model/stub@_here_, _self_]\ndelay_s: 0.1\n"
REAL = "defaults: [/hydra/schema/model/model@_here_, _self_]\nname: embedded\ndevice: cpu\ndtype: {}\n"
ANSWERS = ("accuracy", "accuracy_low", "accuracy_high", "n", "correct", "wrong", "no_answer", "cut_off",
           "prompt_tokens", "new_tokens")  # fmt: skip


def jobs_of(folder: Path, models: str = "slow,real", dtype: str = "float32") -> list[str]:
    """A grid of six jobs for each model: the stub, and the embedded one."""
    (folder / "conf" / "model").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "model" / "slow.yaml").write_text(SLOW_STUB)
    (folder / "conf" / "model" / "real.yaml").write_text(REAL.format(dtype))
    return [
        f"--config-dir={folder / 'conf'}",
        f"model={models}",
        "seed=0,1,2",
        "generation=greedy,sampling",
        "task.limit=12",
        "workers=2",
    ]


def answers(folder: Path) -> dict[str, dict[str, float]]:
    """Return each job's results without times and memory."""
    return {
        job_id: {key: result["result"]["metrics"][key] for key in ANSWERS}
        for job_id, result in results(folder).items()
    }


def samples_by_index(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Return every job's samples by index, without their times; assert that no index is
    duplicated."""
    by_job = {}
    for job_id, lines in samples(folder).items():
        by_job[job_id] = {line["index"]: without_time(line) for line in lines}
        assert len(by_job[job_id]) == len(lines), f"a duplicate sample in {job_id}"
    return by_job


def check_mlflow(folder: Path, jobs: int) -> Counter[str]:
    """Assert that no run is RUNNING and each job is FINISHED once; return how the runs of jobs have
    ended."""
    runs = mlflow_runs(folder)
    grids = Counter(run.status for run in runs if run.is_grid)
    of_jobs = Counter(run.status for run in runs if not run.is_grid)
    assert "RUNNING" not in grids | of_jobs, (grids, of_jobs)
    finished = Counter(run.job_id for run in runs if run.status == "FINISHED" and not run.is_grid)
    assert len(finished) == jobs, (grids, of_jobs)
    assert set(finished.values()) == {1}, "a job that is FINISHED twice"
    assert grids == {"FINISHED": 1}, "all starts together are one grid"
    return of_jobs


def lines_in(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("outputs/jobs/*/samples.jsonl"))


class Killer:
    """Kills a grid or one of its workers at random moments."""

    def __init__(self, kills: int, seed: int) -> None:
        self.kills_left, self.chance = kills, random.Random(seed)
        self.victims: Counter[str] = Counter()

    def hunt(self, grid: Grid) -> None:
        """Kill workers until the grid ends, or the grid itself; every fifth grid may be killed
        before it has workers."""
        early = self.chance.random() < 0.2
        while not early and grid.process.poll() is None and not grid.workers():
            time.sleep(0.02)
        while self.kills_left:
            if (
                not early and self.chance.random() < 0.5
            ):  # half of the kills come while samples are being written
                before, patience = lines_in(grid.folder), time.monotonic() + 8
                while (
                    grid.process.poll() is None
                    and lines_in(grid.folder) == before
                    and time.monotonic() < patience
                ):
                    time.sleep(0.02)
                pause = time.monotonic() + self.chance.uniform(0, 0.5)
            else:
                pause = time.monotonic() + self.chance.uniform(0.2, 2)
            while grid.process.poll() is None and time.monotonic() < pause:
                time.sleep(0.02)
            if grid.process.poll() is not None:
                return
            workers = grid.workers()
            victim = "worker" if workers and self.chance.random() < 0.7 else "parent"
            end_at(self.chance.choice(workers) if victim == "worker" else grid.process.pid, signal.SIGKILL)
            self.victims[victim] += 1
            self.kills_left -= 1
            if victim == "parent":
                return


def survive(grid: Start, killer: Killer, folder: str, arguments: list[str]) -> bool:
    """Start the same grid again and again while it is killed; return whether it has finished."""
    for _ in range(60):
        # in one folder, kills may also hit the creation of the database
        started = grid(*arguments, folder=folder, database=folder != "grid_0")
        killer.hunt(started)
        code = started.wait().code
        assert code in (0, 1, -signal.SIGKILL), started.err.read_text()
        if code == 0:
            return True
    return False


@pytest.mark.parametrize(
    ("models", "jobs", "kills"),
    [("slow", 6, 3), pytest.param("slow,real", 12, 12, marks=pytest.mark.thorough)],
)
def test_kills_change_nothing(grid: Start, tmp_path: Path, models: str, jobs: int, kills: int) -> None:
    arguments = jobs_of(tmp_path, models)
    assert grid(*arguments, folder="undisturbed").wait().code == 0
    truth, metrics = samples_by_index(tmp_path / "undisturbed"), answers(tmp_path / "undisturbed")
    assert [sorted(lines) for lines in truth.values()] == [list(range(12))] * jobs

    killer = Killer(kills, SEED)
    folders = 0
    ended: Counter[str] = Counter()
    while killer.kills_left:
        name, folders = f"grid_{folders}", folders + 1
        assert survive(grid, killer, name, arguments)
        assert samples_by_index(tmp_path / name) == truth
        assert answers(tmp_path / name) == metrics
        ended += check_mlflow(tmp_path / name, jobs)
    print(f"\n{dict(killer.victims)} killed over {folders} grids of {jobs} jobs; their runs: {dict(ended)}")
    assert sum(killer.victims.values()) == kills


@pytest.mark.thorough
def test_bfloat16_after_kills(grid: Start, tmp_path: Path) -> None:
    """In bfloat16, other batches can change a token: such samples are counted, and none is lost or
    duplicated."""
    arguments = [
        *jobs_of(tmp_path, "embedded", "bfloat16"),
        "seed=0,1",
        "generation=greedy",
        "task.limit=60",
        "tracking=none",
    ]
    assert grid(*arguments, folder="undisturbed").wait().code == 0
    killer = Killer(4, SEED)
    assert survive(grid, killer, "killed", arguments)
    truth, found = samples_by_index(tmp_path / "undisturbed"), samples_by_index(tmp_path / "killed")
    assert {job: sorted(lines) for job, lines in found.items()} == {
        job: sorted(lines) for job, lines in truth.items()
    }
    differing = sum(
        found[job][index] != line for job, lines in truth.items() for index, line in lines.items()
    )
    print(
        f"\nbfloat16: {differing} of {sum(map(len, truth.values()))} samples differ after {killer.victims} kills"
    )
