"""Answers that differ between two runs of a baseline: counts and warnings, from planted answers and a real
model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from json_schema import SCHEMA, faults

from runner_compare import main
from tools.gate_situations import MARGIN, SAME, Job

GREEDY = {"generation.temperature": "0.0", "generation.batch_size": "8"}
FACTS = {"machine": "m", "model_sha256": "f"}
INVARIANT = {"batch_invariant": 1.0}
BASE = Job("none", name="gsm8k-base", params=GREEDY, facts=FACTS, metrics=INVARIANT)


def repeat(
    lost: int, facts: dict[str, str] = FACTS, metrics: dict[str, float] = INVARIANT, **keys: str
) -> Job:
    params = GREEDY | {name.replace("__", "."): value for name, value in keys.items()}
    return Job("none", lost, 0, name="gsm8k-repeat", params=params, facts=facts, metrics=metrics)


def gate(tmp_path: Path, capsys: pytest.CaptureFixture[str], *jobs: Job, is_json: bool = True) -> Any:
    BASE.write(tmp_path / "base")
    assert main(["pack", str(tmp_path / "base"), "-o", str(tmp_path / "base.runner.gz")]) == 0
    for number, job in enumerate((Job("int8", 2, 2, params=GREEDY), *jobs)):
        job.write(tmp_path / "jobs" / f"{number}")
    capsys.readouterr()
    words = ["gate", str(tmp_path / "base.runner.gz"), str(tmp_path / "jobs"), *MARGIN]
    main([*words, "--json"] if is_json else words)
    out = capsys.readouterr().out
    return json.loads(out) if is_json else out


@pytest.mark.parametrize("lost", [0, 3])
def test_the_gate_counts_answers_that_differ_between_two_runs_of_the_baseline(
    lost: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = gate(tmp_path, capsys, repeat(lost, task__repeat_index="1"))
    (floor,) = report["noise_floors"]
    assert (floor["changed"], floor["questions"], floor["breaks_claim"]) == (lost, 400, lost > 0)
    assert floor["changed_texts"] is None, "a packed job has no texts"
    assert [each["name"] for each in report["candidates"]] == ["int8"], "the repeat is no candidate"


def test_the_line_of_the_gate_and_the_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = gate(tmp_path, capsys, repeat(3, task__repeat_index="1"), is_json=False).splitlines()
    at = lines.index("noise floor: 3 of 400 answers differ between two runs of the baseline (0.8 %)")
    assert lines[at + 1].startswith("warning: ")
    assert [line for line in lines if len(line) > 100 and " " in line] == [], "long lines are wrapped"


@pytest.mark.parametrize(
    "job",
    [
        repeat(3, generation__batch_size="16", facts=FACTS | {"machine": "other"}),
        repeat(3, generation__batch_size="16", metrics={}),
    ],
    ids=["another machine", "an engine without batch invariance"],
)
def test_what_no_engine_promises_is_no_broken_promise(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (floor,) = gate(tmp_path, capsys, job)["noise_floors"]
    assert (floor["changed"], floor["breaks_claim"]) == (3, False)


@pytest.mark.parametrize(
    "job",
    [
        repeat(3),
        repeat(3, generation__batch_size="16", facts=FACTS | {"model_sha256": "g"}),
        repeat(3, generation__batch_size="16", generation__top_k="5"),
    ],
    ids=["a newer build", "another model", "other sampling"],
)
def test_another_configuration_is_no_repeat(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = gate(tmp_path, capsys, job)
    assert report["noise_floors"] == []
    assert len(report["candidates"]) == 2


def test_a_comparison_counts_verdicts_and_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for job in (BASE, repeat(3, seed="1"), SAME):
        job.write(tmp_path / job.job_id)
    baseline = ["--results", str(tmp_path), "--baseline", "quantization=none"]
    capsys.readouterr()
    assert main([*baseline, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert not [*faults(document, SCHEMA)]
    (floor,) = document["tables"][0]["noise_floors"]
    assert (floor["changed"], floor["changed_texts"], floor["breaks_claim"]) == (3, 0, True)
    assert main(baseline) == 0
    assert "noise floor: 3 of 400 answers differ" in " ".join(capsys.readouterr().out.split())


@pytest.mark.thorough
def test_a_real_model_gives_equal_answers_in_batches_of_any_size_and_again(
    runner: Callable[..., Any],
) -> None:
    quick = ["task.limit=24", "task.cluster=null", "generation.batch_size=3", "print=json"]
    base = runner(*quick).json()
    for further in ("generation.batch_size=16", "rerun=all", "quantization=int8"):
        runner(*quick, further)
    words = ["gate", "quantization=none", "--margin", "2", "--json"]
    (floor,) = runner(*words, module="runner_compare").json()["noise_floors"]
    assert (floor["changed"], floor["questions"], floor["changed_texts"]) == (0, 24, 0)
    assert len(floor["repeats"]) == 2, "another batch size, and the same job again"
    assert base["metrics"]["batch_invariant"] == 1


@pytest.mark.slow  # grids are processes
def test_a_result_that_a_second_grid_logs_again_is_no_second_run(runner: Callable[..., Any]) -> None:
    words = ("model=stub", "task.limit=4", "task.cluster=null", "print=none")
    for limits in ("256,2", "256,3"):
        assert runner("-m", *words, f"generation.max_new_tokens={limits}").code == 0
    gate = ("gate", "generation.max_new_tokens=256", "--margin", "2", "--json")
    assert runner(*gate, module="runner_compare").json()["noise_floors"] == []
    runner(*words, "generation.max_new_tokens=256", "rerun=all")
    (floor,) = runner(*gate, module="runner_compare").json()["noise_floors"]
    assert len(floor["repeats"]) == 1, "the control ran again"
