"""A real Ray: every job is done once, whatever happens to nodes, jobs and the grid, with a shared
disk and without."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grids import (
    FAULTS,
    Grid,
    assert_each_done_once,
    mlflow_runs,
    results,
    samples,
    statuses,
    timeless,
    wait_for,
)
from ray_cluster import ENVIRONMENT, RayCluster, missing, running_ray

from runner.config.root import RunnerConfig
from runner.grid.plan import plan_job
from runner.options.launchers.ray_jobs import Mailbox, RayJobRequest, SharedFile, run_ray_job
from runner.tasks.gsm8k.keys import Gsm8kConfig

CLUSTER = pytest.mark.skipif(bool(missing()), reason=missing() or "it can be had")
THOROUGH = pytest.mark.thorough
SENDS_OFTEN = """
if "default_worker.py" in " ".join(sys.orig_argv):
    from runner.options.launchers import ray_jobs

    ray_jobs.SEND_EVERY_S = 0.5
"""
Start = Callable[..., Grid]
pytest.importorskip("ray", reason="Ray is not installed: pip install 'runner-llm[ray]'")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder whose path is short enough for a socket, and which nodes need not see."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def faulty(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that gives the variables with which jobs on nodes break by seed, and send
    samples each second."""

    def variables(faults: str = "") -> dict[str, str]:
        (tmp_path / "in_jobs").mkdir()
        (tmp_path / "in_jobs" / "sitecustomize.py").write_text(f"{FAULTS}{SENDS_OFTEN}")
        return {"PYTHONPATH": str(tmp_path / "in_jobs"), "FAULTS": faults}

    return variables


def on(cluster: RayCluster, grid: Start, *arguments: str, **keys: Any) -> Grid:
    """Start a grid on the cluster's head."""
    ray = ("hydra/launcher=ray", f"hydra.launcher.address={cluster.address}", "model=stub")
    return grid(*ray, *arguments, within=cluster.on_head, place=cluster.folder, **ENVIRONMENT, **keys)


def begun(cluster: RayCluster) -> list[int]:
    """Return how many samples each job has that has some, on the head's disk."""
    return [len(lines) for lines in samples(cluster.folder / "work").values() if lines]


def node_amid_a_job(cluster: RayCluster) -> str | None:
    """Return a node with a job that has sent some samples and has most of them before it."""
    amid = [job for job, lines in samples(cluster.folder / "work").items() if 0 < len(lines) <= 3]
    return next((node for job in amid if (node := cluster.node_of(job))), None)


# -------------------------------------------------------------------------------------- nothing is
# shared


@CLUSTER
@THOROUGH
@pytest.mark.parametrize("shares_folder", [False, True])
def test_a_node_is_killed_amid_a_grid(
    folder: Path, grid: Start, faulty: Callable[..., dict[str, str]], shares_folder: bool
) -> None:
    """The jobs of the dead node go on from the samples that it has sent; nothing is lost, nothing
    is done twice."""
    with running_ray(folder, faulty(), shares_folder=shares_folder) as cluster:
        jobs = ("seed=range(1,13)", "task.limit=6", "model.delay_s=1", "print=json")
        launched = on(cluster, grid, *jobs)
        node = wait_for(lambda: len(results(launched.folder)) >= 2 and node_amid_a_job(cluster))
        before = samples(launched.folder)
        assert len(results(launched.folder)) < 8, "the node dies amid the grid"
        cluster.kill_node(node)
        ended = launched.wait(300)
        assert ended.code == 0, ended.err
        assert 1 <= ended.err.count(" has died: the job starts again on another node") <= cluster.cores
        assert len(ended.out.splitlines()) == 12
        assert_each_done_once(launched.folder, 12, 6)
        assert statuses(launched.folder).count("FINISHED") == 12
        others = {status for status in statuses(launched.folder) if status != "FINISHED"}
        # a node with the grid's disk logs by itself: the run of its dead job goes on, or is KILLED
        # if nothing was kept
        assert others <= ({"KILLED"} if shares_folder else set())
        kept = samples(launched.folder)
        assert all(kept[job][: len(lines)] == lines for job, lines in before.items()), (
            "what was sent is not done again"
        )
    again = grid("model=stub", *jobs, place=folder).wait()
    assert (again.code, again.err.splitlines()[0]) == (0, "12 jobs: 12 done"), (
        "our own launcher finds them done"
    )


@CLUSTER
@THOROUGH
@pytest.mark.parametrize("shares_folder", [False, True])
def test_the_same_grid_gives_the_same_results(folder: Path, grid: Start, shares_folder: bool) -> None:
    jobs = ("seed=1,2,3,4", "generation=greedy,sampling", "task.limit=3")
    with running_ray(folder, shares_folder=shares_folder) as cluster:
        launched = on(cluster, grid, *jobs)
        ended = launched.wait()
        assert ended.code == 0, ended.err
    assert_each_done_once(launched.folder, 8, 3)
    assert statuses(launched.folder) == ["FINISHED"] * 8
    (parent,) = (run for run in mlflow_runs(launched.folder) if run.is_grid)
    assert {
        run.tags.get("mlflow.parentRunId") for run in mlflow_runs(launched.folder) if not run.is_grid
    } == {parent.run_id}
    other = grid("model=stub", *jobs, folder="home")
    at_home = other.wait()
    assert at_home.code == 0, at_home.err
    assert timeless(launched.folder) == timeless(other.folder)
    ours, theirs = ([line.strip(" ─").split()[:4] for line in it.out.splitlines()] for it in (ended, at_home))
    assert ours == theirs, "but for seconds, and thus for how wide the table is"
    assert sorted(path.name for path in (launched.folder / "outputs" / "jobs").iterdir()) == sorted(
        results(other.folder)
    )


@CLUSTER
@THOROUGH
def test_jobs_that_fail_fail_alone(folder: Path, grid: Start, faulty: Callable[..., dict[str, str]]) -> None:
    with running_ray(folder, faulty("1=hang,2=raise,3=kill")) as cluster:
        jobs = ("seed=1,2,3,4", "task.limit=3")
        launched = on(cluster, grid, *jobs, "job_timeout_s=15")
        ended = launched.wait()
        assert ended.code == 1, ended.err
        assert "FAILED: seed=1: still running after job_timeout_s=15\n" in ended.err
        assert "FAILED: seed=2: RuntimeError: out of luck\n" in ended.err
        assert "FAILED: seed=3: Ray lost the process of this job" in ended.err
        assert ended.err.endswith("error: 3 of 4 jobs did not finish. See errors above\n")
        assert "Traceback" not in ended.err
        assert sorted(result["status"] for result in results(launched.folder).values()) == ["FAILED"] * 3 + [
            "FINISHED"
        ]
    again = grid("model=stub", *jobs, place=folder).wait()
    assert again.code == 0, again.err
    assert_each_done_once(folder / "work", 4, 3)


@CLUSTER
@THOROUGH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_grid_keeps_what_was_done(
    folder: Path, grid: Start, faulty: Callable[..., dict[str, str]], number: signal.Signals
) -> None:
    with running_ray(folder, faulty("1=hang,2=hang,3=hang,4=hang")) as cluster:
        jobs = ("seed=range(1,7)", "task.limit=4")
        launched = on(cluster, grid, *jobs)
        wait_for(lambda: begun(cluster) == [1] * 4)
        launched.process.send_signal(number)
        ended = launched.wait()
        assert ended.code == 130, ended.err
        assert "interrupted: what was done is kept" in ended.err
        assert begun(cluster) == [1] * 4
        assert [result["status"] for result in results(launched.folder).values()] == ["KILLED"] * 4
    again = grid("model=stub", *jobs, place=folder).wait()
    assert (again.code, again.err.splitlines()[0]) == (0, "6 jobs: 2 to do, 4 to resume")
    assert_each_done_once(folder / "work", 6, 4)


@CLUSTER
@THOROUGH
def test_what_a_node_lacks_is_said(folder: Path, grid: Start) -> None:
    with running_ray(folder) as cluster:
        (folder / "work").mkdir()
        (folder / "work" / "own.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
        ended = on(cluster, grid, "task=gsm8k", "task.data=own.jsonl", "seed=1,2", "tracking=none").wait()
        assert ended.code == 2, ended.err
        assert "own.jsonl" in ended.err
        assert "(on " in ended.err
        assert "Traceback" not in ended.err


# ------------------------------------------------------------------------------------------- on
# this machine


@THOROUGH
def test_ray_starts_on_this_machine_and_a_slow_start_is_repeated(grid: Start, tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_RAY)
    environment = {"PYTHONPATH": str(tmp_path / "slow"), "FAILED_ONCE": str(tmp_path / "once")}
    launched = grid(
        "hydra/launcher=ray", "model=stub", "seed=1,2", "task.limit=3", "workers=1", **environment
    )
    ended = launched.wait()
    assert ended.code == 0, ended.err
    assert re.search("Ray did not start within 30 s.*2 of 3$", ended.err, re.MULTILINE), ended.err
    assert ended.out.count(" finished  ") == 2
    assert_each_done_once(launched.folder, 2, 3)


# Ray's first start fails as on a busy machine, after its processes were started
SLOW_RAY = """
import sys

if "runner" in " ".join(sys.orig_argv):
    import os
    import ray._private.node
    from pathlib import Path

    start, once = ray._private.node.Node.__init__, Path(os.environ["FAILED_ONCE"])

    def start_slowly(node, *args, head=False, **keys):
        start(node, *args, head=head, **keys)
        if head and not once.exists():
            once.touch()
            raise Exception("The current node timed out during startup. This could happen because of the load.")

    ray._private.node.Node.__init__ = start_slowly
"""


@THOROUGH
def test_a_cluster_that_is_not_there_is_one_line(grid: Start) -> None:
    ended = grid(
        "hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:9", "model=stub", "tracking=none"
    ).wait()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1] == (
        "error: hydra.launcher.address=127.0.0.1:9: nothing answers there: [Errno 111] Connection refused"
    )


# ---------------------------------------------------------------------------------------- on a node


def assignment(config: RunnerConfig, shared: SharedFile, job_id: str = "") -> RayJobRequest:
    """Return what a node gets for a job."""
    planned = plan_job([], config)
    return RayJobRequest(0, job_id or planned.job_id, config, "", os.getcwd(), shared)


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A mailbox in this process."""
    import ray

    class Told:
        def __init__(self) -> None:
            self.box, self.report_job_state = Mailbox(), self

        def remote(self, *words: Any) -> bool:
            return self.box.report_job_state(*words)

    monkeypatch.setattr(ray, "get", lambda value: value)
    return Told()


def test_a_node_without_the_shared_disk_sends_files_and_logs_nothing(
    make_config: Callable[..., RunnerConfig], mailbox: Any, tmp_path: Path
) -> None:
    config = make_config(task=Gsm8kConfig(limit=2))
    delivery = run_ray_job(assignment(config, SharedFile(str(tmp_path / "no"), "x")), mailbox)
    assert delivery.outcome.status == "FINISHED"
    assert delivery.files is not None
    with tarfile.open(fileobj=io.BytesIO(delivery.files)) as files:
        assert {"samples.jsonl", "result.json", "config.yaml"} <= set(files.getnames())
    assert not (Path(config.output_dir) / "jobs").exists()
    # the control: with the disk, it works there and sends nothing
    (tmp_path / "yes").write_text("x")
    delivery = run_ray_job(assignment(config, SharedFile(str(tmp_path / "yes"), "x")), mailbox)
    assert (delivery.outcome.status, delivery.files) == ("FINISHED", None)
    assert (Path(config.output_dir) / "jobs" / delivery.job_id).is_dir()


def test_another_model_or_other_data_on_a_node_is_another_job(
    make_config: Callable[..., RunnerConfig], mailbox: Any, tmp_path: Path
) -> None:
    config = make_config(task=Gsm8kConfig(limit=2))
    delivery = run_ray_job(
        assignment(config, SharedFile(str(tmp_path / "no"), "x"), "gsm8k-000000000000"), mailbox
    )
    assert delivery.files is None
    assert delivery.outcome.status == "FAILED"
    assert delivery.outcome.exit_code == 2
    assert delivery.outcome.message.startswith(
        "job gsm8k-000000000000 has other model or data files on this Ray node (job gsm8k-"
    )
