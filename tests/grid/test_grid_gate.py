"""gate.baseline: one command runs a grid, prints the gate's report and ends with its exit code.

The embedded model: a candidate with repetition_penalty=3 may hardly repeat a digit, so it is worse.
A penalty of 1 changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grids import Grid, kill, mlflow_runs, results, samples, wait_for
from raising import raises

from runner.config.gate import GateConfig
from runner_base import ConfigError
from runner_base.errors import Code

pytestmark = [
    pytest.mark.slow,  # grids are processes
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
Run = Callable[..., Any]  # the fixture `runner`: takes arguments, returns a finished command
BASELINE = "generation=greedy generation.max_new_tokens=96"
JOBS = ("task.limit=24", "generation.max_new_tokens=96", "workers=1")
GATE = (*JOBS, f"gate.baseline={BASELINE}")
RUN = (*GATE, "gate.margin=25", "print=json")
EARLY_STOP = (*JOBS, f"task.early_stop_vs={BASELINE}")
WORSE, ALIKE = (f"generation.repetition_penalty={penalty}" for penalty in ("3", "1"))
BOTH = "generation.repetition_penalty=null,3,1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of these tests. Later grids reuse the answers of earlier ones."""
    return tmp_path_factory.mktemp("gate")


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    """Return the verdict of each candidate by the value in its name."""
    return {each["name"].rpartition("=")[2]: each["verdict"] for each in report["candidates"]}


def planned_ids(text: str) -> set[str]:
    return {*re.findall(r"gsm8k-[0-9a-f]{12}", text)}


def test_each_candidate_gets_its_verdict_as_from_two_commands(runner: Run, folder: Path) -> None:
    done = runner("-m", *RUN, BOTH, cwd=folder)
    report = done.json()
    assert done.code == report["exit_code"] == 1, done.err
    assert verdicts(report) == {"3.0": "NO-GO", "1.0": "GO"}
    asked = {job["params"]["generation.repetition_penalty"]: job["result"]["metrics"]["n"]
             for job in results(folder).values()}  # fmt: skip
    assert asked["3.0"] < asked["null"] == 24, "it stopped early"
    tags = {run.job_id: run.tags.get("verdict") for run in mlflow_runs(folder) if not run.is_grid}
    assert {tags[job_id] for it in report["candidates"] for job_id in it["job_ids"]} == {"NO-GO", "GO"}
    separate = runner(
        "gate", "generation.repetition_penalty=null", "--grid", "last", "--margin", "25", "--json",
        module="runner_compare", cwd=folder,
    )  # fmt: skip
    assert separate.code == 1
    assert separate.json()["candidates"] == report["candidates"]


def test_the_exit_code_is_the_verdicts(runner: Run, folder: Path) -> None:
    good = runner("-m", *RUN, "generation.repetition_penalty=null,1", cwd=folder)
    assert (good.code, verdicts(good.json())) == (0, {"1.0": "GO"}), good.err
    undecided = runner(
        "-m", *GATE, "gate.margin=1", "print=json", "generation.repetition_penalty=null,1", cwd=folder
    )
    assert (undecided.code, verdicts(undecided.json())) == (3, {"1.0": "ASK"})


@pytest.mark.thorough
def test_a_single_job_is_compared_with_its_baseline(runner: Run, folder: Path, tmp_path: Path) -> None:
    alone = runner(*RUN, WORSE, cwd=tmp_path)
    assert alone.code == 2, "the baseline is not there"
    assert runner("-m", *RUN, BOTH, cwd=folder).code == 1
    single = runner(*RUN, WORSE, cwd=folder)
    assert (single.code, [*verdicts(single.json()).values()]) == (1, ["NO-GO"])
    single = runner(*RUN, ALIKE, cwd=folder)
    assert (single.code, [*verdicts(single.json()).values()]) == (0, ["GO"])


def test_the_jobs_are_those_of_two_commands_and_a_plan_runs_nothing(runner: Run, tmp_path: Path) -> None:
    plan = (BOTH, "plan=quick", "print=full", "tracking=none")
    gate = runner("-m", *GATE, "gate.margin=2", *plan)
    stop = runner("-m", *EARLY_STOP, "task.early_stop_margin=2", *plan)
    assert (gate.code, stop.code) == (0, 0)
    assert not (tmp_path / "outputs" / "jobs").exists()
    ids = [planned_ids(done.out) for done in (gate, stop)]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 3


@pytest.mark.thorough
def test_with_each_a_job_decides_at_5_percent(runner: Run) -> None:
    plan = (BOTH, "plan=quick", "print=full", "tracking=none")
    each = runner("-m", *GATE, "gate.margin=2", "gate.each=true", *plan)
    alone = runner("-m", *EARLY_STOP, "task.early_stop_margin=2",
                   "task.early_stop_comparisons=1", *plan)  # fmt: skip
    shared = runner("-m", *GATE, "gate.margin=2", *plan)
    assert planned_ids(each.out) == planned_ids(alone.out) != planned_ids(shared.out)


def test_a_candidate_that_cannot_run_is_no_go_with_its_name(runner: Run) -> None:
    words = ("quantization=none,awq", "task.limit=4", "gate.baseline=quantization=none", "gate.margin=2")
    done = runner("-m", *words, "tracking=none", "print=json", "workers=1")
    report = done.json()
    assert (done.code, verdicts(report)) == (1, {"awq": "NO-GO"})
    assert {check["reason"] for it in report["candidates"] for check in it["checks"]} == {"no_result"}


@pytest.mark.thorough
def test_jobs_that_break_are_no_go_beside_those_that_are_good(grid: Callable[..., Grid]) -> None:
    """Each seed has a baseline of its own. Those of seed 1 break."""
    done = grid(
        "model=stub", "task=likelihood", "task.limit=60", "generation=greedy,sampling", "seed=0,1",
        "gate.baseline=generation=greedy", "gate.margin=0.02nats", "print=json", "tracking=none",
        faults={1: "raise"},
    ).wait()  # fmt: skip
    report = json.loads(done.out.splitlines()[-1])
    states = {it["name"]: [check["reason"] for check in it["checks"]] for it in report["candidates"]}
    assert done.code == 1, done.err
    assert {name for name, reasons in states.items() if reasons == ["no_result"]} == {
        "generation=greedy seed=1", "generation=sampling seed=1",
    }  # fmt: skip


@pytest.mark.thorough
def test_a_kill_and_the_same_command_give_the_same_verdicts(
    grid: Callable[..., Grid], runner: Run, folder: Path
) -> None:
    words = (*RUN, BOTH)
    whole = runner("-m", *words, cwd=folder).json()
    first = grid(*words)
    wait_for(lambda: any(len(lines) >= 10 for lines in samples(first.folder).values()))
    kill(first.process)
    assert not all(job["status"] == "FINISHED" for job in results(first.folder).values()) or (
        len(results(first.folder)) < 3
    )
    done = grid(*words).wait()
    again = json.loads(done.out.splitlines()[-1])
    assert (done.code, again["candidates"]) == (1, whole["candidates"])


@pytest.mark.thorough
def test_tasks_without_early_stopping_are_tested_at_their_limit(runner: Run) -> None:
    gate = ("gate.baseline=quantization=none", "gate.margin=0.02nats")
    words = ("task=likelihood", "task.limit=60", *gate, "tracking=none", "workers=1", "print=json")
    missing = runner("-m", *words, "quantization=int8")
    assert missing.code == 2, "the grid lacks the baseline"
    done = runner("-m", *words, "quantization=none,int8")
    assert (done.code, verdicts(done.json())) == (0, {"int8": "GO"})


@pytest.mark.thorough
def test_a_policy_in_the_config_decides_by_task_and_for_all_tasks(runner: Run, tmp_path: Path) -> None:
    rules = "gate.policy={must:[{margin:60,pool:true},{task:likelihood,margin:1nats}]}"
    sizes = ("task=gsm8k,instructions,likelihood", "task.limit=60", "generation.max_new_tokens=96")
    words = ("-m", *sizes, "gate.baseline=quantization=none", rules, "print=json")
    done = runner(*words, "quantization=none,int8", cwd=tmp_path)
    (candidate,) = done.json()["candidates"]
    panels = {check["panel"]: check["verdict"] for check in candidate["checks"]}
    assert (done.code, candidate["verdict"]) == (0, "GO"), done.err
    assert panels == {"all tasks": "GO", "gsm8k": "GO", "instructions": "ASK", "likelihood": "GO"}


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"baseline": "quantization=none"}, "missing", "gate.baseline"),
        ({"baseline": " ", "margin": "2"}, "bad_value", "gate.baseline"),
        ({"margin": "2"}, "no_effect", "gate.margin"),
        ({"each": True}, "no_effect", "gate.each"),
        ({"policy": "policy.yaml"}, "no_effect", "gate.policy"),
        ({"baseline": "quantization=none", "policy": 3}, "bad_value", "gate.policy"),
        ({"baseline": "quantization=none", "policy": "a.yaml", "margin": "2"}, "conflict", "gate.margin"),
        ({"baseline": "quantization=none", "margin": "-2"}, "bad_value", "gate.margin"),
        ({"baseline": "quantization=none", "margin": "two"}, "bad_value", "gate.margin"),
    ],
)
def test_a_wrong_key_is_named(keys: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        GateConfig(**keys)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("quantization=none,int8", "gate.baseline=quantization=non", "gate.margin=2"), "gate.baseline=quantization=non"),
        (("quantization=none", "gate.baseline=quantization=none", "gate.margin=2"), "gate.baseline=quantization=none"),
        (("quantization=none,int8", "gate.baseline=quantization=none", "gate.margin=2,3"), "gate"),
        (("quantization=none,int8", "gate.baseline=quantization=none", "gate.margin=1nats"), "task.early_stop_margin=1nats"),
    ],
)  # fmt: skip
def test_a_gate_that_cannot_decide_is_rejected_before_a_job_runs(
    runner: Run, tmp_path: Path, words: tuple[str, ...], key: str
) -> None:
    done = runner("-m", *words, "tracking=none")
    assert done.code == 2
    assert f"error: {key}: " in done.err
    assert not (tmp_path / "outputs" / "jobs").exists()


@pytest.mark.parametrize("key", ["task.cluster=template", "task.rotate=2", "task.repeat_index=1"])
def test_jobs_answer_all_questions_if_these_are_not_independent(runner: Run, key: str) -> None:
    words = ("--cfg", "job", "--resolve", "-p", "task", "gate.baseline=quantization=none", "gate.margin=2")
    assert "early_stop_vs: quantization=none" in runner(*words).out
    assert "early_stop_vs: null" in runner(*words, key).out
