"""Finished jobs on disk, as a job of word problems leaves them: the record, and a sample for each
question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.datasets.questions import describe_dataset, hash_questions, load_questions
from runner.records.flat_config import flatten_config
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.gsm8k.task import VERSION
from runner_base.result import Answer, FinishReason, Record, Result, Sample, Status, Verdict


def record_job(
    config: RunnerConfig,
    job_id: str,
    solved: Sequence[bool],
    started_at: str = "2026-11-22",
    samples: bool = True,
) -> None:
    """Write a finished job that has solved some of its config's questions."""
    task = config.task
    assert isinstance(task, Gsm8kConfig)
    items = load_questions(task)
    folder = Path(config.output_dir, "jobs", job_id)
    folder.mkdir(parents=True)
    metrics = {"correct": float(sum(solved)), "n": float(len(solved))}
    data = describe_dataset(task.data, task.split, hash_questions(items))
    params = dict(flatten_config(config))
    result = Result(metrics)
    record = Record(
        job_id, Status.FINISHED, str(folder), result, task.name, VERSION, params=params, data=data
    )
    record.started_at = started_at
    (folder / "result.json").write_text(record.to_json())
    if samples:
        verdicts = [Verdict.correct if right else Verdict.wrong for right in solved]
        answers = [Answer("", [], FinishReason.stop, verdict=verdict) for verdict in verdicts]
        lines = [
            Sample(answer, "prompt", 9, 0.1, number, item.question, item.gold, item.cluster).to_json()
            for number, (item, answer) in enumerate(zip(items, answers, strict=True))
        ]
        (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
