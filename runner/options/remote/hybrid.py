"""The engine of model=hybrid: the student drafts, the teacher reviews, the student revises; else
the teacher answers.

Student and teacher are ordinary engines, each with its own session; a session of this engine steps
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
from runner.options.remote.render.notes import NOTES, render_incident
from runner.options.remote.reviews import read_verdict, review_of, revision_of
from runner.options.remote.session import TICK_S
from runner_base import Answer, Call, FinishReason, one_line
from runner_base.notes import given, note
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
    """A student, or None if it cannot be loaded, and a teacher."""

    capabilities = CAPABILITIES

    def __init__(
        self, model: HybridConfig, student: Engine | None, teacher: ApiEngine, student_error: str = ""
    ) -> None:
        self.model, self.student, self.teacher, self.student_error = (model, student, teacher, student_error)
        self.incidents: Counter[Incident] = Counter()

    @property
    def stats(self) -> EngineStats:
        """The student's counts, since the teacher's work is not visible, with the notes of both."""
        own = self.student.stats if self.student is not None else EngineStats()
        incidents = [given(render_incident(incident, times)) for incident, times in self.incidents.items()]
        notes = [*own.notes, *self.teacher.stats.notes, *incidents]
        teacher = self.teacher.stats
        return replace(
            own, rows_alive=own.rows_alive + teacher.rows_alive, notes=notes, servers=teacher.servers
        )

    def load(self) -> EngineReport:
        """Ask the teacher's server for its model, and load the student; without a student the
        teacher answers alone."""
        report, own = self.teacher.load(), EngineReport()
        if self.student is not None:
            try:
                own = self.student.load()
            except Exception as error:  # noqa: BLE001 - any reason why it cannot load
                self.drop_student(error)
        facts = own.facts | report.facts | {"teacher": self.model.teacher.name}
        facts["student"] = (
            self.model.student.name if self.student is not None else f"none: {self.student_error}"
        )
        notes = [*own.notes, *report.notes]
        if self.student is None:
            alone = note("answers_alone", "warning", error=self.student_error)
            log.warning("%s", render_note(alone, NOTES))
            notes.insert(0, given(render_note(note("run_again", "warning", reason=alone), NOTES)))
        return EngineReport(report.metrics | own.metrics, facts, notes)

    def drop_student(self, error: Exception) -> None:
        """Continue without the student."""
        assert self.student is not None
        self.student.close()
        self.student, self.student_error = None, f"{type(error).__name__}: {one_line(error)}"

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as it would be sent to the teacher, which is always available."""
        return self.teacher.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Refuse, as the teacher does."""
        return self.teacher.decode(ids)

    def open(self, batch_size: int | None = None) -> HybridSession:
        """Open a session with both."""
        return HybridSession(self, batch_size)

    def arithmetic(self) -> None:
        """Nothing is known of the teacher's machine."""

    def close(self) -> None:
        """Close both engines."""
        if self.student is not None:
            self.student.close()
        self.teacher.close()


@dataclass(eq=False)
class Case:
    """A question under way between student and teacher."""

    request: Request
    sha256: str
    calls: list[Call] = field(default_factory=list)
    cost_usd: float | None = None
    latest: Completion | None = None  # the student's answer
    reviews: int = 0
    is_over: bool = False
    started: float = 0.0


class HybridSession(Session):
    """Steps the student's and the teacher's session, and passes each question between them."""

    def __init__(self, engine: HybridEngine, batch_size: int | None) -> None:
        super().__init__(CAPABILITIES)
        self.engine, self.model = engine, engine.model
        self.student = None if engine.student is None else engine.student.open(batch_size)
        self.teacher = engine.teacher.open()
        # (student or teacher, id of its request) -> (question, purpose)
        self._pending: dict[tuple[str, RequestId], tuple[Case, str]] = {}
        self._events: list[Event] = []

    def _admit(self, request: Request) -> Case:
        self.engine.teacher.parameters(request)  # refuses what the teacher's API cannot express
        return Case(request, request_sha256(self.engine.encode(request)[0], request))

    def _advance(self, arrived: list[Case], cancelled: set[RequestId]) -> list[Event]:
        for case in arrived:
            case.started = time.perf_counter()
            self._ask_student(case, "draft", case.request)
        for (who, request_id), (case, _) in list(self._pending.items()):
            if case.request.id in cancelled:
                session = self.student if who == STUDENT else self.teacher
                if session is not None:
                    session.cancel(request_id)
                self._end(case, None, TEACHER)
        self._handle(STUDENT, self._step_student())
        self.teacher.tick_s = TICK_S if self.student is None or self.student.idle else 0.0
        self._handle(TEACHER, self.teacher.step())
        events, self._events = self._events, []
        return events

    def _drop(self) -> None:
        if self.student is not None:
            self.student.close()
        self.teacher.close()
        self._pending.clear()

    def _step_student(self) -> list[Event]:
        """Step the student; if it breaks down, the teacher takes over."""
        if self.student is None or self.student.idle:
            return []
        try:
            return self.student.step()
        except Exception as error:
            log.exception("the student broke down, so the teacher continues alone")
            self.engine.incidents[Incident("broke_down", one_line(error))] += 1
            self.student.close()
            self.student = None
            orphans = [case for (who, _), (case, _) in self._pending.items() if who == STUDENT]
            self._pending = {key: value for key, value in self._pending.items() if key[0] != STUDENT}
            for case in orphans:
                self._ask_teacher(case)
            return []

    def _handle(self, who: str, events: Iterable[Event]) -> None:
        for event in events:
            if not isinstance(event, Completion):
                continue
            case, what = self._pending.pop((who, event.id))
            if case.is_over:
                continue
            self._record_call(case, who, what, event)
            if who == STUDENT:
                self._on_student_answer(case, event)
            elif what == "answer":
                self._end(case, event, TEACHER)
            else:
                self._on_review(case, event)

    def _record_call(self, case: Case, who: str, what: str, completion: Completion) -> None:
        # the completion of the question says them
        unsaid = {"permanent": False, "by": None, "cost_usd": None}
        call = Call.of(completion, who=who, what=what, seconds=round(completion.seconds, 6), **unsaid)
        case.calls.append(call)
        if completion.cost_usd is not None:
            case.cost_usd = (case.cost_usd or 0.0) + completion.cost_usd

    # ------------------------------------------------------------------------------------ the rules

    def _ask_student(self, case: Case, what: str, request: Request) -> None:
        if self.student is None:
            self._ask_teacher(case)
            return
        self._pending[STUDENT, request.id] = case, what
        try:
            self.student.submit(replace(request, deltas=False))
        except Exception as error:  # noqa: BLE001 - then the teacher answers
            del self._pending[STUDENT, request.id]
            self.engine.incidents[Incident("not_asked", one_line(error))] += 1
            self._ask_teacher(case)

    def _on_student_answer(self, case: Case, completion: Completion) -> None:
        answer = completion.answer.parts.answer
        if completion.error is not None or not answer.strip():
            self.engine.incidents[Incident("no_text")] += 1
            self._ask_teacher(case)
            return
        case.latest, case.reviews = completion, case.reviews + 1
        review = Request(
            f"{case.request.id}/review {case.reviews}",
            review_of(case.request.prompt, answer),
            max_new_tokens=self.model.review_tokens,
            sampling=GREEDY,
        )
        self._submit_to_teacher(case, "review", review)

    def _on_review(self, case: Case, completion: Completion) -> None:
        verdict = read_verdict(completion.answer.parts.answer)
        if completion.error is None and verdict.score is None:
            self.engine.incidents[Incident("no_json")] += 1
        if verdict.score is not None and verdict.score >= self.model.threshold:
            self._end(case, case.latest, STUDENT)
        elif case.reviews >= self.model.rounds or completion.error is not None or case.latest is None:
            self._ask_teacher(case)
        else:
            prompt = revision_of(case.request.prompt, case.latest.answer.parts.answer, verdict.feedback)
            revision = replace(case.request, id=f"{case.request.id}/revision {case.reviews}", prompt=prompt)
            self._ask_student(case, "revision", revision)

    def _ask_teacher(self, case: Case) -> None:
        self._submit_to_teacher(case, "answer", replace(case.request, deltas=False))

    def _submit_to_teacher(self, case: Case, what: str, request: Request) -> None:
        self._pending[TEACHER, request.id] = case, what
        self.teacher.submit(request)

    def _end(self, case: Case, of: Completion | None, who: str) -> None:
        """Add the completion of a question to the events, with the answer of one; None: it was
        cancelled."""
        case.is_over = True
        seconds = time.perf_counter() - case.started
        answer = Answer("", [], FinishReason.cancelled) if of is None else of.answer
        for text, is_thinking in ((answer.thinking, True), (answer.text, False)):
            if text and case.request.deltas:
                self._events.append(Delta(case.request.id, 0, text, is_thinking))
        completion = Completion(
            replace(answer, new_tokens=sum(call.answer.tokens for call in case.calls)),
            id=case.request.id,
            prompt_sha256=case.sha256,
            prompt_tokens=sum(call.prompt_tokens for call in case.calls),
            first_token_s=seconds,  # no text is returned before it is clear whose answer counts
            seconds=seconds,
            error=None if of is None else of.error,
            by=None if of is None else who,
            cost_usd=case.cost_usd,
            calls=case.calls,
        )
        self._events.append(completion)
