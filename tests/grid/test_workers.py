"""All that can happen to a job and its worker; the other jobs finish."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grids import children, command, end_at, kill, mlflow_runs, results, samples, wait_for

from runner.engines.kinds import ResourceNeed
from runner.grid import forking, launchers, workers
from runner.grid.gpu_sets import GpuSet
from runner.grid.live_view import GridView
from runner.grid.worker_limits import WorkerLimits
from runner.grid.worker_process import Worker, start_worker_process
from runner.grid.workers import WorkerPool
from runner.run import run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.dtypes import Dtype
from runner_base.visible_gpus import Gpu
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig

Start = Callable[..., Any]  # the fixture `grid`: takes arguments, returns a started grid
STUB = ("model=stub", "task.limit=3", "workers=2")
EMBEDDED = (
    "model.device=cpu",
    "model.dtype=float32",
    "task.limit=2",
    "generation.max_new_tokens=8",
    "tracking=none",
)


def by_seed(folder: Path) -> dict[int, dict[str, Any]]:
    return {result["params"]["seed"]: result for result in results(folder).values()}


def times_printed(folder: Path, words: str) -> int:
    """Return how often workers have printed something."""
    return sum(log.read_text().count(words) for log in folder.glob("outputs/workers/*/*.log"))


def is_complete(folder: Path, jobs: int, each: int) -> bool:
    """Return whether every job has each of its samples once."""
    indices = [sorted(line["index"] for line in lines) for lines in samples(folder).values()]
    return indices == [list(range(each))] * jobs


FRESH = pytest.mark.parametrize(
    "fresh", ["false", pytest.param("true", marks=pytest.mark.thorough)], ids=["shared", "fresh"]
)


@pytest.mark.thorough
@FRESH
@pytest.mark.slow
def test_every_way_to_fail_costs_one_job(grid: Start, fresh: str) -> None:
    faults = {0: "hang", 1: "raise", 2: "sys.exit", 3: "kill", 4: "exit", 5: "segfault", 6: "interrupt"}
    arguments = (
        *STUB,
        "tracking=none",
        "job_timeout_s=30",
        "seed=range(0,10)",
        f"hydra.launcher.fresh={fresh}",
    )
    ended = (started := grid(*arguments, faults=faults)).wait()
    assert ended.code == 1, ended.err
    expected = {
        0: "FAILED seed=0: still running after job_timeout_s=30\n    | last words before hang\n",
        1: "FAILED seed=1: RuntimeError: out of luck\n",
        2: "FAILED seed=2: a plug-in or a library called sys.exit(7) in ",
        3: "FAILED seed=3: the worker was killed by SIGKILL, probably because memory ran out\n    | last words before kill\n",
        4: "FAILED seed=4: the worker ended with exit code 3\n    | last words before exit\n",
        5: "FAILED seed=5: the worker was killed by SIGSEGV\n    | last words before segfault\n",
        6: "KILLED seed=6: interrupted: 2 kept\n",
    }
    last_job = ended.err.index("[10/10]")
    for seed, message in expected.items():
        assert message in ended.err[:last_job] or seed == 0, (
            f"printed when it happens: {message}\n{ended.err}"
        )
        assert message.replace("D seed", "D: seed") in ended.err[last_job:], (
            f"and at the end: {message}\n{ended.err}"
        )
    assert "error: 7 of 10 jobs did not finish" in ended.err
    assert ended.out.count(" failed  ") == 6
    assert ended.out.count(" finished  ") == 3
    assert "Traceback" not in ended.err

    recorded = {int(seed): result for seed, result in by_seed(started.folder).items()}
    assert [recorded[seed]["status"] for seed in range(10)] == ["FAILED"] * 6 + ["KILLED"] + ["FINISHED"] * 3
    assert recorded[3]["error"].startswith("the worker was killed by SIGKILL")
    assert sorted(map(len, samples(started.folder).values())) == [1] * 6 + [2] + [3] * 3

    again = grid(*arguments).wait()
    assert again.code == 0, again.err
    assert "10 jobs: 7 to resume, 3 done" in again.err
    assert is_complete(started.folder, jobs=10, each=3)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_worker_is_failed_at_once_and_a_killed_parent_takes_its_workers_along(grid: Start) -> None:
    arguments = ("model=stub", "task.limit=4", "workers=2", "seed=0,1,2,3,4")
    started = grid(*arguments, faults={0: "hang", 1: "hang", 2: "kill"})

    wait_for(lambda: sum(map(len, samples(started.folder).values())) == 2)
    first = started.workers()
    assert len(first) == 2
    end_at(first[1], signal.SIGKILL)
    # printed while the other job still hangs
    wait_for(lambda: "probably because memory ran out" in started.err.read_text())
    assert "FAILED" in {run.status for run in mlflow_runs(started.folder)}, "MLflow is told before the user"
    assert "did not finish" not in started.err.read_text()

    # a new worker has replaced it, and died with the job with seed 2
    wait_for(lambda: len(finished(started.folder)) == 2)
    assert Counter(run.status for run in mlflow_runs(started.folder)) == {
        "RUNNING": 2,
        "FAILED": 2,
        "FINISHED": 2,
    }
    wait_for(lambda: started.workers() == first[:1])

    kill(started.process)
    assert not command(first[0])
    assert Counter(run.status for run in mlflow_runs(started.folder))["RUNNING"] == 2, (
        "no process was left to change that"
    )

    again = grid(*arguments).wait()
    assert again.code == 0, again.err
    assert is_complete(started.folder, jobs=5, each=4)
    runs = mlflow_runs(started.folder)
    assert Counter(run.status for run in runs if run.is_grid) == {"FINISHED": 1}, (
        "the same grid is the same run"
    )
    assert Counter(run.status for run in runs if not run.is_grid) == {"FINISHED": 5}, (
        "those whose workers died have their runs again"
    )
    assert len(finished(started.folder)) == 5


def finished(folder: Path) -> set[str | None]:
    """Return the jobs with a FINISHED run; assert that each has only one."""
    jobs = Counter(run.job_id for run in mlflow_runs(folder) if run.status == "FINISHED" and not run.is_grid)
    assert set(jobs.values()) <= {1}, jobs
    return set(jobs)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.slow
def test_one_interrupt_keeps_what_is_done(grid: Start, sent: signal.Signals) -> None:
    store = "sqlite" if sent is signal.SIGINT else "none"
    arguments = (*STUB, "seed=0,1,2", f"tracking={store}")
    started = grid(*arguments, faults={0: "hang", 1: "hang"})
    wait_for(lambda: times_printed(started.folder, "last words") == 2)
    assert len(started.workers()) == 2, "workers=2 is respected, though there are three jobs"
    started.process.send_signal(sent)
    ended = started.wait()
    assert ended.code == 130
    assert "interrupted: what was done is kept" in ended.err
    assert ended.err.count("KILLED: seed=0: interrupted") == 1, "the job has ended by itself"
    assert "Traceback" not in ended.err
    assert ended.out.count(" killed  ") == 2
    assert ended.out.count(" stopped  ") == 1
    assert [result["status"] for result in results(started.folder).values()] == ["KILLED", "KILLED"]
    before = samples(started.folder)
    assert [len(lines) for lines in before.values()] == [1, 1]
    if store == "none":
        return
    assert [run.status for run in mlflow_runs(started.folder)] == ["KILLED"] * 3, "two jobs and the grid"
    again = grid(*arguments).wait()
    assert again.code == 0, again.err
    assert "3 jobs: 1 to do, 2 to resume" in again.err
    assert is_complete(started.folder, jobs=3, each=3)
    assert all(samples(started.folder)[job][:1] == lines for job, lines in before.items())
    assert len(finished(started.folder)) == 3


@pytest.mark.thorough
@FRESH
@pytest.mark.slow
def test_a_second_interrupt_ends_at_once_what_does_not_listen(grid: Start, fresh: str) -> None:
    faults = {0: "deaf", 1: "hang"}
    keys = ("tracking=none", f"hydra.launcher.fresh={fresh}")
    started = grid(*STUB, "seed=0,1", *keys, faults=faults, FAULTS_GRACE_S="3600")
    wait_for(lambda: times_printed(started.folder, "last words") == 2)
    workers = started.workers()
    started.process.send_signal(signal.SIGINT)
    wait_for(lambda: "KILLED seed=1: interrupted" in started.err.read_text())
    assert started.process.poll() is None, "one Ctrl-C leaves the other job an hour"
    started.process.send_signal(signal.SIGINT)
    ended = started.wait()
    assert ended.code == 130
    assert [result["status"] for result in results(started.folder).values()] == ["KILLED", "KILLED"]
    assert not any(command(pid) for pid in workers)


@pytest.mark.thorough
@pytest.mark.slow
def test_two_grids_at_once_do_each_job_once(grid: Start) -> None:
    both = [
        grid("model=stub", "task.limit=3", "model.delay_s=0.1", "workers=2", f"seed={seeds}", folder="work")
        for seeds in ("0,1,2,3,4", "4,3,2,1,0")
    ]
    assert [started.wait().code for started in both] == [0, 0], both[0].err.read_text()
    assert is_complete(both[0].folder, jobs=5, each=3)
    assert len(finished(both[0].folder)) == 5
    assert Counter(run.status for run in mlflow_runs(both[0].folder)) == {"FINISHED": 6}, (
        "five jobs and their grid"
    )


@pytest.mark.thorough
@pytest.mark.slow
def test_jobs_that_share_a_base_load_it_once(grid: Start) -> None:
    for limit, loads in (("workers=auto", 1), ("workers=2", 2)):
        started = grid(*EMBEDDED, "seed=range(0,8)", limit, "print=json", "rerun=all")
        ended = started.wait()
        assert ended.code == 0, ended.err
        metrics = [json.loads(line)["metrics"] for line in ended.out.splitlines()]
        assert len(metrics) == 8
        assert sum(m["base_loads"] for m in metrics) == loads, (
            "two workers, if they are asked for, each load it"
        )


@pytest.mark.thorough
@pytest.mark.slow
def test_a_fresh_process_for_every_job(grid: Start) -> None:
    started = grid(*EMBEDDED, "seed=0,1,2", "hydra.launcher.fresh=true", "print=json")
    ended = started.wait()
    assert ended.code == 0, ended.err
    assert [json.loads(line)["metrics"]["base_loads"] for line in ended.out.splitlines()] == [1, 1, 1]
    workers = len(list(started.folder.glob("outputs/workers/*/worker_*.log")))
    assert workers == 1, "each job is a copy of the one worker"
    peaks = [json.loads(line)["metrics"]["load_peak_rss_mib"] for line in ended.out.splitlines()]
    assert max(peaks) < 1.05 * min(peaks), "no job finds what an earlier one has left in memory"


@pytest.mark.thorough
@pytest.mark.slow
def test_an_adapter_leaves_no_trace_on_the_base(
    grid: Start, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    settings = (
        "model.device=cpu",
        "model.dtype=float32",
        "task.split=hard5",
        "task.limit=4",
        "tracking=none",
    )
    together = 'hydra.sweeper.zip=[{lora:"none,embedded,none",seed:"0,0,1"}]'
    started = grid(*settings, together, "print=json")
    ended = started.wait()
    assert ended.code == 0, ended.err
    shared = [json.loads(line) for line in ended.out.splitlines()]
    assert sum(job["metrics"]["base_loads"] for job in shared) == 1

    def tokens_of(folder: Path, job_id: str) -> dict[int, list[int]]:
        # by question: they stand in the file in the order in which rows ended
        return {sample["index"]: sample["token_ids"] for sample in samples(folder)[job_id]}

    def alone(**groups: Any) -> tuple[str, dict[int, list[int]]]:
        config = make_config(
            model=LocalModelConfig(name="embedded", device="cpu", dtype=Dtype.float32),
            task=Gsm8kConfig(limit=4, split="hard5", cluster="template"),
            generation=GenerationConfig(),
            output_dir=str(tmp_path / "alone" / "outputs"),
            **groups,
        )
        record = run(config)
        return record.job_id, tokens_of(tmp_path / "alone", record.job_id)

    plain, adapted, other = alone(), alone(lora=PeftConfig(path="embedded")), alone(seed=1)
    for (job_id, tokens), job in zip((plain, adapted, other), shared, strict=True):
        assert job["job_id"] == job_id
        assert tokens_of(started.folder, job_id) == tokens
    assert plain[1] == other[1] != adapted[1]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_copy_costs_one_job_and_an_interrupt_reaches_the_copy(grid: Start) -> None:
    arguments = (
        "model=stub",
        "task.limit=3",
        "workers=1",
        "seed=0,1,2",
        "hydra.launcher.fresh=true",
        "tracking=none",
    )
    started = grid(*arguments, faults={0: "hang", 2: "hang"})
    wait_for(lambda: times_printed(started.folder, "last words") == 1)
    (worker,) = started.workers()
    copy = next(pid for pid in children(worker) if b"runner.grid.worker" in command(pid))
    end_at(copy, signal.SIGKILL)
    wait_for(lambda: "FAILED seed=0: the worker was killed by SIGKILL" in started.err.read_text())
    wait_for(lambda: times_printed(started.folder, "last words") == 2)
    started.process.send_signal(signal.SIGINT)
    ended = started.wait()
    assert ended.code == 130
    assert "KILLED: seed=2: interrupted" in ended.err
    recorded = {int(seed): result["status"] for seed, result in by_seed(started.folder).items()}
    assert recorded == {0: "FAILED", 1: "FINISHED", 2: "KILLED"}


def test_only_linux_without_gpus_copies_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert forking.can_fork(num_gpus=0)
    assert not forking.can_fork(num_gpus=1), "CUDA does not work in a copy"
    monkeypatch.setattr("sys.platform", "darwin")
    assert not forking.can_fork(num_gpus=0)


def test_a_new_worker_gets_the_gpu_of_a_dead_one() -> None:
    gpus = [Gpu(str(number), "H100") for number in range(2)]
    limits = WorkerLimits(2, 2, is_given=True)
    pool = WorkerPool(plan=[], numbers=[], view=GridView([], 0), limits=limits, log_folder=Path(), gpus=gpus)
    sets = [GpuSet(frozenset({number}), {"CUDA_VISIBLE_DEVICES": str(number)}) for number in range(2)]
    workers = [Worker(None, None, Path(), None, it) for it in sets]  # type: ignore[arg-type]
    need = ResourceNeed(0.0, 1, 1)
    assert pool._sets.allocate_gpus(need, pool._workers_per_gpu) == sets[0]
    pool._workers = workers[:1]
    assert pool._sets.allocate_gpus(need, pool._workers_per_gpu) == sets[1]
    pool._workers, pool._leaving = [], workers[1:]
    assert pool._sets.allocate_gpus(need, pool._workers_per_gpu) == sets[0]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """The workers that grids of this process start, by whatever part of a grid."""
    found: list[Worker] = []

    def start(*arguments: Any) -> Worker:
        found.append(start_worker_process(*arguments))
        return found[-1]

    for module in (launchers, workers):
        monkeypatch.setattr(module, "start_worker_process", start)
    return found


def test_the_process_that_imports_during_the_preparation_runs_the_jobs(
    runner: Callable[..., Any], started: list[Worker], tmp_path: Path
) -> None:
    found = runner("-m", *STUB[:2], "seed=1,2", "workers=1", f"output_dir={tmp_path}")
    assert found.code == 0, found.err
    assert [worker.jobs_given for worker in started] == [2]


def test_that_process_ends_with_a_grid_that_cannot_be_logged(
    runner: Callable[..., Any], started: list[Worker], tmp_path: Path
) -> None:
    (tmp_path / "no.db").write_text("no database")
    uri = f"tracking.uri=sqlite:///{tmp_path}/no.db"
    assert runner("-m", *STUB, "seed=1,2", uri, f"output_dir={tmp_path}").code == 2
    (idle,) = started
    assert idle.process.returncode == -signal.SIGKILL
