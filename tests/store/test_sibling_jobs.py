"""Answers that another job has: whole lines of siblings only, nothing of a damaged file; and nothing is changed there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runner.core.result import FinishReason, Sample, sealed, unsealed
from runner.store import sibling_jobs
from runner.store.jobs import Job, Recorder


def sample(index: int, text: str = "ok") -> Sample:
    return Sample(index, "sha", 3, text, [1, 2], FinishReason.stop, 0.1)


def job(folder: Path, name: str, related: str = "abc") -> Job:
    made = Job(name, folder / "jobs" / name, related)
    made.folder.mkdir(parents=True)
    sibling_jobs.mark(made)
    return made


def filled(folder: Path, name: str, *samples: Sample, related: str = "abc") -> Job:
    made = job(folder, name, related)
    recorder = Recorder(made)
    for one in samples:
        recorder.sample(one)
    recorder.close()
    return made


def test_only_siblings_give_and_only_what_fits(tmp_path: Path) -> None:
    erred = replace(sample(2), finish_reason=FinishReason.error, error="boom")
    filled(tmp_path, "a", sample(0), sample(1, "foreign"), erred, sample(4))
    filled(tmp_path, "b", sample(0, "stranger"), sample(3), related="other")
    filled(tmp_path, "a.old-1", sample(3))
    mine = job(tmp_path, "mine")
    found, notes = sibling_jobs.reusable(mine, {0, 1, 2, 3}, lambda one: None if one.text == "foreign" else one)
    assert found == {0: replace(sample(0), reused_from="a")}
    assert notes == []


def test_who_has_generated_an_answer_stays_known(tmp_path: Path) -> None:
    filled(tmp_path, "a", replace(sample(0), reused_from="first"))
    found, _ = sibling_jobs.reusable(job(tmp_path, "mine"), {0}, lambda one: one)
    assert found[0].reused_from == "first"


def test_a_damaged_file_is_named_and_gives_nothing(tmp_path: Path) -> None:
    damaged = filled(tmp_path, "a", sample(0), sample(1))
    text = damaged.samples_path.read_text().replace('"ok"', '"no"', 1)
    damaged.samples_path.write_text(text)
    filled(tmp_path, "b", sample(1, "whole"))
    found, notes = sibling_jobs.reusable(job(tmp_path, "mine"), {0, 1}, lambda one: one)
    assert found == {1: replace(sample(1, "whole"), reused_from="b")}
    [note] = notes
    assert note.startswith("no answers were reused from job a: ")
    assert "line 1 is not a sample (its checksum does not fit" in note
    assert damaged.samples_path.read_text() == text


def test_a_line_that_is_being_written_is_not_there_yet_and_stays(tmp_path: Path) -> None:
    working = filled(tmp_path, "a", sample(0), sample(1))
    text = working.samples_path.read_text()[:-9]
    working.samples_path.write_text(text)
    found, notes = sibling_jobs.reusable(job(tmp_path, "mine"), {0, 1}, lambda one: one)
    assert (list(found), notes) == ([0], [])
    assert working.samples_path.read_text() == text, "it is the other job's to mend"


def test_a_job_without_kin_neither_marks_nor_asks(tmp_path: Path) -> None:
    alone = job(tmp_path, "alone", "")
    assert list(alone.folder.iterdir()) == []
    assert sibling_jobs.siblings(alone) == []


def test_a_line_of_an_earlier_version_still_says_whose_answer_it_is() -> None:
    values = unsealed(replace(sample(0), reused_from="gsm8k-1").to_json())
    values["taken_from"] = values.pop("reused_from")
    assert Sample.from_json(sealed(values)).reused_from == "gsm8k-1"
