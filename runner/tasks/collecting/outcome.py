"""What came of a job's questions: the samples in their order, where they come from, and what they
cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from runner.core.sides import answered_by
from runner.records import sibling_jobs
from runner.records.jobs import Recorder
from runner.records.measured import Measured
from runner.render.engine_notes import engine_notes
from runner.render.notes import render_notes
from runner.render.titles import GUESSES_BY_KIND
from runner.scorers import cost_and_sides
from runner.tasks.collecting.guesses import rows_by_kind
from runner.tasks.collecting.kept import Kept
from runner_base import FinishReason, JobFailed, Sample
from runner_base.notes import Note, note
from runner_engine import EngineReport
from runner_engine.render.notes import render

NOT_AGAIN = "The same command would get the same error and does not ask again; rerun=failed does"


@dataclass
class Collected:
    """All samples of a job in the order of its questions, and what they cost."""

    samples: list[Sample]
    # text where an engine or an earlier start has written it
    note_values: list[Note | str] = field(default_factory=list)
    # the questions without an answer: any makes the job FAILED
    problems: list[str] = field(default_factory=list)
    measured: Measured | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    # facts about an engine that only other jobs have opened
    known: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """The notes as a result has them."""
        return render_notes(self.note_values)

    @property
    def facts(self) -> dict[str, str]:
        """Facts about the engine."""
        return self.measured.facts if self.measured else self.known

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """What each part of the model took, if it has several, and how many guessed tokens were
        right."""
        by_kind = rows_by_kind(self.samples)
        of_parts = self.measured.tables if self.measured else {}
        return of_parts | ({GUESSES_BY_KIND: by_kind} if by_kind else {})


def collected(
    kept: Kept, enough: int | None, measured: Measured | None, notes: list[Note], asked_again: int, what: str
) -> Collected:
    """Return the samples up to the last one that was needed, with notes and costs; a job without
    any has failed."""
    samples = [kept.recorder.samples[int(request.id)] for request in kept.requests[:enough]]
    own = [kept.settled[sample.index] for sample in samples if sample.index in kept.settled]
    done = Collected(samples, [*notes, *_where_from(samples, own, asked_again)], measured=measured)
    if measured is not None:
        done.note_values += engine_notes(measured.stats, measured.report)
        done.metrics = dict(measured.metrics)
    elif report := _engine_of_reused(kept.recorder, samples):
        done.known = report.facts
        done.note_values += map(render, report.notes)
    done.metrics |= cost_and_sides(samples)
    if full := sum(
        answer.finish_reason is FinishReason.context for each in samples for answer in each.answers
    ):
        done.metrics["stopped_by_context"] = full
        done.note_values.append(note("context_full", "warning", answers=full))
    if measured is not None and (models := answered_by(samples)):
        measured.report.facts["answered_by"] = models
        if "," in models and not any(sample.calls for sample in samples):
            done.note_values.append(note("server_changed_model", "warning", models=models))
    done.problems = problems(what, samples)
    return done


def problems(what: str, samples: list[Sample]) -> list[str]:
    """Say which questions have no answer, why, and what to do; raise JobFailed if none has one."""
    failed = [sample for sample in samples if sample.failed]
    permanent = [sample for sample in failed if sample.permanent]
    if failed and len(failed) == len(samples):
        hint = f". {NOT_AGAIN}" if len(permanent) == len(failed) else ""
        raise JobFailed(
            f"nothing could be completed; the first reason: {failed[0].error}{hint}", key=what, code="failed"
        )
    return unanswered(samples)


def unanswered(samples: list[Sample]) -> list[str]:
    """Say which questions have no answer, why, and what to do."""
    failed = [sample for sample in samples if sample.failed]
    permanent = [sample for sample in failed if sample.permanent]
    temporary = [sample for sample in failed if not sample.permanent]
    kinds = (
        (temporary, "ended in an error", "The others are kept; the same command asks these again"),
        (permanent, "cannot be answered", f"The others are kept. {NOT_AGAIN}"),
    )
    return [
        f"{len(some)} of {len(samples)} prompts {how}, number {some[0].index} first: {some[0].error}. {then}"
        for some, how, then in kinds
        if some
    ]


def _where_from(samples: list[Sample], own: list[Sample], again: int) -> list[Note]:
    """Return where the samples come from, unless they were all generated just now."""
    generated = sum(sample.reused_from is None for sample in own)
    givers = Counter(sample.reused_from for sample in samples if sample.reused_from is not None)
    notes = [note("samples_on_disk", count=generated, total=len(samples))] * bool(generated)
    notes += [note("asked_again_after_error", count=again)] * bool(again)
    return notes + [
        note("samples_reused", count=count, total=len(samples), job=giver)
        for giver, count in givers.most_common()
    ]


def _engine_of_reused(recorder: Recorder, samples: list[Sample]) -> EngineReport | None:
    """Return the engine report of the job that most samples were reused from; without
    measurements."""
    givers = Counter(sample.reused_from for sample in samples if sample.reused_from is not None)
    for giver, _ in givers.most_common():
        if measured := Measured.read(sibling_jobs.folder_of(recorder.job, str(giver))):
            return measured.report
    return None
