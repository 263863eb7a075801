"""tracking.traces=true: each sample once, with its answer, verdict, calls and assessments."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from traced import traces_of

from runner.tracking.connection import connect_to_store
from runner.tracking.stores import Store
from runner.tracking.traces import log_traces
from runner_base import Answer, FinishReason, Record, Result, Status, Verdict
from runner_base.result import Sample

Run = Callable[..., Any]
pytestmark = [
    pytest.mark.slow,
    # mlflow 3.17 uses an old name of sqlalchemy 2.1
    pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # of its own functions
]


def assessments_of(trace: Any) -> dict[str, Any]:
    return {it.name: it.value for it in trace.info.assessments}


def answer_with(verdict: Verdict | None) -> Answer:
    return Answer("4", [4], FinishReason.stop, verdict=verdict)


def sample_with(index: int, *verdicts: Verdict | None, gold: str | None = "4", **keys: Any) -> Sample:
    """Return a sample with an answer for each verdict, of which the first is elected."""
    answers = [answer_with(verdict) for verdict in verdicts]
    choices = answers if len(answers) > 1 else None
    return Sample(answers[0], f"{index}", 10, 0.1, index=index, question=f"What is {index}?", gold=gold,
                  choices=choices, **keys)  # fmt: skip


def test_feedback_is_what_the_accuracy_counts(tmp_path: Path, new_database: Callable[[Path], None]) -> None:
    samples = [
        sample_with(0, Verdict.correct),
        sample_with(1, Verdict.cut_off),
        sample_with(2, Verdict.correct, Verdict.correct, Verdict.wrong, Verdict.wrong),
        sample_with(3, Verdict.correct, left_out=True),
        sample_with(4, None, gold=None),
        sample_with(5, Verdict.wrong),
        sample_with(6, Verdict.wrong),  # answered after the job had stopped early
    ]
    lines = "".join(f"{sample.to_json()}\n" for sample in samples)
    (tmp_path / "samples.jsonl").write_text(lines, encoding="utf-8")
    metrics = {"questions_asked": 5.0, "questions_left": 1.0}
    record = Record("gsm8k-1", Status.FINISHED, str(tmp_path), Result(metrics), task="gsm8k", task_version=4,
                    started_at="2026-11-30T10:00:00+00:00")  # fmt: skip
    new_database(tmp_path / "mlflow.db")
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}", "traces", tmp_path)
    with connect_to_store(store) as (client, experiment):
        run_id = client.create_run(experiment).info.run_id
        assert log_traces(store.uri, experiment, run_id, record, tmp_path) == len(samples)
        traces = client.search_traces(locations=[experiment], run_id=run_id)
    assert {trace.data.spans[0].inputs["index"]: assessments_of(trace) for trace in traces} == {
        0: {"expected_response": "4", "correct": True},
        1: {"expected_response": "4", "correct": False},
        2: {"expected_response": "4", "correct": 0.5},
        3: {"expected_response": "4"},
        4: {},
        5: {"expected_response": "4", "correct": False},
        6: {"expected_response": "4"},
    }
    assert "MLFLOW_TRACKING_URI" not in os.environ, "the next job of this process has a store of its own"
    assessments = [it for trace in traces for it in trace.info.assessments]
    assert {(it.source.source_type, it.run_id) for it in assessments} == {("CODE", run_id)}


@pytest.mark.thorough
def test_mlflow_compares_two_jobs_of_a_grid_as_runner_compare_does(
    runner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline is recorded before the grid is asked for traces."""
    import mlflow

    small = ("task.limit=60", "task.cluster=null")
    assert runner("quantization=none", *small).code == 0
    done = runner("-m", "quantization=none,fp4", *small, "tracking.traces=true")
    assert done.code == 0, done.err
    shown = runner("--baseline", "quantization=none", "--format", "json", module="runner_compare")
    tables = json.loads(shown.out)["tables"]
    (compared,) = [row["comparison"] for row in tables[0]["rows"] if not row["is_baseline"]]
    jobs = (tmp_path / "outputs" / "jobs").glob("*/result.json")
    records = [Record.from_json(path.read_text(encoding="utf-8")) for path in jobs]
    run_ids = {record.params["quantization.name"]: record.mlflow_run_id for record in records}
    store = f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    verdicts = {}
    for name, run_id in run_ids.items():
        traces = mlflow.search_traces(locations=["1"], run_id=run_id, return_type="list")
        # MLflow pairs the traces of two runs by the JSON text of their inputs
        verdicts[name] = {
            json.dumps(trace.data.spans[0].inputs, sort_keys=True): assessments_of(trace)["correct"]
            for trace in traces
        }
    base, run = verdicts["none"], verdicts["fp4"]
    assert base.keys() == run.keys()
    assert len(base) == 60
    wins = sum(run[question] and not base[question] for question in base)
    losses = sum(base[question] and not run[question] for question in base)
    assert losses > 0, "else nothing is compared"
    assert (wins, losses) == (compared["wins"], compared["losses"])
    if hasattr(mlflow.genai, "compare_evaluations"):  # since MLflow 3.18
        result = mlflow.genai.compare_evaluations(run_ids["fp4"], run_ids["none"]).scorers["correct"]
        assert (result.n_paired, result.method) == (60, "mcnemar_exact")
        assert result.p_value == pytest.approx(compared["p"])


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
        usage = trace.info.token_usage
        assert (usage["input_tokens"], usage["output_tokens"]) == (
            sample.prompt_tokens,
            len(sample.answer.token_ids),
        )
        assert (trace.info.request_preview, trace.info.response_preview) == (
            sample.question,
            sample.answer.text,
        ), "MLflow's tables show texts, not JSON"
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
