"""tracking.traces=true: logs each sample of a job as an MLflow trace, with agents' calls as spans.

The traces are written at the job's end from its samples: a resumed job has each trace once, and
decoding is not slowed down. MLflow's evaluations read a trace's assessments: the gold answer is an
expectation, the verdict is feedback.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.records.jobs import SAMPLES, read_samples
from runner.records.jsonl_files import parse_agent_call, read_lines
from runner.tracking.stores import URI_VARIABLE
from runner_base import Answer, Call, Progress, Record, Sample, parse_signed_line
from runner_base.result import CALLS, Response
from runner_base.signed_jsonl import remove_unset_keys

NS = 1_000_000_000
PAGE = 500  # traces that one request returns
NAME = "mlflow.traceName"  # the tag with the name of a trace
EXPECTATION = "expected_response"  # the name under which MLflow's own scorers look for a gold answer
FEEDBACK = "correct"
MAX_PREVIEW_CHARACTERS = 1000  # of a column of MLflow's database


def log_traces(uri: str, experiment_id: str, run_id: str, record: Record, folder: Path) -> int:
    """Log the missing traces of a run's samples. Returns the number of logged traces.

    A sample's duration is known, but not its start: its trace begins with the job.
    """
    import mlflow

    samples = read_samples(folder / SAMPLES)
    if not samples:
        return 0
    client = mlflow.MlflowClient(uri)
    there = _read_trace_names(client, experiment_id, run_id)
    missing = [index for index in sorted(samples) if _trace_name(record, index) not in there]
    calls = _read_agent_calls_by_question(folder / CALLS)
    scored = _select_scored_questions(samples, record)
    began_ns = int(datetime.fromisoformat(record.started_at).timestamp() * NS)
    with _temporarily_set_tracking_uri(uri), Progress(len(missing), "logging", "traces") as bar:
        for index in missing:
            sample = samples[index]
            assessments = _build_assessments(sample, index in scored, run_id, record)
            sample_calls = sample.calls or calls.get(index, [])
            _log_sample_trace(
                client, experiment_id, run_id, record, sample, sample_calls, began_ns, assessments
            )
            bar.advance()
    return len(missing)


@contextmanager
def _temporarily_set_tracking_uri(uri: str) -> Iterator[None]:
    """Set MLflow's store, which is the only way to choose where traces go, and restore it at the end.

    MLflow writes the store to an environment variable, from which the next job of this process
    would read its own store.
    """
    import mlflow

    previous = os.environ.get(URI_VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(previous)  # type: ignore[arg-type]  # None unsets it


def _select_scored_questions(samples: Mapping[int, Sample], record: Record) -> set[int]:
    """Return the questions that count in the job's accuracy."""
    metrics = record.result.metrics
    num_asked = int(metrics["questions_asked"]) if metrics.get("questions_left") else None
    judged = [index for index in sorted(samples) if samples[index].answer.verdict is not None]
    return {index for index in judged[:num_asked] if not samples[index].left_out}


def _build_assessments(sample: Sample, is_scored: bool, run_id: str, record: Record) -> list[Any]:
    """Return the gold answer as an expectation, and the verdict of a scored question as feedback.

    The feedback of a question with several answers is the fraction of correct answers.
    """
    from mlflow.entities import AssessmentSource, Expectation, Feedback
    from mlflow.tracing.constant import AssessmentMetadataKey

    source = AssessmentSource("CODE", f"runner task={record.task} version {record.task_version}")
    metadata = {AssessmentMetadataKey.SOURCE_RUN_ID: run_id}
    assessments: list[Any] = []
    if sample.gold is not None:
        assessments.append(Expectation(EXPECTATION, sample.gold, source, metadata=metadata))
    if is_scored:
        value = sample.accuracy() if sample.count_correct_answers[1] else sample.solved
        assessments.append(Feedback(FEEDBACK, value, source=source, metadata=metadata))
    return assessments


def _trace_name(record: Record, index: int) -> str:
    return f"{record.task} {index}"


def _read_trace_names(client: Any, experiment_id: str, run_id: str) -> set[str]:
    names: set[str] = set()
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment_id], run_id=run_id, max_results=PAGE, page_token=token, include_spans=False
        )
        names |= {str(trace.info.tags.get(NAME)) for trace in page}
        if not (token := page.token):
            return names


def _read_agent_calls_by_question(path: Path) -> dict[int, list[Call]]:
    """Return the calls of agent teams, grouped by question number.

    A call id has the form `test/QUESTION/ROUND/AGENT`.
    """
    last: dict[str, Call] = {}
    for _, line in read_lines(path, parse_signed_line, "call"):
        if "text" in line and str(line["id"]).startswith("test/"):
            last[str(line["id"])] = parse_agent_call(line)
    by_question: dict[int, list[Call]] = {}
    for call_id, call in last.items():
        by_question.setdefault(int(call_id.split("/")[1]), []).append(call)
    return by_question


def _log_sample_trace(
    client: Any,
    experiment_id: str,
    run_id: str,
    record: Record,
    sample: Sample,
    calls: Sequence[Call],
    began_ns: int,
    assessments: Sequence[Any],
) -> None:
    import mlflow
    from mlflow.tracing.provider import safe_set_span_in_context

    answer = sample.answer
    # MLflow pairs the traces of two runs by their inputs: equal questions need equal inputs
    inputs = {"question": sample.question, "index": sample.index}
    trace = client.start_trace(
        _trace_name(record, sample.index),
        span_type="AGENT" if calls else "LLM",
        inputs=remove_unset_keys(inputs),
        tags={"job_id": record.job_id} | ({"verdict": answer.verdict.value} if answer.verdict else {}),
        experiment_id=experiment_id,
        start_time_ns=began_ns,
        run_id=run_id,
    )
    # MLflow stores the assessments of the active trace together with the trace, in one request
    with safe_set_span_in_context(trace):
        # MLflow's tables would else show the inputs and outputs as JSON
        mlflow.update_current_trace(
            request_preview=(sample.question or "")[:MAX_PREVIEW_CHARACTERS],
            response_preview=(answer.parts.answer or "")[:MAX_PREVIEW_CHARACTERS],
        )
        for assessment in assessments:
            mlflow.log_assessment(trace.trace_id, assessment)
    _log_call_spans(client, trace.trace_id, trace.span_id, calls, began_ns)
    outputs: dict[str, Any] = _answer_parts(answer)
    if len(sample.answers) > 1:
        several = [_answer_parts(answer) for answer in sample.answers]
        outputs = {"answers": [parts["answer"] for parts in several]}
        if any(parts["thinking"] for parts in several):
            outputs |= {"thinking": [parts["thinking"] for parts in several]}
    outputs |= {
        "extracted": answer.extracted,
        "gold": sample.gold,
        "verdict": answer.verdict,
        "error": sample.error,
    }
    client.end_trace(
        trace.trace_id,
        outputs=remove_unset_keys(outputs),
        attributes={
            "prompt_sha256": sample.prompt_sha256,
            **_summarize_response(sample),
            **_build_token_usage_attribute(sample),
        },
        status="ERROR" if sample.failed else "OK",
        end_time_ns=began_ns + int(sample.seconds * NS),
    )


def _log_call_spans(client: Any, trace_id: str, parent_id: str, calls: Sequence[Call], began_ns: int) -> None:
    for call in calls:
        ended_ns = began_ns + int(call.seconds * NS)
        name = " ".join(filter(None, (call.who, call.what)))
        inputs = {"prompt_sha256": call.prompt_sha256}
        span = client.start_span(name, trace_id, parent_id, "AGENT", inputs=inputs, start_time_ns=began_ns)
        _log_call_spans(client, trace_id, span.span_id, call.calls or (), began_ns)
        client.end_span(
            trace_id,
            span.span_id,
            outputs=remove_unset_keys(_answer_parts(call.answer) | {"error": call.error}),
            attributes=_summarize_response(call),
            status="ERROR" if call.error else "OK",
            end_time_ns=ended_ns,
        )
        began_ns = ended_ns


def _answer_parts(answer: Answer) -> dict[str, str | None]:
    parts = answer.parts
    return {"answer": parts.answer, "thinking": parts.thinking if parts.has_thinking else None}


def _build_token_usage_attribute(sample: Sample) -> dict[str, dict[str, int]]:
    """Return the attribute from which MLflow's tables and charts read the tokens of a trace."""
    from mlflow.tracing.constant import SpanAttributeKey

    read, written = sample.prompt_tokens, sum(answer.num_tokens for answer in sample.answers)
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {SpanAttributeKey.CHAT_USAGE: usage}


def _summarize_response(response: Response) -> Mapping[str, Any]:
    counts = {
        "prompt_tokens": response.prompt_tokens,
        "new_tokens": response.answer.num_tokens,
        "by": response.by,
    }
    counts |= {"thinking_tokens": response.answer.thinking_tokens}
    shown: dict[str, Any] = remove_unset_keys(counts | {"finish_reason": response.answer.finish_reason.value})
    return shown
