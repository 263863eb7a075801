"""What a plan says about the number of questions: for which grids, and that its numbers are those
of the comparison."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runner.config.root import RunnerConfig
from runner.estimates.jobs import JobEstimate
from runner.estimates.speed import Estimate, EstimateBasis
from runner.grid.plan import PlannedJob, PlanState
from runner.grid.question_plan import _compute_max_mcnemar_power, make_statistical_power_notes
from runner.records.jobs import Job
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.notes import note
from runner_base.result import Answer, FinishReason, Sample, Verdict
from runner_compare.statistics import McNemarTest
from runner_compare.statistics.early_stop_test import WITH_FINAL_TEST, EarlyStopPairs
from runner_compare.statistics.effects import compute_margin_test_p_value
from runner_compare.statistics.margins import compute_non_inferiority_sample_size
from runner_compare.statistics.planning import (
    compute_detection_power,
    estimate_disagreement_rate,
    find_smallest_detectable_difference,
)
from runner_compare.statistics.sequential import Side
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]
USUAL = 0.1


def planned(
    make_config: Make, folder: Path, quantization: QuantizationConfig | None = None, **task: object
) -> PlannedJob:
    generation = GenerationConfig(temperature=0.7)
    config = make_config(task=Gsm8kConfig(**{"limit": 500} | task), generation=generation)  # type: ignore[arg-type]
    if quantization is not None:
        config = replace(config, quantization=quantization)
    name = config.quantization.name + "".join(f" {value}" for value in task.values())
    job = Job(name, folder / name)
    return PlannedJob([], config, job=job, state=PlanState.todo, input_count=500, data_digest="digest")


def record(job: Job, solved: set[int]) -> None:
    job.folder.mkdir()
    verdicts = [Verdict.correct if index in solved else Verdict.wrong for index in range(500)]
    answers = [Answer("text", [1], FinishReason.stop, verdict=verdict) for verdict in verdicts]
    samples = [Sample(one, "sha", 9, 0.1, index, f"q {index}", "7") for index, one in enumerate(answers)]
    job.samples_path.write_text("".join(f"{one.to_json()}\n" for one in samples))


def test_quantized_jobs_are_planned_against_the_unquantized_one(make_config: Make, tmp_path: Path) -> None:
    plan = [planned(make_config, tmp_path, it) for it in (None, Nf4Config(), Int8Config())]
    time = Estimate(10.0, 0.2, EstimateBasis.recorded)
    lines = make_statistical_power_notes(
        plan, {number: JobEstimate(time=time) for number in range(3)}, is_quick=False
    )
    least, needed = (
        find_smallest_detectable_difference(500, USUAL, 0.025),
        compute_non_inferiority_sample_size(0.02, USUAL, 0.025),
    )
    assert least is not None
    assert needed is not None
    assert lines[0] == note(
        "detectable",
        where=None,
        questions=500,
        names=["quantization=none"],
        power=0.8,
        least=least,
        may_detect_largest=True,
        comparisons=2,
        disagreement=USUAL,
        pairs=0,
        by_bets=False,
    )
    rounded = 10 * math.ceil(needed / 10)
    seconds = pytest.approx(30 * rounded / 500)
    assert lines[1] == note(
        "questions_for_margin", margin=0.02, needed=rounded, there=None, jobs=3, seconds=seconds
    )
    assert make_statistical_power_notes(plan, {}, is_quick=True) == lines[:1]


def test_the_disagreement_is_that_of_jobs_that_are_done(make_config: Make, tmp_path: Path) -> None:
    plan = [planned(make_config, tmp_path, it) for it in (None, Nf4Config(), Int8Config())]
    for number, solved in ((0, range(200)), (1, range(20, 220))):
        plan[number].state = PlanState.done
        record(plan[number].job, set(solved))  # type: ignore[arg-type]
    rate = estimate_disagreement_rate(40, 500)
    (line,) = make_statistical_power_notes(plan, {}, is_quick=True)
    assert (line.values["disagreement"], line.values["pairs"]) == (rate, 1)


def test_the_baseline_may_be_that_of_an_early_stop(make_config: Make, tmp_path: Path) -> None:
    plan = [
        planned(make_config, tmp_path, early_stop_vs=it, early_stop_margin=it and 3)
        for it in (None, "lora=none")
    ]
    plan[1].after, plan[1].is_compared = plan[0].job_id, True
    first, second = make_statistical_power_notes(plan, {}, is_quick=False)
    assert (first.values["names"], first.values["comparisons"]) == (["lora=none"], 1)
    assert first.values["by_bets"]
    assert second.values["margin"] == 0.03


def test_jobs_that_stop_early_are_planned_by_their_bets(make_config: Make, tmp_path: Path) -> None:
    plan = [planned(make_config, tmp_path, early_stop_vs=it) for it in (None, "lora=none")]
    plan[1].after, plan[1].is_compared = plan[0].job_id, True
    first, second = make_statistical_power_notes(plan, {}, is_quick=False)
    loss, questions = first.values["least"], second.values["needed"]
    assert isinstance(loss, float)
    assert isinstance(questions, int)
    generator, courses = np.random.default_rng(1), 400
    worse = as_good = 0
    for _ in range(courses):
        pairs = EarlyStopPairs(parts=WITH_FINAL_TEST)
        for draw in generator.random(500).tolist():
            pairs.add_pair(draw < USUAL / 2, USUAL / 2 <= draw < USUAL + loss)
        pairs.run_final_test()
        worse += pairs.decision is Side.worse
        wins, losses, _ = generator.multinomial(questions, [USUAL / 2, USUAL / 2, 1 - USUAL]).tolist()
        final = McNemarTest(wins, losses, questions)
        as_good += compute_margin_test_p_value(final, -0.02) <= 0.05 * WITH_FINAL_TEST.final
    assert worse / courses == pytest.approx(0.8, abs=0.03 + 0.06)
    assert 0.7 < as_good / courses < 0.86  # by the final test alone


@pytest.mark.parametrize(
    "tasks",
    [[{}, {"instruction": "Go."}], [{"samples": 8}, {"samples": 8}]],
    ids=["no quantization", "several answers"],
)
def test_other_grids_have_no_such_lines(
    make_config: Make, tmp_path: Path, tasks: list[dict[str, object]]
) -> None:
    of = [None, Nf4Config()] if tasks[0] == tasks[1] else [None, None]
    plan = [planned(make_config, tmp_path, it, **task) for it, task in zip(of, tasks, strict=True)]
    assert make_statistical_power_notes(plan, {}, is_quick=False) == []


def test_of_clusters_a_plan_says_that_nothing_is_planned(make_config: Make, tmp_path: Path) -> None:
    kinds = (None, Nf4Config(), Int8Config())
    plan = [planned(make_config, tmp_path, it, cluster="template") for it in kinds]
    for is_quick in (True, False):
        assert make_statistical_power_notes(plan, {}, is_quick) == [
            note("clusters_not_planned", cluster="template")
        ]
    assert make_statistical_power_notes(plan[:1], {}, is_quick=True) == [], "there is nothing to compare"


def test_another_prompt_is_not_a_baseline(make_config: Make, tmp_path: Path) -> None:
    plan = [planned(make_config, tmp_path), planned(make_config, tmp_path, Nf4Config(), instruction="Go.")]
    assert make_statistical_power_notes(plan, {}, is_quick=False) == []


def test_no_difference_is_larger_than_the_share_of_verdicts_that_differ(
    make_config: Make, tmp_path: Path
) -> None:
    plan = [planned(make_config, tmp_path, it) for it in (None, Nf4Config())]
    said = {}
    for n in (20, 60, 100, 500):
        for it in plan:
            it.input_count = n
        (said[n],) = make_statistical_power_notes(plan, {}, is_quick=True)
    keys = "least", "may_detect_largest"
    assert [said[20].values[key] for key in keys] == [None, False]
    assert [said[60].values[key] for key in keys] == [None, False], (
        "six that differ, all one way: detection_power is 0.56"
    )
    assert [said[100].values[key] for key in keys] == [None, True]
    assert said[500].values["least"] is not None


@pytest.mark.parametrize(
    ("n", "disagreement", "alpha"), [(20, 0.1, 0.05), (60, 0.1, 0.05), (100, 0.1, 0.0125), (5, 0.5, 0.05)]
)
def test_the_largest_power_is_that_of_the_exact_test(n: int, disagreement: float, alpha: float) -> None:
    exact = compute_detection_power(n, 0.0, disagreement, alpha)
    assert abs(_compute_max_mcnemar_power(n, disagreement, alpha) - exact) < 1e-9


def test_more_questions_than_there_are_are_not_advised(make_config: Make, tmp_path: Path) -> None:
    data = tmp_path / "some.jsonl"
    data.write_text(
        "".join(f'{{"question": "What is {n} + 1?", "answer": "#### {n + 1}"}}\n' for n in range(1319))
    )
    plan = [planned(make_config, tmp_path, it, data=str(data)) for it in (None, Nf4Config())]
    time = Estimate(10.0, 0.2, EstimateBasis.recorded)
    lines = make_statistical_power_notes(
        plan, {number: JobEstimate(time=time) for number in range(2)}, is_quick=False
    )
    assert lines[1].values["there"] == 1319
