"""Reuse of another job's answers: only complete lines of siblings, nothing of a damaged file, and
no change there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runner.records import sibling_jobs
from runner.records.jobs import Job, Recorder
from runner_base.result import Answer, FinishReason, Sample
from runner_base.signed_jsonl import dump_signed_line, parse_signed_line


def sample(index: int, text: str = "ok") -> Sample:
    return Sample(Answer(text, [1, 2], FinishReason.stop), "sha", 3, 0.1, index)


def new_job(folder: Path, name: str, sibling_key: str = "abc") -> Job:
    job = Job(name, folder / "jobs" / name, sibling_key)
    job.folder.mkdir(parents=True)
    sibling_jobs.mark_job_reusable(job)
    return job


def job_with(folder: Path, name: str, *samples: Sample, sibling_key: str = "abc") -> Job:
    job = new_job(folder, name, sibling_key)
    recorder = Recorder(job)
    for one in samples:
        recorder.append_sample(one)
    recorder.close()
    return job


def test_only_fitting_answers_of_siblings_are_reused(tmp_path: Path) -> None:
    erred = replace(sample(2), answer=Answer("", [], FinishReason.error), error="boom")
    job_with(tmp_path, "a", sample(0), sample(1, "foreign"), erred, sample(4))
    job_with(tmp_path, "b", sample(0, "stranger"), sample(3), sibling_key="other")
    job_with(tmp_path, "a.old-1", sample(3))
    ours = new_job(tmp_path, "ours")
    reused, notes = sibling_jobs.read_reusable_answers(
        ours, {0, 1, 2, 3}, lambda one: None if one.answer.text == "foreign" else one
    )
    assert reused == {0: replace(sample(0), reused_from="a")}
    assert notes == []


def test_the_job_that_generated_an_answer_stays_known(tmp_path: Path) -> None:
    job_with(tmp_path, "a", replace(sample(0), reused_from="first"))
    reused, _ = sibling_jobs.read_reusable_answers(new_job(tmp_path, "ours"), {0}, lambda one: one)
    assert reused[0].reused_from == "first"


def test_nothing_of_a_damaged_file_is_reused(tmp_path: Path) -> None:
    damaged = job_with(tmp_path, "a", sample(0), sample(1))
    text = damaged.samples_path.read_text().replace('"ok"', '"no"', 1)
    damaged.samples_path.write_text(text)
    job_with(tmp_path, "b", sample(1, "whole"))
    reused, notes = sibling_jobs.read_reusable_answers(new_job(tmp_path, "ours"), {0, 1}, lambda one: one)
    assert reused == {1: replace(sample(1, "whole"), reused_from="b")}
    [noted] = notes
    assert (noted.code, noted.values["job"]) == ("not_reused", "a")
    assert "line 1: the line is not a valid sample (the checksum does not match" in str(
        noted.values["reason"]
    )
    assert damaged.samples_path.read_text() == text


def test_an_incomplete_line_is_ignored_and_stays(tmp_path: Path) -> None:
    running = job_with(tmp_path, "a", sample(0), sample(1))
    text = running.samples_path.read_text()[:-9]
    running.samples_path.write_text(text)
    reused, notes = sibling_jobs.read_reusable_answers(new_job(tmp_path, "ours"), {0, 1}, lambda one: one)
    assert (list(reused), notes) == ([0], [])
    assert running.samples_path.read_text() == text, "only the other job may repair it"


def test_a_job_without_siblings_leaves_no_mark_and_finds_none(tmp_path: Path) -> None:
    alone = new_job(tmp_path, "alone", "")
    assert list(alone.folder.iterdir()) == []
    assert sibling_jobs.find_jobs_with_reusable_answers(alone) == []


def test_a_line_of_an_earlier_version_is_read() -> None:
    answer = Answer("7", [1], FinishReason.stop, in_thinking=True)
    written = replace(sample(0), answer=answer, choices=[answer], reused_from="gsm8k-1")
    values = parse_signed_line(written.to_json())
    values |= {"taken_from": values.pop("reused_from"), "is_begun": values.pop("in_thinking")}
    for choice in values["choices"]:
        choice["is_begun"] = choice.pop("in_thinking")
    assert Sample.from_json(dump_signed_line(values)) == written
