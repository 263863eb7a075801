"""Result of sending a job's requests: samples, notes, measurements and costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from runner.core.answer_sources import describe_answering_models
from runner.records import sibling_jobs
from runner.records.engine_measurements import EngineMeasurements
from runner.records.jobs import Recorder
from runner.render.engine_notes import render_engine_notes
from runner.render.notes import render_notes
from runner.render.titles import DEGENERATION_BY_LENGTH, GUESSES_BY_KIND
from runner.scorers import cost_and_model_metrics
from runner.scorers.degeneration import build_degeneration_rows, compute_degeneration_metrics, measure_answers
from runner.tasks.collecting.draft_token_counts import build_draft_acceptance_rows
from runner.tasks.collecting.stored_answers import StoredAnswers
from runner_base import FinishReason, JobFailed, Sample
from runner_base.notes import Note, note
from runner_engine import EngineReport
from runner_engine.render.notes import render_engine_note

NOT_AGAIN = "Running the same command does not repeat these requests. Use rerun=failed"


@dataclass
class CollectedAnswers:
    """All samples of a job in the order of its questions, with notes, measurements and costs."""

    samples: list[Sample]
    # text where an engine or an earlier start has written it
    note_values: list[Note | str] = field(default_factory=list)
    # the questions without an answer: any makes the job FAILED
    problems: list[str] = field(default_factory=list)
    measured: EngineMeasurements | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    # facts about an engine that only other jobs have opened
    known: dict[str, str] = field(default_factory=dict)
    degeneration_rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """All notes as text."""
        return render_notes(self.note_values)

    @property
    def facts(self) -> dict[str, str]:
        """Recorded facts about the engine."""
        return self.measured.facts if self.measured else self.known

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Tables with the time spent in each part of the model, the acceptance rates of draft tokens, and
        the degenerate answers by length.
        """
        by_kind = build_draft_acceptance_rows(self.samples)
        of_parts = self.measured.tables if self.measured else {}
        further = {GUESSES_BY_KIND: by_kind, DEGENERATION_BY_LENGTH: self.degeneration_rows}
        return of_parts | {title: rows for title, rows in further.items() if rows}


def build_collected_answers(
    stored_answers: StoredAnswers,
    num_questions: int | None,
    measurements: EngineMeasurements | None,
    notes: list[Note],
    num_retried: int,
    error_key: str,
) -> CollectedAnswers:
    """Return the job's samples with notes and costs. Raises JobFailed if all requests failed."""
    samples = [
        stored_answers.recorder.samples[int(request.id)]
        for request in stored_answers.requests[:num_questions]
    ]
    own = [
        stored_answers.settled[sample.index] for sample in samples if sample.index in stored_answers.settled
    ]
    done = CollectedAnswers(
        samples, [*notes, *_build_reuse_notes(samples, own, num_retried)], measured=measurements
    )
    if measurements is not None:
        done.note_values += render_engine_notes(measurements.stats, measurements.report)
        done.metrics = dict(measurements.metrics)
        if "made_for_positions" in done.metrics:
            done.metrics["longest_text_tokens"] = max(map(count_tokens_of_longest_text, samples), default=0)
    elif report := _find_source_job_engine_report(stored_answers.recorder, samples):
        done.known = report.facts
        done.note_values += map(render_engine_note, report.notes)
    answers = measure_answers(samples)
    done.metrics |= cost_and_model_metrics(samples) | compute_degeneration_metrics(answers)
    done.degeneration_rows = build_degeneration_rows(answers)
    if num_stuck := sum(answer.is_stuck for answer in answers):
        done.metrics["cut_off_loops"] = num_stuck
        done.note_values.append(note("cut_off_in_loops", answers=num_stuck, total=len(answers)))
    if full := sum(
        answer.finish_reason is FinishReason.context for each in samples for answer in each.answers
    ):
        done.metrics["stopped_by_context"] = full
        done.note_values.append(note("context_full", "warning", answers=full))
    if measurements is not None and (models := describe_answering_models(samples)):
        measurements.report.facts["answered_by"] = models
        if "," in models and not any(sample.calls for sample in samples):
            done.note_values.append(note("server_changed_model", "warning", models=models))
    done.problems = describe_failures_unless_all_failed(error_key, samples)
    return done


def count_tokens_of_longest_text(sample: Sample) -> int:
    """Return the number of tokens of the sample's prompt with its longest answer."""
    return sample.prompt_tokens + max((answer.num_tokens for answer in sample.answers), default=0)


def describe_failures_unless_all_failed(error_key: str, samples: list[Sample]) -> list[str]:
    """Return a message about each kind of failed request. Raises JobFailed if all requests failed."""
    failed = [sample for sample in samples if sample.failed]
    permanent = [sample for sample in failed if sample.permanent]
    if failed and len(failed) == len(samples):
        hint = f". {NOT_AGAIN}" if len(permanent) == len(failed) else ""
        raise JobFailed(
            f"all requests failed. First error: {failed[0].error}{hint}", key=error_key, code="failed"
        )
    return describe_unanswered_questions(samples)


def describe_unanswered_questions(samples: list[Sample]) -> list[str]:
    failed = [sample for sample in samples if sample.failed]
    permanent = [sample for sample in failed if sample.permanent]
    temporary = [sample for sample in failed if not sample.permanent]
    kinds = (
        (
            temporary,
            "ended in an error",
            "The other answers are saved. Run the same command to repeat these requests",
        ),
        (permanent, "cannot be answered", f"The other answers are saved. {NOT_AGAIN}"),
    )
    return [
        (
            f"{len(some)} of {len(samples)} prompts {how}. First error (prompt {some[0].index}): "
            f"{some[0].error}. {then}"
        )
        for some, how, then in kinds
        if some
    ]


def _build_reuse_notes(samples: list[Sample], stored_samples: list[Sample], num_retried: int) -> list[Note]:
    """Return notes on how many samples were read from disk or reused from other jobs."""
    generated = sum(sample.reused_from is None for sample in stored_samples)
    givers = Counter(sample.reused_from for sample in samples if sample.reused_from is not None)
    notes = [note("samples_on_disk", count=generated, total=len(samples))] * bool(generated)
    notes += [note("asked_again_after_error", count=num_retried)] * bool(num_retried)
    return notes + [
        note("samples_reused", count=count, total=len(samples), job=giver)
        for giver, count in givers.most_common()
    ]


def _find_source_job_engine_report(recorder: Recorder, samples: list[Sample]) -> EngineReport | None:
    givers = Counter(sample.reused_from for sample in samples if sample.reused_from is not None)
    for giver, _ in givers.most_common():
        if measured := EngineMeasurements.read_from_folder(
            sibling_jobs.sibling_job_folder(recorder.job, str(giver))
        ):
            return measured.report
    return None
