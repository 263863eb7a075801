from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from raising import raises

from runner.config.root import PrintMode, RunnerConfig, TrackingConfig
from runner.records import jobs
from runner.records.artifacts import record_file_states
from runner.records.jobs import Job, Recorder, create_job_with_hashed_id, lock_job, read_samples
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import JobAlreadyRunning, OutputError, RunRecordError
from runner_base.result import Answer, FinishReason, Record, Result, Sample, Status
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]


def sample(index: int, text: str = "ok") -> Sample:
    return Sample(Answer(text, [1, 2], FinishReason.stop), "sha", 3, 0.1, index)


def job_id(config: RunnerConfig, version: int = 1, model_hash: str = "a", measures: bool = False) -> str:
    return create_job_with_hashed_id(config, version, {"model": model_hash}, measures).job_id


def test_what_cannot_change_the_answer_does_not_change_the_id(make_config: Make) -> None:
    plain = job_id(make_config())
    for other in (
        make_config(output_dir="elsewhere"),
        make_config(print=PrintMode.json),
        make_config(rerun=True),
        make_config(tracking=TrackingConfig(experiment="x")),
        make_config(task=Gsm8kConfig(limit=4, data="a copy of the same data")),
    ):
        assert job_id(other) == plain
    one, two = (make_config(model=LocalModelConfig(name="a")), make_config(model=LocalModelConfig(name="b")))
    assert job_id(one) == job_id(two), "two names of the same weights are one job"


def test_what_can_change_the_answer_changes_the_id(make_config: Make) -> None:
    config = make_config()
    ids = {
        job_id(config),
        job_id(config, version=2),
        job_id(config, model_hash="b"),
        job_id(config, measures=True),
        job_id(make_config(seed=1)),
        job_id(make_config(task=Gsm8kConfig(limit=5))),
        job_id(make_config(generation=GenerationConfig(max_new_tokens=25))),
    }
    assert len(ids) == 7


def test_samples_survive_an_incomplete_last_line(tmp_path: Path) -> None:
    job = Job("x", tmp_path)
    recorder = Recorder(job)
    recorder.append_sample(sample(0))
    recorder.append_sample(sample(1, "zwei \N{WHITE SMILING FACE}\u2028 lines"))
    recorder.close()
    with job.samples_path.open("ab") as file:
        file.write(b'{"index": 2, "prompt_sh')
    again = Recorder(job)
    assert set(again.done) == {0, 1}
    again.append_sample(sample(2))
    again.close()
    assert read_samples(job.samples_path) == {0: sample(0), 1: again.done[1], 2: sample(2)}


@pytest.mark.parametrize(
    "bad", ["not json", "[]", '{"index": 1}', '{"index": "x"}', '{"index": 1, "verdict": "great"}', ""]
)
def test_a_corrupt_line_is_named_and_nothing_is_changed(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "samples.jsonl"
    text = f"{sample(0).to_json()}\n{bad}\n{sample(2).to_json()}\n"
    path.write_text(text)
    with raises(RunRecordError, "damaged"):
        Recorder(Job("x", tmp_path))
    assert path.read_text() == text


def test_record_round_trip_and_what_counts_as_done(tmp_path: Path) -> None:
    part = tmp_path / "part.safetensors"
    part.write_text("x")
    job = Job("x", tmp_path)
    assert job.read_finished_record() is None
    record = Record(
        "x", Status.FINISHED, str(tmp_path), Result({"n": 1.0}, artifacts=record_file_states({part: None}))
    )
    job.write_record(record)
    assert job.read_finished_record() == record
    os.utime(part)
    assert job.read_finished_record() == record, "only the file's times have changed"
    stat = part.stat()
    while part.stat().st_ctime_ns == stat.st_ctime_ns:  # until the file system's clock has moved on
        part.write_text("y")
        os.utime(part, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert job.read_finished_record() is None, "another content of the same size and mtime"
    part.write_text("")
    assert job.read_finished_record() is None, "the file is empty"
    part.unlink()
    assert job.read_finished_record() is None, "the file is missing"
    job.write_record(replace(record, status=Status.KILLED))
    assert job.read_finished_record() is None
    (tmp_path / "result.json").write_text("[]")
    with raises(RunRecordError, "damaged"):
        job.read_finished_record()
    job.delete_earlier_files()
    assert job.read_finished_record() is None


def _hold_until_released(folder: Path, ready: Event, release: Event) -> None:
    with lock_job(Job("x", folder)):
        ready.set()
        assert release.wait(200)
        (folder / "released").touch()


def test_a_job_is_held_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    messages: list[str] = []

    def say(text: str) -> None:
        messages.append(text)
        release.set()

    monkeypatch.setattr(jobs, "print_message", say)
    other = context.Process(target=_hold_until_released, args=(tmp_path, ready, release))
    other.start()
    assert ready.wait(200)
    with lock_job(Job("x", tmp_path)):
        assert (tmp_path / "released").exists()
    other.join()
    assert messages == ["another process is running x: waiting until that process ends"]
    with (
        lock_job(Job("x", tmp_path)),
        raises(JobAlreadyRunning, "busy"),
        lock_job(Job("x", tmp_path), should_wait=False),
    ):
        pass


def test_an_output_folder_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("")
    with raises(OutputError, "refused"), lock_job(Job("x", tmp_path / "jobs" / "x")):
        pass


def test_a_job_that_was_short_of_memory_runs_again_when_there_is_more(tmp_path: Path) -> None:
    job = Job("x", tmp_path)
    record = Record("x", Status.FINISHED, str(tmp_path), Result({"n": 1.0}, ran_short_mib=1e9))
    job.write_record(record)
    assert job.read_finished_record() == record, "no more memory is free than then"
    job.write_record(replace(record, result=Result({"n": 1.0}, ran_short_mib=1.0)))
    assert job.read_finished_record() is None
