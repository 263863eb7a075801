"""Policy files of a gate: tiers, tasks, the shared error rate, and mistakes in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner_base import Answer, ConfigError, FinishReason, Likelihood, Record, RunnerError, Sample, Status
from runner_base import Result as JobResult
from runner_compare import main
from runner_compare.release_gate.command import create_gate_parser, decide
from runner_compare.release_gate.policy_file import read_release_gate_policy
from runner_compare.release_gate.verdicts import Tier
from tools.gate_situations import SAME, WORSE, Job

Gate = Callable[..., tuple[int, Any]]
DOCUMENTS = 60


def write_likelihood_job(folder: Path, quantization: str, shift_nats: float) -> None:
    """Write a finished task=likelihood job whose documents of 10 tokens differ by a shift from the baseline's."""
    folder.mkdir(parents=True)
    nats = [-1.0 - number % 7 / 10 + shift_nats * (1 + number % 3 / 10) for number in range(DOCUMENTS)]
    samples = [
        Sample(
            answer=Answer("", [number, 1], FinishReason.stop),
            prompt_sha256=f"{number:064x}",
            prompt_tokens=5,
            seconds=0.1,
            index=number,
            question=f"document {number}",
            gold="",
            likelihood=Likelihood(number, value, 10, 40, 40, 5),
        )
        for number, value in enumerate(nats)
    ]
    (folder / "samples.jsonl").write_text("".join(f"{sample.to_json()}\n" for sample in samples))
    metrics = {"log_likelihood_nats_per_token": sum(nats) / (10 * DOCUMENTS), "n": float(DOCUMENTS)}
    record = Record(
        folder.name,
        Status.FINISHED,
        str(folder),
        JobResult(metrics, facts={}),
        task="likelihood",
        task_version=1,
        params={"model.name": "m", "quantization.name": quantization, "task.name": "likelihood"},
        started_at=f"2026-11-30T10:00:00+00:00 {folder.name}",
    )
    (folder / "result.json").write_text(record.to_json())


@pytest.fixture
def gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Gate:
    """Return a function that runs the gate with a policy on a packed baseline of two tasks."""
    Job("none", name="gsm8k-base").write(tmp_path / "base")
    write_likelihood_job(tmp_path / "likelihood-base", "none", 0.0)
    for name in ("base", "likelihood-base"):
        target = tmp_path / "packed" / f"{name}.runner.gz"
        target.parent.mkdir(exist_ok=True)
        assert main(["pack", str(tmp_path / name), "-o", str(target)]) == 0

    def call(policy: str, *arguments: str) -> tuple[int, Any]:
        (tmp_path / "policy.yaml").write_text(policy)
        capsys.readouterr()
        code = main(
            ["gate", str(tmp_path / "packed"), str(tmp_path / "jobs"), "--policy", str(tmp_path / "policy.yaml"),
             "--json", *arguments]
        )  # fmt: skip
        return code, json.loads(capsys.readouterr().out)

    return call


def decide_on(folder: Path, policy: str) -> object:
    (folder / "policy.yaml").write_text(policy)
    words = [str(folder / "packed"), str(folder / "jobs"), "--policy", str(folder / "policy.yaml")]
    return decide(create_gate_parser().parse_args(words))


def checks_by_tier(report: Any, name: str) -> dict[str, list[tuple[str, str]]]:
    candidate = next(each for each in report["candidates"] if each["name"] == name)
    return {
        tier: [(check["verdict"], check["reason"]) for check in candidate["checks"] if check["tier"] == tier]
        for tier in Tier
    }


BOTH_TASKS = "must: [{task: gsm8k, margin: 3}, {task: likelihood, margin: 0.01nats}]"


def test_each_task_has_its_margin(gate: Gate, tmp_path: Path) -> None:
    SAME.write(tmp_path / "jobs" / "0")
    write_likelihood_job(tmp_path / "jobs" / "likelihood-int8", "int8", -0.001)
    code, report = gate(BOTH_TASKS)
    assert (code, report["verdict"]) == (0, "GO")
    assert checks_by_tier(report, "int8")["must"] == [("GO", "within"), ("GO", "within")]
    assert [check["panel"] for check in report["candidates"][0]["checks"]] == ["gsm8k", "likelihood"]


def test_the_card_has_the_verdicts_of_all_rules(gate: Gate, tmp_path: Path) -> None:
    """The first rule has no accuracy, so the recovery is that of the second rule."""
    WORSE.write(tmp_path / "jobs" / "gsm8k-fp4")
    write_likelihood_job(tmp_path / "jobs" / "likelihood-fp4", "fp4", -0.001)
    rules = (
        "must: [{task: likelihood, margin: 0.01nats}, {task: gsm8k, margin: 3}]\n"
        "should: [{task: gsm8k, max: {model_mib: 10}}]"
    )
    page, picture = tmp_path / "card.html", tmp_path / "card.png"
    code, report = gate(rules, "--card", str(page), "--card", str(picture))
    html = page.read_text()
    verdicts = re.findall(r'<th scope="row">(GO|NO-GO|WARN|ASK|ERROR)</th>', html)
    assert code == 1
    assert verdicts == ["NO-GO", "GO", "WARN"]
    (candidate,) = report["candidates"]
    assert len(candidate["checks"]) == len(verdicts)
    assert f"{100 * (300 - 58) / 300:.1f} %" in html, "the recovery"
    assert str(tmp_path) not in html, "a card is published"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_loss_in_one_of_the_tasks_is_no_go(gate: Gate, tmp_path: Path) -> None:
    SAME.write(tmp_path / "jobs" / "0")
    write_likelihood_job(tmp_path / "jobs" / "likelihood-int8", "int8", -2.0)
    code, report = gate(BOTH_TASKS)
    assert (code, report["verdict"]) == (1, "NO-GO")


def test_a_candidate_without_a_result_in_a_task_is_no_go(gate: Gate, tmp_path: Path) -> None:
    SAME.write(tmp_path / "jobs" / "0")
    Job("nf4", 2, 2).write(tmp_path / "jobs" / "1")
    write_likelihood_job(tmp_path / "jobs" / "likelihood-int8", "int8", -0.001)
    code, report = gate(BOTH_TASKS)
    assert code == 1
    assert ("NO-GO", "no_task") in checks_by_tier(report, "nf4")["must"]
    assert checks_by_tier(report, "int8")["must"] == [("GO", "within"), ("GO", "within")]


def test_a_failed_rule_of_the_tier_should_does_not_change_the_verdict(gate: Gate, tmp_path: Path) -> None:
    SAME.write(tmp_path / "jobs" / "0")
    code, report = gate("must: {task: gsm8k, margin: 3}\nshould: {task: gsm8k, max: {model_mib: 10}}")
    assert (code, report["verdict"]) == (0, "GO")
    assert checks_by_tier(report, "int8")["should"] == [("NO-GO", "limit")]
    code, report = gate("must: {task: gsm8k, margin: 3, max: {model_mib: 10}}")
    assert (code, report["verdict"]) == (1, "NO-GO"), "the same limit as a must"


def test_several_tests_share_the_error_rate_of_no_go(gate: Gate, tmp_path: Path) -> None:
    """A loss that is significant at 5 %, but not at its half, is NO-GO alone and ASK beside a second test."""
    near = next(lost for lost in range(20, 60) if _is_no_go_alone(gate, tmp_path, lost))
    write_likelihood_job(tmp_path / "jobs" / "likelihood-int8", "int8", -0.001)
    code, report = gate(BOTH_TASKS)
    assert (code, checks_by_tier(report, "int8")["must"][0]) == (3, ("ASK", "beyond_share")), near


def _is_no_go_alone(gate: Gate, tmp_path: Path, lost: int) -> bool:
    folder = tmp_path / "jobs" / "0"
    for file in folder.glob("*"):
        file.unlink()
    if folder.exists():
        folder.rmdir()
    Job("int8", lost, 2).write(folder)
    code, _ = gate("must: {task: gsm8k, margin: 3}")
    return code == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("must: [", "damaged"),
        ("[]", "bad_value"),
        ("mast: {margin: 2}", "unknown_choice"),
        ("must: {margn: 2}", "unknown_choice"),
        ("must: {margin: many}", "bad_value"),
        ("must: {margin: [2, 3]}", "conflict"),
        ("must: {min: accuracy}", "bad_value"),
        ("must: {task: gsm8k}", "missing"),
        ("should: {margin: 2}", "missing"),
        ("", "bad_value"),
    ],
)
def test_a_mistake_in_the_file_is_one_message(tmp_path: Path, content: str, code: str) -> None:
    (tmp_path / "policy.yaml").write_text(content)
    options = create_gate_parser().parse_args(["base", "--policy", str(tmp_path / "policy.yaml")])
    with pytest.raises(RunnerError) as error:
        read_release_gate_policy(options)
    assert error.value.code == code
    assert str(tmp_path / "policy.yaml") in error.value.key


def test_a_file_and_options_for_the_same_requirement_conflict(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("must: {margin: 2}")
    options = create_gate_parser().parse_args(
        ["base", "--policy", str(tmp_path / "policy.yaml"), "--margin", "3"]
    )
    with raises(ConfigError, "conflict", "--margin"):
        read_release_gate_policy(options)


@pytest.mark.usefixtures("gate")
def test_a_task_that_the_baseline_lacks_is_an_error(tmp_path: Path) -> None:
    SAME.write(tmp_path / "jobs" / "0")
    with raises(ConfigError, "unknown_choice", "task"):
        decide_on(tmp_path, "must: {task: gsm8, margin: 2}")
