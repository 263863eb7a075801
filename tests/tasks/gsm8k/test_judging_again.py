"""A job that differs in how answers are judged takes the recorded texts, judges them anew, and
decodes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config.extractors import Extractor
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.grid.plan import estimate_planned_jobs, plan_job
from runner.records.jobs import read_samples
from runner.run import read_inputs_and_identify_job, run
from runner.tasks.gsm8k import task as gsm8k
from runner.tasks.gsm8k.judging import Judge
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.notes import note
from runner_base.result import Answer, FinishReason, Record, Sample, Verdict
from runner_engine.settings.generation import GenerationConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Make = Callable[..., RunnerConfig]
MARKED = "It has 3+4=7 legs, so the answer is 7"  # strict finds nothing here; two other rules do


@pytest.fixture
def questions(tmp_path: Path) -> str:
    file = tmp_path / "questions.jsonl"
    rows = [{"question": f"How many legs have {n} dogs?", "answer": f"#### {4 * n}"} for n in range(1, 6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.engines.LazyEngine.load", None)  # whoever loads one fails


def samples_of(record: Record) -> dict[int, Sample]:
    samples = read_samples(Path(record.output_dir) / "samples.jsonl")
    return {index: replace(it, reused_from=None, seconds=0.0) for index, it in samples.items()}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("samples", [1, 3])
def test_another_extractor_takes_the_texts_and_judges_as_a_job_of_its_own(
    make_config: Make, tmp_path: Path, questions: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = GenerationConfig(max_new_tokens=24, temperature=1.0 if samples > 1 else 0.0)

    def job(extractor: Extractor, **other: Any) -> RunnerConfig:
        task = Gsm8kConfig(data=questions, limit=5, samples=samples, extractor=extractor)
        return make_config(generation=generation, task=task, **other)

    strict = run(job(Extractor.strict))
    alone = run(job(Extractor.flexible, output_dir=str(tmp_path / "alone")))
    monkeypatch.setattr("runner.engines.LazyEngine.load", None)  # whoever loads one fails
    again = run(job(Extractor.flexible))
    assert again.job_id != strict.job_id
    assert samples_of(again) == samples_of(alone)
    same = ("accuracy", "accuracy/flexible", "n", "no_answer", "wrong", "answers_found/strict", "new_tokens")
    assert [again.result.metrics[key] for key in same] == [alone.result.metrics[key] for key in same]
    assert f"5 of 5 samples are reused from job {strict.job_id}" in again.result.notes[0]
    back = run(job(Extractor.boxed))
    assert f"from job {strict.job_id}" in back.result.notes[0], "the job that generated them"


def test_a_verdict_is_another_where_the_rule_is(make_config: Make, questions: str, no_engine: None) -> None:
    config = make_config(task=Gsm8kConfig(data=questions, limit=5, extractor=Extractor.the_answer_is))
    inputs, _ = read_inputs_and_identify_job(resolve_job(config))
    assert isinstance(inputs, gsm8k.Gsm8kInputs)
    judge = Judge(inputs.task, {item.number: replace(item, gold="7") for item in inputs.items})
    strict = Judge(Gsm8kConfig(data=questions), judge.items)
    recorded = strict.judge_sample(Sample(Answer(MARKED, [1], FinishReason.stop), "sha", 3, 0.1, 0)).sample
    assert recorded.answer.verdict is Verdict.no_answer
    adopted = judge.adopt_sample(recorded)
    assert adopted is not None
    assert adopted.answer.verdict is Verdict.correct
    assert judge.adopt_sample(replace(recorded, question="Another one?")) is None
    wrong_gold = judge.adopt_sample(replace(recorded, gold="8"))
    assert wrong_gold is not None
    assert wrong_gold.gold == "7", "the right answer is this job's own"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change", [{"instruction": "Be brief."}, {"system": "You count."}, {"samples": 1, "repeat_index": 1}]
)
def test_what_changes_a_prompt_or_a_draw_takes_nothing(
    make_config: Make, questions: str, change: Any
) -> None:
    task = Gsm8kConfig(data=questions, limit=3)
    strict = run(make_config(task=task))
    other = run(make_config(task=replace(task, extractor=Extractor.flexible, **change)))
    assert not any("are reused from" in note for note in other.result.notes), strict.job_id


def test_a_plan_knows_that_nothing_is_left_to_decode(make_config: Make, questions: str) -> None:
    run(make_config(task=Gsm8kConfig(data=questions, limit=4)))
    flexible = Gsm8kConfig(data=questions, limit=4, extractor=Extractor.flexible)
    plan = [
        plan_job([], make_config(task=it, plan=True))
        for it in (flexible, replace(flexible, limit=5), replace(flexible, check_invariance=2))
    ]
    assert [it.questions_left for it in plan] == [0, 1, 1]
    assert [note("nothing_to_ask") in it.notes for it in plan] == [True, False, False]
    times = [estimate.time for _, estimate in sorted(estimate_planned_jobs(plan).items())]
    assert times[0] is not None
    assert (times[0].seconds, times[0].source.value) == (0.0, "answered")
    assert all(time is None or time.seconds > 0 for time in times[1:])


def test_jobs_judged_as_usual_keep_the_key_that_earlier_versions_left_in_their_folders(
    make_config: Make,
) -> None:
    keys = {
        read_inputs_and_identify_job(resolve_job(make_config(task=Gsm8kConfig(limit=2, extractor=it))))[
            1
        ].sibling_key
        for it in (Extractor.strict, Extractor.flexible, Extractor.boxed)
    }
    assert len(keys) == 1
