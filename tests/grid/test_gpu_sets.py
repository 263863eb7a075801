"""Which GPUs the workers of a grid get; what happens to a job whose GPU fails. No GPU is needed: they are listed."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from grids import results

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import ResourceNeed
from runner.grid.gpu_sets import GpuAllocator, GpuSet
from runner.grid.live_view import GridView
from runner.grid.plan import PlannedJob, predict_resources
from runner.grid.worker_limits import WorkerLimits, compute_worker_limits
from runner.grid.worker_process import Worker
from runner.grid.workers import WorkerPool
from runner.records.jobs import Job
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import machine, visible_gpus
from runner_base.errors import get_fatal_gpu_error_message
from runner_base.progress import ProgressState
from runner_base.visible_gpus import Gpu
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
FOUR = [Gpu(str(number), "H100", f"GPU-{number}") for number in range(4)]
NO = frozenset[int]()


@pytest.fixture
def on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four GPUs."""
    monkeypatch.setattr(machine, "resolve_device_class", lambda device: "cpu" if device == "cpu" else "cuda")
    monkeypatch.setattr(machine, "visible_gpu_models", lambda: [gpu.model for gpu in FOUR])
    monkeypatch.setattr(visible_gpus, "find_visible_gpus", lambda: FOUR)
    monkeypatch.setattr(visible_gpus, "measure_free_gpu_memory_mib", list)


@pytest.mark.usefixtures("on_gpus")
@pytest.mark.parametrize(
    ("keys", "gpus", "named"),
    [
        ({"device": "cpu"}, 0, NO),
        ({}, 1, NO),
        ({"device": "cuda"}, 1, NO),
        ({"device": "cuda:1"}, 1, {1}),
        ({"device_map": "auto", "max_memory": {"0": "1GB", "2": "1GB", "cpu": "1GB"}}, 3, NO),
        ({"device_map": "auto", "max_memory": {"cpu": "1GB"}}, 0, NO),
        ({"device_map": "auto"}, 4, NO),  # nothing is known of their memory
    ],
)
def test_a_job_says_how_many_gpus_it_needs(
    make_config: Make, keys: dict[str, Any], gpus: int, named: set[int]
) -> None:
    config = make_config(model=LocalModelConfig(name="embedded", **keys))
    need = predict_resources(resolve_job(config))
    assert need.gpus == gpus
    assert need.named_gpus == named


@pytest.mark.usefixtures("on_gpus")
@pytest.mark.parametrize(
    ("shares", "gpus"), [([2, 2, 2, 2], 1), ([0.5, 2, 2, 1], 2), ([0.1, 0.1, 0.1, 0.1], 4)]
)
def test_a_spread_model_needs_as_many_gpus_as_hold_it(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, shares: list[float], gpus: int
) -> None:
    resolved = resolve_job(make_config(model=LocalModelConfig(name="embedded", device_map="auto")))
    mib = predict_resources(resolved).mib
    monkeypatch.setattr(
        visible_gpus, "measure_free_gpu_memory_mib", lambda: [share * mib for share in shares]
    )
    assert predict_resources(resolved).gpus == gpus


def needs(gpus: int = 1, *named: int) -> ResourceNeed:
    return ResourceNeed(0.0, 1, gpus, frozenset(named))


def test_sets_of_gpus_are_as_large_as_needed_and_not_shared() -> None:
    sets = GpuAllocator(FOUR)
    of_two = sets.allocate_gpus(needs(2), Counter())
    assert of_two == GpuSet(frozenset({0, 1}), {"CUDA_VISIBLE_DEVICES": "0,1"})
    used = Counter({0: 1, 1: 1})
    assert sets.allocate_gpus(needs(), used) == GpuSet(frozenset({2}), {"CUDA_VISIBLE_DEVICES": "2"})
    assert sets.allocate_gpus(needs(3), used) is None
    assert sets.allocate_gpus(needs(9), Counter()) == sets.allocate_gpus(needs(4), Counter()), (
        "all, where it needs more"
    )
    assert sets.allocate_gpus(needs(), used, avoided_gpus={2}) == GpuSet(
        frozenset({3}), {"CUDA_VISIBLE_DEVICES": "3"}
    )
    assert sets.allocate_gpus(needs(0), used) == GpuSet(), "a job on the CPU takes none"
    assert sets.allocate_gpus(needs(1, 1), Counter()) == GpuSet(frozenset({1})), (
        "a number means that of all that are seen"
    )
    assert sets.allocate_gpus(needs(1, 1), used) is None
    assert sets.allocate_gpus(needs(1, 7), Counter()) == sets.allocate_gpus(needs(), Counter()), (
        "the job itself will say that 7 is absent"
    )
    assert of_two is not None
    assert not sets.can_run_on_gpu_set(of_two, needs())
    assert not sets.can_run_on_gpu_set(GpuSet(frozenset({1})), needs()), (
        "it was started for jobs of cuda:1, and sees cuda:0"
    )
    assert GpuAllocator(FOUR, are_shared=True).allocate_gpus(
        needs(), Counter({0: 2, 1: 1, 2: 1, 3: 2})
    ) == GpuSet(frozenset({1}), {"CUDA_VISIBLE_DEVICES": "1"})
    parts = [replace(gpu, name=f"MIG-{gpu.name}", is_part=True) for gpu in FOUR]
    assert GpuAllocator(parts).allocate_gpus(needs(2), Counter({0: 1})) == GpuSet(
        frozenset({1}), {"CUDA_VISIBLE_DEVICES": "MIG-1"}
    ), "a process sees one part at most"


def pool_of(
    make_config: Make, jobs: dict[str, list[ResourceNeed]], limits: WorkerLimits, folder: Path
) -> WorkerPool:
    """Return a pool for jobs of these bases."""
    plan: list[PlannedJob] = []
    for base, each in jobs.items():
        for need in each:
            config = make_config(task=Gsm8kConfig())
            planned = PlannedJob([], config, resolved=resolve_job(config), base=base)
            planned.job, planned.resource_need = Job(f"job-{len(plan)}", folder / str(len(plan))), need
            plan.append(planned)
    numbers = [*range(len(plan))]
    return WorkerPool(
        plan=plan, numbers=numbers, view=GridView([], 0), limits=limits, log_folder=folder, gpus=FOUR
    )


@pytest.mark.usefixtures("on_gpus")
def test_workers_on_gpus_and_on_the_cpu_are_counted_apart(make_config: Make, tmp_path: Path) -> None:
    jobs = {"a": [needs(2)] * 3, "b": [needs()], "": [needs(0)] * 3}
    pool = pool_of(make_config, jobs, WorkerLimits(1, 1), tmp_path)
    limits = compute_worker_limits(pool.plan, pool.numbers, "auto")
    assert (limits.total, limits.is_given) == (limits.on_cpu + 4, False)
    assert compute_worker_limits(pool.plan, pool.numbers[:4], "auto") == WorkerLimits(4, 0)
    assert compute_worker_limits(pool.plan, pool.numbers, "3") == WorkerLimits(3, 3, is_given=True)


@pytest.mark.parametrize(
    ("load_s", "work_s", "share"),
    [(60.0, 20.0, []), (60.0, 29.0, []), (60.0, 31.0, [2, 4]), (0.0, 100.0, [])],
    ids=["short", "nearly", "longer", "not yet known"],
)
def test_a_free_gpu_takes_half_of_the_jobs_if_they_take_longer_than_the_load(
    make_config: Make, tmp_path: Path, load_s: float, work_s: float, share: list[int]
) -> None:
    pool = pool_of(make_config, {"a": [needs()] * 5}, WorkerLimits(4, 0), tmp_path)
    busy = Worker(
        cast(Any, None),
        cast(Any, None),
        tmp_path,
        deque([1, 2, 3, 4]),
        GpuSet(frozenset({0}), {"x": "0"}),
        1,
        0,
    )
    busy.load_s, busy.s_per_cost = load_s, work_s
    pool._workers = [busy]
    assert pool._steal_queued_jobs() == deque(share)
    assert busy.todo == deque(number for number in [1, 2, 3, 4] if number not in share)


def test_the_last_job_goes_to_a_free_gpu_if_it_would_wait_for_longer_than_the_load(
    make_config: Make, tmp_path: Path
) -> None:
    pool = pool_of(make_config, {"a": [needs()] * 2}, WorkerLimits(4, 0), tmp_path)
    busy = Worker(
        cast(Any, None), cast(Any, None), tmp_path, deque([1]), GpuSet(frozenset({0}), {"x": "0"}), 1, 0
    )
    busy.update_job_time_estimates(ProgressState("loads", 0, 10), 1.0)
    assert busy.load_s == 0, "nothing of the work is done"
    busy.since -= 30
    pool._workers = [busy]
    for left_s, share in ((20.0, []), (1e9, [1])):
        busy.update_job_time_estimates(ProgressState("works", 1, 10, left_s=left_s), 1.0)
        busy.load_s = 30.0
        assert pool._steal_queued_jobs() == deque(share)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory."), False),
        (RuntimeError("device-side assert"), False),
    ],
)
def test_a_gpu_is_lost_by_an_error_that_is_no_shortage_of_memory(error: Exception, lost: bool) -> None:
    hiding = ValueError("a model's own code hides it")
    hiding.__cause__ = error
    assert bool(get_fatal_gpu_error_message(hiding)) is lost


# ------------------------------------------------------------------------------- whole grids, of
# processes

SMI = f"""#!{sys.executable}
import sys
for number in range(2):
    print(f"GPU {{number}}: NVIDIA H100 (UUID: GPU-{{number}})" if "-L" in sys.argv else f"GPU-{{number}}, 70000")
"""
# each job of the stub needs one GPU, and writes which it sees; NEEDS="1=2": that with seed 1 needs
# two. LOST=3,3: that with seed 3 loses its GPU the first two times
SITE = """
import os, pathlib, sys, time
from runner.engines.kinds import ResourceNeed, stub

needs = dict(one.split("=") for one in os.environ.get("NEEDS", "").split(",") if one)
lost = os.environ.get("LOST", "").split(",")
begin, answer = stub.StubEngine.__init__, stub.StubSession._answer_request

def need(self, resolved):
    words = needs.get(str(resolved.config.seed), "1")
    named = frozenset({int(words[1:])} if words[0] == "n" else ())
    return ResourceNeed(0.0, 1, 1 if named else int(words), named)

def note(word, seed):
    with open("events", "a") as events:
        events.write(f"{time.monotonic()} {word} {seed} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}\\n")

def start(self, config, *rest):
    begin(self, config, *rest)
    self.seed = str(config.seed)
    note("begins", self.seed)
    close = self.close
    self.close = lambda: (note("ends", self.seed), close())

def fail(self, request):
    seed = self.engine.seed
    before = pathlib.Path("events").read_text().count(f" begins {seed} ")
    if before <= lost.count(seed):
        import torch
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    return answer(self, request)

stub.StubKind.predict_resources, stub.StubEngine.__init__, stub.StubSession._answer_request = need, start, fail
stub.StubKind.base_key = lambda self, config: os.environ.get("BASE", "")
from runner.tasks import gsm8k
"""


@pytest.fixture
def with_gpus(tmp_path: Path) -> dict[str, str]:
    """The environment of a grid on two GPUs."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    program = tmp_path / "site" / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    return {"PYTHONPATH": str(tmp_path / "site"), "PATH": f"{tmp_path / 'site'}:{os.environ['PATH']}"}


STUB = ("model=stub", "task.limit=3", "model.delay_s=0.1", "tracking=none")


def events_of(folder: Path) -> list[tuple[float, str, int, int, str]]:
    lines = [line.split() for line in (folder / "events").read_text().splitlines()]
    return [(float(at), word, int(seed), int(process), sees) for at, word, seed, process, sees in lines]


@pytest.mark.thorough
@pytest.mark.slow
def test_no_two_jobs_of_a_grid_have_the_same_gpu(grid: Callable[..., Any], with_gpus: dict[str, str]) -> None:
    started = grid(*STUB, "seed=range(0,6)", NEEDS="1=2,3=n1,4=0", **with_gpus)
    ended = started.wait()
    assert ended.code == 0, ended.err
    events = events_of(started.folder)
    sees = {seed: visible for _, word, seed, _, visible in events if word == "begins"}
    assert [sees[0], sees[1], sees[3], sees[4]] == ["0", "0,1", "all", "all"]
    assert {sees[2], sees[5]} <= {"0", "1"}
    has = {seed: set(visible.split(",")) for seed, visible in sees.items()} | {3: {"1"}, 4: set()}
    now: set[int] = set()
    for _, word, seed, _, _ in sorted(events):
        if word == "begins":
            assert not any(has[seed] & has[other] for other in now), events
            now.add(seed)
        else:
            now.discard(seed)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_ends_that_has_lost_its_gpu_and_its_job_is_repeated_once_elsewhere(
    grid: Callable[..., Any], with_gpus: dict[str, str], times: int
) -> None:
    started = grid(
        *STUB, "seed=range(0,5)", "workers=1", LOST=",".join(["1"] * times), BASE="the same", **with_gpus
    )
    ended = started.wait()
    assert ended.code == times - 1, ended.err
    why = "AcceleratorError: CUDA error: device-side assert triggered"
    assert f"REPEATED seed=1: the worker cannot use GPU 0 any more: {why}" in ended.err
    assert ended.err.count("REPEATED") == 1
    assert f"the job ran again on GPU 1, because it failed on GPU 0: {why}" in ended.err
    status = {int(result["params"]["seed"]): result["status"] for result in results(started.folder).values()}
    assert status == {seed: "FAILED" if seed == times - 1 == 1 else "FINISHED" for seed in range(5)}
    begun = [
        (seed, process, sees)
        for _, word, seed, process, sees in events_of(started.folder)
        if word == "begins"
    ]
    assert [seed for seed, _, _ in begun] == [0, 1, 2, 3, 4, 1], "its other jobs first"
    assert [sees for _, _, sees in begun] == ["0", "0", "1", "1", "1", "1"]
    assert len({process for _, process, _ in begun}) == 2, "no job came to the process that had lost its GPU"


# A grid sees these durations instead of those that it measures: the load of a base, and the work
# that a job has left. Of five jobs, a free GPU would get two; the work of one is less than a load.
GIVEN_DURATIONS = """
import time
from dataclasses import replace
from runner.engines.kinds import ResourceNeed, local
from runner.grid.worker_process import Worker

local.LocalKind.predict_resources = lambda *_: ResourceNeed(0.0, 1, 1)
update_times = Worker.update_job_time_estimates

def update_given_times(self, step, cost):
    if step.left_s is not None:
        self.since, step = time.monotonic() - {load_s}, replace(step, left_s={work_s})
    update_times(self, step, cost)

Worker.update_job_time_estimates = update_given_times
"""


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("load_s", "work_s", "loads"), [(60.0, 20.0, 1), (60.0, 40.0, 2)], ids=["short", "long"]
)
def test_jobs_of_a_base_are_shared_where_they_take_longer_than_its_load(
    grid: Callable[..., Any], with_gpus: dict[str, str], load_s: float, work_s: float, loads: int
) -> None:
    keys = (
        "model.device=cpu",
        "model.dtype=float32",
        "generation.max_new_tokens=64",
        "task.limit=200",
        "tracking=none",
        "print=json",
    )
    site = Path(with_gpus["PYTHONPATH"]) / "sitecustomize.py"
    site.write_text(GIVEN_DURATIONS.format(load_s=load_s, work_s=work_s))
    ended = grid(*keys, "seed=range(0,6)", **with_gpus).wait()
    assert ended.code == 0, ended.err
    metrics = [json.loads(line)["metrics"] for line in ended.out.splitlines()]
    assert len(metrics) == 6
    assert sum(it["base_loads"] for it in metrics) == loads
    assert not re.search("Traceback", ended.err)
