"""The engine of model=hybrid: the student drafts, the teacher reviews, the student revises; else the teacher answers.

Student and teacher are engines like any other, each with a session of its own; a session of this engine steps both.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from runner.config.model import HybridConfig
from runner.config.sampling import GREEDY
from runner.core.errors import one_line
from runner.core.result import Call, FinishReason
from runner.engines.base import (
    Capability,
    Completion,
    Delta,
    Engine,
    EngineReport,
    Event,
    Request,
    RequestId,
    request_sha256,
)
from runner.engines.remote.engine import ApiEngine
from runner.engines.remote.reviews import read_verdict, review_of, revision_of
from runner.engines.remote.session import TICK_S
from runner.engines.session import Session
from runner.engines.stats import EngineStats

log = logging.getLogger(__name__)
STUDENT, TEACHER = "student", "teacher"
CAPABILITIES = frozenset({Capability.chat, Capability.deltas, Capability.sampling})


class HybridEngine:
    """A student, or none where it cannot be loaded, and a teacher."""

    capabilities = CAPABILITIES

    def __init__(self, model: HybridConfig, student: Engine | None, teacher: ApiEngine, why_none: str = "") -> None:
        self.model, self.student, self.teacher, self.why_none = model, student, teacher, why_none
        self.happened: Counter[str] = Counter()  # otherwise than it should have

    @property
    def stats(self) -> EngineStats:
        """The student's, whose work is seen; what went otherwise than asked for, of all."""
        own = self.student.stats if self.student is not None else EngineStats()
        what = [f"{what}: {number} times" for what, number in self.happened.items()]
        notes = [*own.notes, *self.teacher.stats.notes, *what]
        return replace(own, rows_alive=own.rows_alive + self.teacher.stats.rows_alive, notes=notes)

    def load(self) -> EngineReport:
        """Ask for the teacher, and load the student; where that fails, the teacher is alone."""
        report, own = self.teacher.load(), EngineReport()
        if self.student is not None:
            try:
                own = self.student.load()
            except Exception as error:  # noqa: BLE001 - whatever keeps it from loading
                self.lose(error)
        facts = own.facts | report.facts | {"teacher": self.model.teacher.name}
        facts["student"] = self.model.student.name if self.student is not None else f"none: {self.why_none}"
        notes = [*own.notes, *report.notes]
        if self.student is None:
            alone = f"the student cannot be loaded, so the teacher answers alone ({self.why_none})"
            log.warning("%s", alone)
            notes.insert(0, f"{alone}; with a student, rerun=all asks again")
        return EngineReport(report.metrics | own.metrics, facts, notes)

    def lose(self, error: Exception) -> None:
        """Go on without the student."""
        assert self.student is not None
        self.student.close()
        self.student, self.why_none = None, f"{type(error).__name__}: {one_line(error)}"

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as it would go to the teacher, which is there at all times."""
        return self.teacher.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Refuse, as the teacher does."""
        return self.teacher.decode(ids)

    def open(self, batch_size: int | None = None) -> HybridSession:
        """Open a session with both."""
        return HybridSession(self, batch_size)

    def arithmetic(self) -> None:
        """What the teacher does is not seen."""

    def close(self) -> None:
        """Let go of both."""
        if self.student is not None:
            self.student.close()
        self.teacher.close()


@dataclass(eq=False)
class Case:
    """A question on its way between the two."""

    request: Request
    sha256: str
    calls: list[Call] = field(default_factory=list)
    cost_usd: float | None = None
    answer: Completion | None = None  # the student's latest
    reviews: int = 0
    is_over: bool = False
    started: float = 0.0


class HybridSession(Session):
    """Steps the student's session and the teacher's, and carries each question between them."""

    def __init__(self, engine: HybridEngine, batch_size: int | None) -> None:
        super().__init__(CAPABILITIES)
        self.engine, self.model = engine, engine.model
        self.student = None if engine.student is None else engine.student.open(batch_size)
        self.teacher = engine.teacher.open()
        self._asked: dict[tuple[str, RequestId], tuple[Case, str]] = {}  # who, id there -> case, what for
        self._events: list[Event] = []

    def _admit(self, request: Request) -> Case:
        self.engine.teacher.parameters(request)  # refuses what the teacher could not be asked
        return Case(request, request_sha256(self.engine.encode(request)[0], request))

    def _advance(self, arrived: list[Case], cancelled: set[RequestId]) -> list[Event]:
        for case in arrived:
            case.started = time.perf_counter()
            self._ask_student(case, "draft", case.request)
        for (who, there), (case, _) in list(self._asked.items()):
            if case.request.id in cancelled:
                session = self.student if who == STUDENT else self.teacher
                if session is not None:
                    session.cancel(there)
                self._end(case, None, TEACHER)
        self._hear(STUDENT, self._step_student())
        self.teacher.tick_s = TICK_S if self.student is None or self.student.idle else 0.0
        self._hear(TEACHER, self.teacher.step())
        events, self._events = self._events, []
        return events

    def _drop(self) -> None:
        if self.student is not None:
            self.student.close()
        self.teacher.close()
        self._asked.clear()

    def _step_student(self) -> list[Event]:
        """Step the student; one that breaks is gone, and the teacher takes over."""
        if self.student is None or self.student.idle:
            return []
        try:
            return self.student.step()
        except Exception as error:
            log.exception("the student broke down, so the teacher goes on alone")
            self.engine.happened[f"the student broke down ({one_line(error)}) and the teacher went on alone"] += 1
            self.student.close()
            self.student = None
            orphans = [case for (who, _), (case, _) in self._asked.items() if who == STUDENT]
            self._asked = {key: value for key, value in self._asked.items() if key[0] != STUDENT}
            for case in orphans:
                self._ask_teacher(case)
            return []

    def _hear(self, who: str, events: Iterable[Event]) -> None:
        for event in events:
            if not isinstance(event, Completion):
                continue
            case, what = self._asked.pop((who, event.id))
            if case.is_over:
                continue
            self._note(case, who, what, event)
            if who == STUDENT:
                self._heard_student(case, event)
            elif what == "answer":
                self._end(case, event, TEACHER)
            else:
                self._heard_review(case, event)

    def _note(self, case: Case, who: str, what: str, said: Completion) -> None:
        call = Call(
            who,
            said.prompt_sha256,
            said.prompt_tokens,
            said.text,
            said.token_ids,
            said.finish_reason,
            round(said.seconds, 6),
            what,
            said.new_tokens,
            said.error,
        )
        case.calls.append(call)
        if said.cost_usd is not None:
            case.cost_usd = (case.cost_usd or 0.0) + said.cost_usd

    # -------------------------------------------------------------------------------------------- the rules

    def _ask_student(self, case: Case, what: str, request: Request) -> None:
        if self.student is None:
            self._ask_teacher(case)
            return
        self._asked[STUDENT, request.id] = case, what
        try:
            self.student.submit(replace(request, deltas=False))
        except Exception as error:  # noqa: BLE001 - a student that cannot be asked has erred
            del self._asked[STUDENT, request.id]
            self.engine.happened[f"the student could not be asked ({one_line(error)})"] += 1
            self._ask_teacher(case)

    def _heard_student(self, case: Case, said: Completion) -> None:
        if said.error is not None or not said.text.strip():
            self.engine.happened["the student erred or said nothing"] += 1
            self._ask_teacher(case)
            return
        case.answer, case.reviews = said, case.reviews + 1
        review = Request(
            f"{case.request.id}/review {case.reviews}",
            review_of(case.request.prompt, said.text),
            max_new_tokens=self.model.review_tokens,
            sampling=GREEDY,
        )
        self._submit_to_teacher(case, "review", review)

    def _heard_review(self, case: Case, said: Completion) -> None:
        verdict = read_verdict(said.text)
        if said.error is None and verdict.score is None:
            self.engine.happened['a review was no JSON {"score", "feedback"} and counted as below the threshold'] += 1
        if verdict.score is not None and verdict.score >= self.model.threshold:
            self._end(case, case.answer, STUDENT)
        elif case.reviews >= self.model.rounds or said.error is not None or case.answer is None:
            self._ask_teacher(case)
        else:
            prompt = revision_of(case.request.prompt, case.answer.text, verdict.feedback)
            revision = replace(case.request, id=f"{case.request.id}/revision {case.reviews}", prompt=prompt)
            self._ask_student(case, "revision", revision)

    def _ask_teacher(self, case: Case) -> None:
        self._submit_to_teacher(case, "answer", replace(case.request, deltas=False))

    def _submit_to_teacher(self, case: Case, what: str, request: Request) -> None:
        self._asked[TEACHER, request.id] = case, what
        self.teacher.submit(request)

    def _end(self, case: Case, said: Completion | None, who: str) -> None:
        """Tell what became of a question; None: it was cancelled."""
        case.is_over = True
        text, seconds = ("" if said is None else said.text), time.perf_counter() - case.started
        if text and case.request.deltas:
            self._events.append(Delta(case.request.id, 0, text))
        completion = Completion(
            id=case.request.id,
            text=text,
            token_ids=[] if said is None else said.token_ids,
            finish_reason=FinishReason.cancelled if said is None else said.finish_reason,
            prompt_sha256=case.sha256,
            prompt_tokens=sum(call.prompt_tokens for call in case.calls),
            first_token_s=seconds,  # nothing is told before it is clear whose answer counts
            seconds=seconds,
            error=None if said is None else said.error,
            new_tokens=sum(call.tokens for call in case.calls),
            by=None if said is None else who,
            cost_usd=case.cost_usd,
            calls=case.calls,
        )
        self._events.append(completion)
