"""Engine of model=hybrid: a local model drafts and revises each answer, and a model on a server reviews the
draft.

If the reviews fail, the model on the server answers. Draft model (student) and fallback
model (teacher) are ordinary engines with one session each. A session of this engine steps
both.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from runner.options.remote.engine import ApiEngine
from runner.options.remote.incidents import Incident
from runner.options.remote.keys import HybridConfig
from runner.options.remote.render.notes import NOTES, format_incident
from runner.options.remote.reviews import build_review_prompt, build_revision_prompt, parse_review
from runner.options.remote.session import TICK_S
from runner_base import Answer, Call, FinishReason, to_one_line
from runner_base.notes import note, text_note
from runner_base.render.notes import render_note
from runner_engine import (
    Capability,
    Completion,
    Delta,
    Engine,
    EngineReport,
    EngineStats,
    Event,
    Request,
    RequestId,
    Session,
    request_sha256,
)
from runner_engine.settings.sampling import GREEDY

log = logging.getLogger(__name__)
STUDENT, TEACHER = "student", "teacher"
CAPABILITIES = frozenset(
    {Capability.chat, Capability.deltas, Capability.sampling, Capability.thinking_budget}
)


class HybridEngine:
    """Engine with a local draft model and a fallback model on a server.

    `student` is None if the draft model cannot be loaded.
    """

    capabilities = CAPABILITIES

    def __init__(
        self, model: HybridConfig, student: Engine | None, teacher: ApiEngine, student_error: str = ""
    ) -> None:
        self.model, self.student, self.teacher, self.student_error = (model, student, teacher, student_error)
        self.incidents: Counter[Incident] = Counter()

    @property
    def stats(self) -> EngineStats:
        """Statistics of the draft model, together with the notes of both models."""
        own = self.student.stats if self.student is not None else EngineStats()
        incidents = [
            text_note(format_incident(incident, times)) for incident, times in self.incidents.items()
        ]
        notes = [*own.notes, *self.teacher.stats.notes, *incidents]
        teacher = self.teacher.stats
        return replace(
            own, rows_alive=own.rows_alive + teacher.rows_alive, notes=notes, servers=teacher.servers
        )

    def load(self) -> EngineReport:
        """Connect to the fallback model's server and load the draft model. If loading fails, the fallback
        model works alone.
        """
        report, own = self.teacher.load(), EngineReport()
        if self.student is not None:
            try:
                own = self.student.load()
            except Exception as error:  # noqa: BLE001 - any reason why it cannot load
                self.close_failed_draft_model(error)
        facts = own.facts | report.facts | {"teacher": self.model.teacher.name}
        facts["student"] = (
            self.model.student.name if self.student is not None else f"none: {self.student_error}"
        )
        notes = [*own.notes, *report.notes]
        if self.student is None:
            alone = note("answers_alone", "warning", error=self.student_error)
            log.warning("%s", render_note(alone, NOTES))
            notes.insert(0, text_note(render_note(note("run_again", "warning", reason=alone), NOTES)))
        return EngineReport(report.metrics | own.metrics, facts, notes)

    def close_failed_draft_model(self, error: Exception) -> None:
        """Close the draft model after an error. The fallback model answers all further questions alone."""
        assert self.student is not None
        self.student.close()
        self.student, self.student_error = None, f"{type(error).__name__}: {to_one_line(error)}"

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        return self.teacher.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Raise an error, because the fallback model's server cannot convert token ids to text."""
        return self.teacher.decode(ids)

    def open(self, batch_size: int | None = None) -> HybridSession:
        return HybridSession(self, batch_size)

    def arithmetic(self) -> None:
        """Return None, because a server does not report its FLOP and bytes per token."""

    def close(self) -> None:
        if self.student is not None:
            self.student.close()
        self.teacher.close()


@dataclass(eq=False)
class PendingQuestion:
    """A question in progress, whose answer is being drafted, reviewed or revised."""

    request: Request
    sha256: str
    calls: list[Call] = field(default_factory=list)
    cost_usd: float | None = None
    latest: Completion | None = None  # the student's answer
    reviews: int = 0
    is_over: bool = False
    started: float = 0.0


class HybridSession(Session):
    """Session that combines the sessions of draft model and fallback model.

    Each question is drafted, reviewed and revised.
    """

    def __init__(self, engine: HybridEngine, batch_size: int | None) -> None:
        super().__init__(CAPABILITIES)
        self.engine, self.model = engine, engine.model
        self.student = None if engine.student is None else engine.student.open(batch_size)
        self.teacher = engine.teacher.open()
        # (student or teacher, id of its request) -> (question, purpose)
        self._pending: dict[tuple[str, RequestId], tuple[PendingQuestion, str]] = {}
        self._events: list[Event] = []

    def _admit(self, request: Request) -> PendingQuestion:
        self.engine.teacher.build_request_parameters(request)  # refuses what the teacher's API cannot express
        return PendingQuestion(request, request_sha256(self.engine.encode(request)[0], request))

    def _run_step(self, submitted: list[PendingQuestion], cancelled: set[RequestId]) -> list[Event]:
        for case in submitted:
            case.started = time.perf_counter()
            self._submit_to_draft_model_or_fallback(case, "draft", case.request)
        for (who, request_id), (case, _) in list(self._pending.items()):
            if case.request.id in cancelled:
                session = self.student if who == STUDENT else self.teacher
                if session is not None:
                    session.cancel(request_id)
                self._queue_final_completion(case, None, TEACHER)
        self._handle_events(STUDENT, self._step_draft_model())
        self.teacher.tick_s = TICK_S if self.student is None or self.student.is_idle else 0.0
        self._handle_events(TEACHER, self.teacher.step())
        events, self._events = self._events, []
        return events

    def _drop_requests(self) -> None:
        if self.student is not None:
            self.student.close()
        self.teacher.close()
        self._pending.clear()

    def _step_draft_model(self) -> list[Event]:
        """Run one step of the draft model. If it fails, the fallback model takes over its questions."""
        if self.student is None or self.student.is_idle:
            return []
        try:
            return self.student.step()
        except Exception as error:
            log.exception("the draft model failed, so the fallback model continues alone")
            self.engine.incidents[Incident("broke_down", to_one_line(error))] += 1
            self.student.close()
            self.student = None
            orphans = [case for (who, _), (case, _) in self._pending.items() if who == STUDENT]
            self._pending = {key: value for key, value in self._pending.items() if key[0] != STUDENT}
            for case in orphans:
                self._request_teacher_answer(case)
            return []

    def _handle_events(self, role: str, events: Iterable[Event]) -> None:
        for event in events:
            if not isinstance(event, Completion):
                continue
            case, what = self._pending.pop((role, event.id))
            if case.is_over:
                continue
            self._record_model_call(case, role, what, event)
            if role == STUDENT:
                self._submit_draft_for_review(case, event)
            elif what == "answer":
                self._queue_final_completion(case, event, TEACHER)
            else:
                self._accept_or_revise_draft(case, event)

    def _record_model_call(
        self, question: PendingQuestion, model_role: str, step_name: str, completion: Completion
    ) -> None:
        # the completion of the question says them
        unsaid = {"permanent": False, "by": None, "cost_usd": None}
        call = Call.from_response(
            completion, who=model_role, what=step_name, seconds=round(completion.seconds, 6), **unsaid
        )
        question.calls.append(call)
        if completion.cost_usd is not None:
            question.cost_usd = (question.cost_usd or 0.0) + completion.cost_usd

    # ------------------------------------------------------------------------------------ the rules

    def _submit_to_draft_model_or_fallback(
        self, question: PendingQuestion, purpose: str, request: Request
    ) -> None:
        if self.student is None:
            self._request_teacher_answer(question)
            return
        self._pending[STUDENT, request.id] = question, purpose
        try:
            self.student.submit(replace(request, deltas=False))
        except Exception as error:  # noqa: BLE001 - then the teacher answers
            del self._pending[STUDENT, request.id]
            self.engine.incidents[Incident("not_asked", to_one_line(error))] += 1
            self._request_teacher_answer(question)

    def _submit_draft_for_review(self, question: PendingQuestion, completion: Completion) -> None:
        answer = completion.answer.parts.answer
        if completion.error is not None or not answer.strip():
            self.engine.incidents[Incident("no_text")] += 1
            self._request_teacher_answer(question)
            return
        question.latest, question.reviews = completion, question.reviews + 1
        review = Request(
            f"{question.request.id}/review {question.reviews}",
            build_review_prompt(question.request.prompt, answer),
            max_new_tokens=self.model.review_tokens,
            sampling=GREEDY,
        )
        self._submit_to_teacher(question, "review", review)

    def _accept_or_revise_draft(self, question: PendingQuestion, completion: Completion) -> None:
        verdict = parse_review(completion.answer.parts.answer)
        if completion.error is None and verdict.score is None:
            self.engine.incidents[Incident("no_json")] += 1
        if verdict.score is not None and verdict.score >= self.model.threshold:
            self._queue_final_completion(question, question.latest, STUDENT)
        elif question.reviews >= self.model.rounds or completion.error is not None or question.latest is None:
            self._request_teacher_answer(question)
        else:
            prompt = build_revision_prompt(
                question.request.prompt, question.latest.answer.parts.answer, verdict.feedback
            )
            revision = replace(
                question.request, id=f"{question.request.id}/revision {question.reviews}", prompt=prompt
            )
            self._submit_to_draft_model_or_fallback(question, "revision", revision)

    def _request_teacher_answer(self, question: PendingQuestion) -> None:
        self._submit_to_teacher(question, "answer", replace(question.request, deltas=False))

    def _submit_to_teacher(self, question: PendingQuestion, purpose: str, request: Request) -> None:
        self._pending[TEACHER, request.id] = question, purpose
        self.teacher.submit(request)

    def _queue_final_completion(
        self, question: PendingQuestion, final_completion: Completion | None, role: str
    ) -> None:
        """Queue the final completion of a question, where None stands for a cancelled question."""
        question.is_over = True
        seconds = time.perf_counter() - question.started
        answer = (
            Answer("", [], FinishReason.cancelled) if final_completion is None else final_completion.answer
        )
        for text, is_thinking in ((answer.thinking, True), (answer.text, False)):
            if text and question.request.deltas:
                self._events.append(Delta(question.request.id, 0, text, is_thinking))
        completion = Completion(
            replace(answer, new_tokens=sum(call.answer.num_tokens for call in question.calls)),
            id=question.request.id,
            prompt_sha256=question.sha256,
            prompt_tokens=sum(call.prompt_tokens for call in question.calls),
            first_token_s=seconds,  # no text is returned before it is clear whose answer counts
            seconds=seconds,
            error=None if final_completion is None else final_completion.error,
            by=None if final_completion is None else role,
            cost_usd=question.cost_usd,
            calls=question.calls,
        )
        self._events.append(completion)
