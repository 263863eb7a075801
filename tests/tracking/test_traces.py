"""tracking.traces=true: each sample once, with its answer, verdict and calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from traced import traces_of

from runner_base.result import Sample

Run = Callable[..., Any]
pytestmark = pytest.mark.slow


def samples_of(done: Any) -> list[Sample]:
    lines = Path(done.json()["output_dir"], "samples.jsonl").read_text().splitlines()
    return sorted(map(Sample.from_json, lines), key=lambda sample: sample.index)


@pytest.mark.thorough
def test_each_sample_is_a_trace_once(runner: Run, tmp_path: Path) -> None:
    small = ("task.limit=3", "generation.max_new_tokens=40", "print=json")
    plain = runner(*small)
    assert traces_of(tmp_path, plain) == [], "only on request"
    asked = runner(*small, "tracking.traces=true")  # the job is done; its samples are there
    assert asked.json()["job_id"] == plain.json()["job_id"], "traces change no answer"
    found, samples = traces_of(tmp_path, asked), samples_of(asked)
    assert len(found) == 3
    for trace, sample in zip(found, samples, strict=True):
        root = trace.data.spans[0]
        assert root.inputs["question"] == sample.question
        assert (root.outputs["answer"], root.outputs["gold"]) == (sample.answer.text, sample.gold)
        assert sample.answer.verdict is not None
        assert root.outputs["verdict"] == trace.info.tags["verdict"] == sample.answer.verdict.value
        assert root.attributes["new_tokens"] == len(sample.answer.token_ids)
        assert trace.info.execution_duration == pytest.approx(1000 * sample.seconds, abs=1)
        assert trace.info.tags["job_id"] == asked.json()["job_id"]
    assert runner(*small, "tracking.traces=true").code == 0
    assert len(traces_of(tmp_path, asked)) == 3, "and never twice"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    client.delete_traces(found[1].info.experiment_id, trace_ids=[found[1].info.trace_id])
    assert runner(*small, "tracking.traces=true").code == 0
    again = traces_of(tmp_path, asked)
    assert [trace.data.spans[0].name for trace in again] == [f"gsm8k {index}" for index in range(3)]
    assert {it.info.trace_id for it in found} & {it.info.trace_id for it in again} == {
        found[0].info.trace_id, found[2].info.trace_id
    }, "only the missing one is logged"  # fmt: skip
    anew = runner(*small, "seed=5", "model=stub", "tracking.traces=true")
    assert len(traces_of(tmp_path, anew)) == 3


@pytest.mark.thorough
def test_without_a_store_there_is_no_place_for_traces(runner: Run) -> None:
    done = runner("model=stub", "tracking=none", "tracking.traces=true")
    assert done.code == 2
    assert "tracking.traces=True: tracking=none logs no traces to MLflow" in done.err
