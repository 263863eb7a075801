"""Several haystacks of each length: who shares one, what one haystack leaves as it was, what counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from recalling import distinct_beginnings, prompts_of, remembering
from scripted import Scripted
from tasking import work

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner.recorded_runs.sample_numbers import read_sample_metric
from runner.records.jobs import Job, Recorder
from runner.tasks.recall import task as recall
from runner.tasks.recall.fillers import Filler, vary_filler_for_haystack
from runner.tasks.recall.judging import Judge, PlacedCase
from runner.tasks.recall.keys import RecallConfig
from runner.tasks.recall.placement import render_cases_with_fitting_filler
from runner_base import ClusterUnit, Sample
from runner_base.notes import note
from runner_compare import question_identity
from runner_compare.features.recall.compute import RecallFindings
from runner_compare.model.data import Run
from runner_compare.model.mean_pairs import create_mean_difference_test, find_cluster_field
from runner_compare.model.outcomes import QuestionOutcome
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
LONG, SHORT = 400, 300


def config_of(make_config: Make, cases: int, texts: int, filler: str = "noise") -> RunnerConfig:
    task = RecallConfig(
        cases=cases,
        num_texts=texts,
        filler=filler,
        lengths=[str(SHORT), str(LONG)],
        depths=[0.5, 1.0],
        pictures=False,
    )
    return make_config(
        model=LocalModelConfig(name="embedded", device="cpu"),
        generation=GenerationConfig(max_new_tokens=32),
        task=task,
    )


def cases_of(config: RunnerConfig) -> list[PlacedCase]:
    inputs = recall.prepare(config)
    return [*render_cases_with_fitting_filler(inputs.task, inputs.units, resolve_job(config)).values()]


@pytest.mark.thorough
@pytest.mark.parametrize("filler", ["noise", "texts"])
def test_cases_are_spread_over_haystacks_and_keep_theirs_at_each_length(
    make_config: Make, filler: str
) -> None:
    cases = cases_of(config_of(make_config, 6, 3, filler))
    assert [case.text for case in cases] == [0] * 8 + [1] * 8 + [2] * 8
    assert {(case.number % 3) == case.text for case in cases} == {True}
    begins = {text: {case.asked.context[:60] for case in cases if case.text == text} for text in range(3)}
    assert all(len(own) == 1 for own in begins.values()), "all lengths and depths begin alike"
    assert len(set.union(*begins.values())) == 3, "each haystack is another one"
    alone = cases_of(config_of(make_config, 6, 1, filler))
    assert {case.text for case in alone} == {None}
    assert {case.asked.gold for case in alone} == {case.asked.gold for case in cases}
    first = {case.asked.context[:60] for case in alone}
    assert first == begins[0]


@pytest.mark.thorough
def test_each_haystack_is_read_once(make_config: Make) -> None:
    one, three = (prompts_of(config_of(make_config, 6, texts)) for texts in (1, 3))
    added = distinct_beginnings(three) - distinct_beginnings(one)
    assert 0 < added < 2.2 * LONG, "two more haystacks, and no question reads one alone"


def test_the_plan_counts_the_haystacks(make_config: Make) -> None:
    computed = []
    for texts in (1, 6):
        config = config_of(make_config, 6, texts)
        amounts = config.task.list_requested_completions(config.generation)
        computed.append(sum(one.prompt_tokens * one.completions for one in amounts))
    assert 4 * LONG < computed[1] - computed[0] < 5.5 * LONG


def test_one_haystack_is_not_in_the_identity_and_several_are(make_config: Make) -> None:
    one, six = (dict(iterate_job_id_keys(config_of(make_config, 6, num_texts))) for num_texts in (1, 6))
    assert six.keys() - one.keys() == {"task.texts"}
    assert six["task.texts"] == 6


def test_six_haystacks_are_clusters_and_five_are_not(make_config: Make, tmp_path: Path) -> None:
    for texts, clusters in ((6, 6), (5, 12)):
        folder = tmp_path / str(texts)
        folder.mkdir()
        recorder = Recorder(Job("recall-test", folder))
        work(recall, config_of(make_config, 6, texts), recorder, Scripted(remembering()))
        samples: list[Sample] = [*recorder.samples.values()]
        recorder.close()
        assert {sample.recall_text for sample in samples} == {*range(texts)}
        assert len({sample.cluster for sample in samples}) == clusters
        unit = ClusterUnit.text if texts == 6 else ClusterUnit.question
        assert {sample.recall_cluster_unit for sample in samples} == {unit}
        read = [Sample.from_json(sample.to_json()) for sample in samples]
        earlier = [replace(sample, recall_cluster_unit=None) for sample in samples]
        for recorded in (read, earlier):
            findings = RecallFindings(tuple(map(QuestionOutcome.from_sample, recorded)))
            assert (findings.num_haystacks, findings.is_clustered_by_haystack) == (texts, texts == 6)


@pytest.mark.parametrize(("texts", "field"), [(1, "question"), (3, "question"), (6, "text")])
def test_a_comparison_names_what_the_samples_are_clustered_by(
    make_config: Make, tmp_path: Path, texts: int, field: str
) -> None:
    config = config_of(make_config, 6, texts)
    recorder = Recorder(Job("recall-test", tmp_path))
    work(recall, config, recorder, Scripted(remembering()))
    samples = [*recorder.samples.values()]
    recorder.close()
    run = Run("a", "recall-test", "recall", "1", "", {"task.num_texts": str(texts)}, {})
    verdicts = {question_identity(sample): QuestionOutcome.from_sample(sample) for sample in samples}
    numbers = read_sample_metric(tmp_path / "samples.jsonl", "new_tokens")
    for answers in (verdicts, numbers):
        outcomes = [*answers.values()]
        assert len(outcomes) == 24
        pairs = list(zip(outcomes, outcomes, strict=True))
        assert find_cluster_field(run, run, pairs) == field
        assert create_mean_difference_test(pairs, find_cluster_field(run, run, pairs)).by == field


def test_a_sample_of_an_earlier_version_still_belongs_to_its_job(make_config: Make, tmp_path: Path) -> None:
    config = config_of(make_config, 6, 1)
    recorder = Recorder(Job("recall-test", tmp_path))
    work(recall, config, recorder, Scripted(remembering()))
    sample = replace(recorder.samples[0], recall_cluster_unit=None)
    recorder.close()
    judge = Judge(dict(enumerate(cases_of(config))))
    assert judge.rejection_reason(sample) is None
    moved = replace(sample, recall_cluster_unit=ClusterUnit.text)
    assert judge.rejection_reason(moved) == note("judged_differently")


def test_a_haystack_begins_elsewhere_and_has_the_same_units() -> None:
    filler = Filler([f"unit {number}\n" for number in range(500)], [3] * 500)
    assert vary_filler_for_haystack(filler, 0, 0) is filler
    drawn = [vary_filler_for_haystack(filler, text, 0) for text in (1, 2, 3)]
    assert len({own.units[0] for own in drawn}) == 3
    assert all(sorted(own.units) == sorted(filler.units) for own in drawn)
    assert vary_filler_for_haystack(filler, 1, 0).units == drawn[0].units
    assert vary_filler_for_haystack(filler, 1, 1).units != drawn[0].units
