"""A margin for all tasks together: the pooled test decides, and a task counts only if it shows a loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner_base import ConfigError
from runner_compare import main
from runner_compare.release_gate.command import create_gate_parser, decide
from runner_compare.release_gate.policy_file import read_release_gate_policy
from runner_compare.release_gate.verdicts import GateVerdict, list_run_verdicts
from tools.gate_situations import Job

TASKS = ("gsm8k", "instructions", "code")
SMALL = Job("int8", 1, 1, n=100, right=70)  # a single task of this size cannot decide about 3 points
Gate = Callable[..., tuple[int, Any]]


def write_tasks(folder: Path, jobs: Mapping[str, Job]) -> None:
    for task, job in jobs.items():
        replace(job, task=task, question=f"{task}: {{}}?").write(folder / task)


@pytest.fixture
def gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Gate:
    """Return a function that runs the gate on one candidate's jobs, by task."""

    def call(jobs: Mapping[str, Job], *arguments: str) -> tuple[int, Any]:
        candidates = tmp_path / f"candidates-{len([*tmp_path.iterdir()])}"
        write_tasks(candidates, jobs)
        sizes = {task: replace(job, quantization="none", lost=0, won=0) for task, job in jobs.items()}
        write_tasks(candidates.with_name(f"base-{candidates.name}"), sizes)
        capsys.readouterr()
        base = tmp_path / f"base-{candidates.name}"
        code = main(["gate", str(base), str(candidates), "--json", *arguments])
        return code, json.loads(capsys.readouterr().out)["candidates"][0]["checks"]

    return call


def pooled_and_tasks(checks: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (pooled,) = [check for check in checks if check["panel"] == "all tasks"]
    return pooled, [check for check in checks if check is not pooled]


def test_all_tasks_together_decide_what_no_single_task_decides(gate: Gate) -> None:
    jobs = dict.fromkeys(TASKS, SMALL)
    code, checks = gate(jobs, "--margin", "3", "--pool")
    pooled, tasks = pooled_and_tasks(checks)
    assert (code, pooled["verdict"], pooled["decisive"]) == (0, "GO", True)
    assert [(check["verdict"], check["decisive"]) for check in tasks] == [("ASK", False)] * len(TASKS)
    code, checks = gate(jobs, "--margin", "3")
    assert code == 3, "without --pool, each task has to decide"
    assert all(check["decisive"] for check in checks)


def test_a_loss_that_one_task_shows_is_no_go_even_if_another_task_gains(gate: Gate) -> None:
    jobs = {
        "gsm8k": Job("int8", 60, 0, n=400, right=200),
        "instructions": Job("int8", 0, 60, n=400, right=200),
    }
    code, checks = gate(jobs, "--margin", "10", "--pool")
    pooled, tasks = pooled_and_tasks(checks)
    assert (code, pooled["value"], pooled["verdict"]) == (1, 0, "GO")
    verdicts = {check["panel"]: (check["verdict"], check["decisive"]) for check in tasks}
    assert verdicts == {"gsm8k": ("NO-GO", True), "instructions": ("GO", True)}


def test_a_loss_of_all_tasks_is_no_go_that_no_single_task_shows(gate: Gate) -> None:
    code, checks = gate(dict.fromkeys(TASKS, Job("fp4", 16, 2, n=100, right=70)), "--margin", "3", "--pool")
    pooled, tasks = pooled_and_tasks(checks)
    assert (code, pooled["verdict"]) == (1, "NO-GO")
    assert {check["verdict"] for check in tasks} == {"ASK"}


def test_each_run_gets_the_verdict_of_all_tasks_in_mlflow(tmp_path: Path) -> None:
    write_tasks(tmp_path / "base", dict.fromkeys(TASKS, replace(SMALL, quantization="none", lost=0, won=0)))
    write_tasks(tmp_path / "jobs", dict.fromkeys(TASKS, SMALL))
    words = [str(tmp_path / "base"), str(tmp_path / "jobs"), "--margin", "3", "--pool"]
    logged = list_run_verdicts(decide(create_gate_parser().parse_args(words)))
    assert [verdict for verdict, _ in logged.values()] == [GateVerdict.go] * len(TASKS)
    assert all({"delta_points", "delta_low"} <= {*numbers} for _, numbers in logged.values())


@pytest.mark.parametrize(
    "rule",
    [
        {"task": "gsm8k", "margin": 2, "pool": True},
        {"max": {"model_mib": 3}, "pool": True},
        {"margin": "5%", "pool": True},
    ],
)
def test_a_pooled_rule_is_for_all_tasks_and_a_margin_that_they_share(rule: dict[str, Any]) -> None:
    options = create_gate_parser().parse_args(["base"])
    options.policy = {"must": [rule]}
    with raises(ConfigError, "conflict", "policy, must rule 1"):
        read_release_gate_policy(options)


def test_one_task_cannot_be_pooled(tmp_path: Path) -> None:
    write_tasks(tmp_path / "base", {"gsm8k": replace(SMALL, quantization="none", lost=0, won=0)})
    write_tasks(tmp_path / "jobs", {"gsm8k": SMALL})
    words = [str(tmp_path / "base"), str(tmp_path / "jobs"), "--margin", "3", "--pool"]
    with raises(ConfigError, "empty", "--pool"):
        decide(create_gate_parser().parse_args(words))
