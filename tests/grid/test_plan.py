"""The plan of a grid: how many workers it gets, which jobs go first, and which counts are
rejected."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast, get_args, get_origin, get_type_hints

import pytest
from absurd_counts import ABSURD, planned_state

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.config.task import TaskConfig
from runner.config.tasks import TASKS
from runner.config.wording import PromptStyle
from runner.grid.gpu_sets import GpuSet
from runner.grid.live_view import GridView
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import PlannedJob, PlanState, plan_job
from runner.grid.worker_limits import WorkerLimits, group_jobs_by_model
from runner.grid.worker_process import Worker
from runner.grid.workers import WorkerPool
from runner.records.jobs import Job
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.result import Status

Make = Callable[..., RunnerConfig]


def planned(make_config: Make, task: TaskConfig, **groups: Any) -> PlannedJob:
    config = make_config(task=task, **groups)
    return PlannedJob([], config, resolved=resolve_job(config))


def pool_of(plan: list[PlannedJob], folder: Path) -> WorkerPool:
    numbers, view = [*range(len(plan))], GridView([], 0)
    return WorkerPool(plan=plan, numbers=numbers, view=view, limits=WorkerLimits(2, 2), log_folder=folder)


def test_a_job_waits_for_its_reference_if_the_grid_has_it(make_config: Make, tmp_path: Path) -> None:
    plan = [planned(make_config, Gsm8kConfig()) for _ in range(4)]
    for number, (job_id, after) in enumerate([("a", "c"), ("b", "elsewhere"), ("c", ""), ("d", "c")]):
        plan[number].job, plan[number].after = Job(job_id, tmp_path / job_id), after
    pool = pool_of(plan, tmp_path)
    pool._groups = group_jobs_by_model(plan, pool.numbers)
    first_two = [pool._dequeue_startable_job_group(), pool._dequeue_startable_job_group()]
    assert first_two == [deque([2]), deque([1])]
    pool._workers = [cast(Worker, SimpleNamespace(current=2, gpus=GpuSet()))]
    assert pool._dequeue_startable_job_group() is None, "both others wait for the running one"
    pool.outcomes[2] = JobOutcome(Status.FINISHED)
    assert [
        pool._dequeue_startable_job_group(),
        pool._dequeue_startable_job_group(),
        pool._dequeue_startable_job_group(),
    ] == [deque([0]), deque([3]), None]


def test_an_idle_worker_takes_half_of_another_ones_jobs_but_none_that_waits(
    make_config: Make, tmp_path: Path
) -> None:
    plan = [planned(make_config, Gsm8kConfig()) for _ in range(6)]
    for number, one in enumerate(plan):
        one.job = Job(f"job-{number}", tmp_path / str(number))
    plan[4].after, plan[5].after = "job-1", "elsewhere"
    pool = pool_of(plan, tmp_path)
    busy = cast(Worker, SimpleNamespace(current=0, todo=deque([1, 2, 3, 4, 5]), gpus=GpuSet()))
    pool._workers = [busy]
    assert pool._steal_queued_jobs() == deque(), "unless the user has asked for so many workers"
    pool.limits = WorkerLimits(2, 2, is_given=True)
    assert (pool._steal_queued_jobs(), busy.todo) == (deque([2, 5]), deque([1, 3, 4]))
    assert pool._steal_queued_jobs() == deque([3])
    assert (pool._steal_queued_jobs(), busy.todo) == (deque(), deque([1, 4])), (
        "one is its own, one waits for it"
    )


def test_of_jobs_that_share_a_base_the_reference_goes_first(make_config: Make) -> None:
    plan = [planned(make_config, Gsm8kConfig()) for _ in range(3)]
    for one in plan:
        one.base = "the same"
    plan[0].after = plan[2].after = "x"
    assert group_jobs_by_model(plan, [0, 1, 2]) == deque([deque([1, 0, 2])])


# the parts limit their counts, and a maker's counts are asked for beside a recipe
OTHERWISE = ("split", "merge", "verify", "archive", "quantize")
COUNTS = [
    (task, key)
    for task, schema in TASKS.items()
    if task not in OTHERWISE
    for key, hint in get_type_hints(schema).items()
    if {int, float, list[int], Any} & {hint, *get_args(hint)} and get_origin(hint) is not ClassVar
]


@pytest.mark.parametrize(("task", "key"), COUNTS)
def test_no_count_is_so_large_that_a_plan_does_not_end(make_config: Make, task: str, key: str) -> None:
    is_list = get_origin(get_type_hints(TASKS[task])[key]) is list
    state = planned_state(make_config, task, **{key: [ABSURD] if is_list else ABSURD})
    assert state in (PlanState.todo, PlanState.impossible) or f"task.{key}=" in state, state


@pytest.mark.sampled(13)
@pytest.mark.parametrize(
    ("task", "keys", "message"),
    [
        ("gsm8k", {"limit": ABSURD}, "task.limit=1000000000000: the embedded data set provides at most 100,000 questions"),
        ("gsm8k", {"limit": ABSURD, "shuffle_seed": 1}, "task.limit=1000000000000: the embedded data set provides at most 100,000 questions"),
        ("likelihood", {"limit": ABSURD}, "task.limit=1000000000000: the embedded data set provides at most 100,000 questions"),
        ("gsm8k", {"shots": ABSURD}, "task.shots=1000000000000: the embedded data set provides at most 100,000 questions"),
        ("gsm8k", {"samples": ABSURD}, "task.samples=1000000000000: must lie in 1..10,000"),
        ("gsm8k", {"prompt": PromptStyle.lm_eval_5shot, "offset": ABSURD}, "task.offset=1000000000000: task.prompt=lm_eval_5shot draws 5 examples"),
        ("sweep", {"batch_sizes": [ABSURD]}, "task.batch_sizes=[1000000000000] with task.prompt_tokens=[64, 256]: the largest batch has 256,000,000,000,000 prompt tokens"),
        ("sweep", {"arrival_rates": [1e12]}, "task.arrival_rates=[1000000000000.0] in task.arrival_duration_s=30 seconds: each arrival rate gets 30,000,000,000,000 requests"),
        ("sweep", {"arrival_rates": [1.0], "arrival_requests": ABSURD}, "task.arrival_requests=1000000000000: each arrival rate gets 1,000,000,000,000 requests"),
        ("sweep", {"repeats": ABSURD}, "task.repeats=1000000000000: must lie in 1..10,000"),
        ("sweep", {"warmup": ABSURD}, "task.warmup=1000000000000: must lie in 0..10,000"),
        ("memory", {"repeats": ABSURD}, "task.repeats=1000000000000: must lie in 1..10,000"),
        ("memory", {"context_lengths": [ABSURD]}, "task.batch_size=8 with task.context_lengths=[1000000000000]: the largest batch has"),
        ("memory", {"batch_sizes": [ABSURD]}, "task.batch_sizes=[1000000000000] with task.prompt_tokens=256: the largest batch has"),
    ],
)  # fmt: skip
def test_a_count_that_would_fill_the_memory_is_rejected_by_name(
    make_config: Make, task: str, keys: dict[str, Any], message: str
) -> None:
    assert planned_state(make_config, task, **keys).startswith(message)


def test_a_large_offset_is_allowed(make_config: Make) -> None:
    assert planned_state(make_config, "gsm8k", offset=ABSURD, limit=3) == PlanState.todo


def test_a_job_that_cannot_work_yet_takes_its_share_of_the_error(make_config: Make) -> None:
    task = Gsm8kConfig(
        limit=4,
        data="/nowhere/questions.jsonl",
        early_stop_vs="generation=greedy generation.max_new_tokens=12",
    )
    absent = plan_job([], make_config(task=task))
    assert absent.problem
    assert absent.is_compared, "once the file is there, the other jobs of the grid keep their shares and ids"
    assert not plan_job([], make_config(task=replace(task, early_stop_vs=None))).is_compared
    unreadable = replace(task, early_stop_vs="generation=greedy generation.max_new_token=12")
    assert not plan_job([], make_config(task=unreadable)).is_compared
