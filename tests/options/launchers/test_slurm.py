"""A real Slurm: every job is done once, whatever happens to nodes, jobs and the grid's own
process."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grids import Grid, assert_each_done_once, results, samples, statuses, timeless, wait_for
from slurm import INSTALL, Slurm, missing, running_slurm

pytestmark = pytest.mark.skipif(
    bool(missing()), reason=f"Slurm is not installed ({INSTALL}): {' '.join(missing())}"
)
THOROUGH = pytest.mark.thorough
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "model=stub")
Start = Callable[..., Grid]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A new folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cluster(short_folder: Path) -> Iterator[Slurm]:
    """A Slurm of two idle nodes with two cores each."""
    with running_slurm(short_folder) as running:
        yield running


def ended_jobs(folder: Path) -> int:
    """Return how many jobs have a result."""
    return len(results(folder))


@pytest.mark.slow
def test_a_small_grid(cluster: Slurm, grid: Start) -> None:
    launched = grid(*SLURM, "seed=1,2", "task.limit=2", **cluster.environment)
    ended = launched.wait()
    assert ended.code == 0, ended.err
    assert ended.err.splitlines()[0] == "2 jobs: 2 to do"
    assert sorted(line.partition(" ")[0] for line in ended.err.splitlines()[1:]) == ["[1/2]", "[2/2]"]
    assert ended.out.count(" finished  ") == 2
    assert_each_done_once(launched.folder, 2, 2)


@THOROUGH
def test_24_jobs_as_arrays_are_the_same_as_at_home(short_folder: Path, grid: Start) -> None:
    jobs = ("seed=range(1,25)", "task.limit=3")
    with running_slurm(short_folder, largest_array=10) as cluster:
        launched = grid(*SLURM, "hydra.launcher.array_parallelism=3", *jobs, **cluster.environment)
        at_once: list[int] = []
        while launched.process.poll() is None:
            at_once.append(len(cluster.jobs("running")))
            time.sleep(0.2)
        ended = launched.wait()
        assert ended.code == 0, ended.err
        arrays = {job.partition("_")[0] for job in cluster.jobs()}
    assert max(at_once) == 3
    assert len(arrays) == 3, "of 10, 10 and 4 jobs, as many as this Slurm takes"
    assert_each_done_once(launched.folder, 24, 3)
    assert statuses(launched.folder) == ["FINISHED"] * 24
    at_home = grid("model=stub", *jobs, folder="home").wait()
    assert at_home.code == 0, at_home.err
    assert timeless(launched.folder) == timeless(launched.folder.with_name("home"))
    assert [line.split()[:3] for line in ended.out.splitlines()] == [
        line.split()[:3] for line in at_home.out.splitlines()
    ]
    again = grid("model=stub", *jobs).wait()
    assert "24 jobs: 24 done" in again.err, "our own launcher finds them done"


@THOROUGH
def test_a_node_is_drained_and_another_killed(cluster: Slurm, grid: Start) -> None:
    launched = grid(
        *SLURM, "seed=range(1,25)", "task.limit=4", "model.delay_s=1", "print=json", **cluster.environment
    )
    wait_for(lambda: ended_jobs(launched.folder) >= 2)
    cluster.drain("alpha")
    wait_for(
        lambda: (
            cluster.states()["alpha"].startswith("drain") and "alpha" not in cluster.jobs("running").values()
        )
    )
    before = ended_jobs(launched.folder)
    wait_for(lambda: ended_jobs(launched.folder) > before + 1)  # on the other node
    cluster.ask("scontrol", "update", "nodename=alpha", "state=resume")
    started = samples(launched.folder)
    wait_for(
        lambda: any(
            0 < len(lines) < 4 for job, lines in samples(launched.folder).items() if job not in started
        )
    )
    on_beta = [job for job, node in cluster.jobs("running").items() if node == "beta"]
    assert on_beta
    assert ended_jobs(launched.folder) < 20, "the node dies amid the grid"
    cluster.kill_node("beta")
    ended = launched.wait(400)
    assert ended.code == 0, ended.err
    assert "down" in cluster.states()["beta"]
    assert len(ended.out.splitlines()) == 24
    assert_each_done_once(launched.folder, 24, 4)
    killed = [status for status in statuses(launched.folder) if status != "FINISHED"]
    assert set(killed) <= {"KILLED"}
    assert 1 <= len(killed) <= len(on_beta), "a job that has begun on the dead node leaves one more run"


@THOROUGH
def test_a_job_over_its_time_limit_resumes(cluster: Slurm, grid: Start) -> None:
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    job = ("seed=1,2", "task.limit=40", "model.delay_s=1", "print=json")
    launched = grid(*SLURM, *limit, "hydra.launcher.max_num_timeout=20", *job, **cluster.environment)
    ended, folder = launched.wait(400), launched.folder
    assert ended.code == 0, ended.err
    assert_each_done_once(folder, 2, 40)
    assert statuses(folder)[:2] == ["FINISHED"] * 2
    assert statuses(folder)[2:], "it was too long for one start"
    assert set(statuses(folder)[2:]) == {"KILLED"}
    # the control: without a restart it is not finished, and the same command goes on from its
    # samples
    fewer = grid(
        *SLURM, *limit, "hydra.launcher.max_num_timeout=0", *job, folder="none left", **cluster.environment
    )
    ended = fewer.wait(400)
    assert (ended.code, ended.out) == (1, ""), ended.err
    over = "the job exceeded its time limit (hydra.launcher.timeout_min=1) after hydra.launcher.max_num_timeout=0 restarts"
    assert ended.err.count(f"{over}. Run the same command to resume\n") == 4, "when each ends, and at the end"
    assert {result["status"] for result in results(fewer.folder).values()} == {"KILLED"}
    kept = samples(fewer.folder)
    assert all(0 < len(lines) < 40 for lines in kept.values())
    again = grid("model=stub", *job[:2], "print=json", folder="none left").wait()
    assert (again.code, again.err.splitlines()[0]) == (0, "2 jobs: 2 to resume")
    assert_each_done_once(fewer.folder, 2, 40)
    assert all(samples(fewer.folder)[name][: len(lines)] == lines for name, lines in kept.items())


@THOROUGH
def test_jobs_that_die_and_one_that_is_cancelled_end_alone(cluster: Slurm, grid: Start) -> None:
    jobs = ("seed=1,2,3,4", "task.limit=3")
    launched = grid(*SLURM, *jobs, faults={1: "hang", 2: "raise", 3: "kill"}, **cluster.environment)
    wait_for(lambda: ended_jobs(launched.folder) == 2 and len(cluster.jobs("running")) == 1)
    assert list(cluster.jobs("running")) == ["1_0"]
    cluster.ask("scancel", "1_0")
    ended = launched.wait()
    assert ended.code == 1, ended.err
    assert "KILLED: seed=1: cancelled in Slurm (see " in ended.err
    assert "FAILED: seed=2: RuntimeError: out of luck\n" in ended.err
    assert (
        "FAILED: seed=3: hydra/launcher=submitit_slurm lost the process of this job: FAILED (see "
        in ended.err
    )
    assert ended.err.endswith("error: 3 of 4 jobs did not finish. See errors above\n")
    assert "Traceback" not in ended.err
    assert statuses(launched.folder).count("FINISHED") == 1
    assert "RUNNING" not in statuses(launched.folder)
    again = grid(*SLURM, *jobs, **cluster.environment).wait()
    assert (again.code, again.err.splitlines()[0]) == (0, "4 jobs: 3 to resume, 1 done")
    assert_each_done_once(launched.folder, 4, 3)


@THOROUGH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_grid_cancels_its_jobs(cluster: Slurm, grid: Start, number: signal.Signals) -> None:
    jobs = ("seed=range(1,9)", "task.limit=3")
    launched = grid(*SLURM, *jobs, faults=dict.fromkeys((1, 2, 3, 4), "hang"), **cluster.environment)
    wait_for(lambda: [len(lines) for lines in samples(launched.folder).values()] == [1] * 4)
    launched.process.send_signal(number)
    ended = launched.wait()
    assert ended.code == 130, ended.err
    assert "cancelling 8 jobs in Slurm\n" in ended.err
    assert "interrupted: what was done is kept" in ended.err
    assert cluster.jobs("pending,running") == {}, "none runs on, none will start"
    assert {result["status"] for result in results(launched.folder).values()} == {"KILLED"}
    assert statuses(launched.folder) == ["KILLED"] * 4
    again = grid(*SLURM, *jobs, **cluster.environment).wait()
    assert (again.code, again.err.splitlines()[0]) == (0, "8 jobs: 4 to do, 4 to resume")
    assert_each_done_once(launched.folder, 8, 3)


@THOROUGH
def test_a_grid_that_dies_leaves_its_jobs_to_the_next(cluster: Slurm, grid: Start) -> None:
    job = (*SLURM, "seed=range(1,9)", "task.limit=4", "model.delay_s=1", "print=json")
    launched = grid(*job, **cluster.environment)
    wait_for(lambda: len(samples(launched.folder)) >= 2)
    launched.end()  # its jobs stay in the queue, and the next grid submits them a second time
    again = grid(*job, **cluster.environment).wait(400)
    assert again.code == 0, again.err
    assert len(again.out.splitlines()) == 8
    assert_each_done_once(launched.folder, 8, 4)
    assert statuses(launched.folder) == ["FINISHED"] * 8


@pytest.mark.slow
def test_what_slurm_refuses_is_one_line(cluster: Slurm, grid: Start) -> None:
    ended = grid(
        *SLURM, "seed=1,2", "hydra.launcher.partition=gpu", "tracking=none", **cluster.environment
    ).wait()
    assert (ended.code, ended.out) == (2, "")
    first, *sbatch, last = ended.err.splitlines()
    assert first == "2 jobs: 2 to do"
    assert sbatch[0] == "sbatch: error: invalid partition specified: gpu"
    assert last.startswith(
        "error: hydra/launcher=submitit_slurm did not start the jobs: sbatch: error: invalid partition"
    )
    assert "Traceback" not in ended.err
