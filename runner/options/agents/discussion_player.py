"""Runs many discussions in one engine session, and batches their model calls.

No question waits for another. Ready calls are submitted in batches, because calls that
arrive together share prompt prefixes, and admitting ten sequences costs as much as
admitting one. Programs run in threads meanwhile. Recorded calls are reused. The session
opens at the first call without a record.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from runner.options.agents.discussion import AgentCall, AnsweredCall, Discussion
from runner.options.agents.keys import Role
from runner.sandbox.sandbox import CodeOutcome
from runner_base import Call, FinishReason, signals
from runner_engine import Completion, Event, PartialAnswers, Request, RequestId, Session, run_requests

BATCHES = 8  # ready calls wait until they are an eighth of those that are under way


class CallLog(Protocol):
    """Interface of the agent call log, which records each call as soon as it is answered."""

    def find_answer(self, call: AgentCall) -> AnsweredCall | None:
        """Return the recorded answer to a call, or None if the recorded prompt differs."""

    def add(self, answered_call: AnsweredCall) -> None: ...

    def add_code_outcome(self, answered_call: AnsweredCall) -> None: ...

    def find_partial_answer(self, call: AgentCall) -> PartialAnswers | None:
        """Return the partial answer to a call that an interrupted run saved, or None."""

    def save_partial_answers(self, completions: list[Completion]) -> str:
        """Save unfinished answers when a signal ends the job, and return a message about them."""


class CodeRunner(Protocol):
    """Interface that runs programs written by a model. Any thread may call it."""

    def run_program(self, reply: str) -> CodeOutcome:
        """Run the program that a model's reply contains, and return the outcome."""


class DiscussionPlayer:
    """Runs several discussions concurrently in one engine session until all have ended."""

    def __init__(
        self,
        call_log: CallLog,
        code_runner: CodeRunner,
        open_session: Callable[[], Session],
        on_step: Callable[[], None] = lambda: None,
        max_running_programs: int = 2,
        get_adapter: Callable[[Role | None], str | None] = lambda _: None,
    ) -> None:
        self._records, self._code, self._open_session, self._on_step = (
            call_log,
            code_runner,
            open_session,
            on_step,
        )
        self._session: Session | None = None
        self._adapter_of = get_adapter
        self._pool = ThreadPoolExecutor(max_running_programs, thread_name_prefix="program")
        self._ready: list[AgentCall] = []
        self._asked: dict[RequestId, AgentCall] = {}
        self._discussions: dict[str, Discussion] = {}  # by the id of a call that has not been taken
        self._ran: queue.SimpleQueue[tuple[AnsweredCall, Future[CodeOutcome]]] = queue.SimpleQueue()
        self._running = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if self._session is not None:
            self._session.close()

    def run_discussions(
        self,
        discussions: Sequence[Discussion],
        on_discussion_end: Callable[[Discussion], None] = lambda _: None,
    ) -> None:
        """Run all discussions to their end, and call `on_discussion_end` after each discussion."""
        left = {discussion.key: discussion for discussion in discussions}

        def advance_discussion(discussion: Discussion) -> None:
            self._replay_or_queue_agent_calls(discussion)
            if discussion.has_ended and left.pop(discussion.key, None) is not None:
                self._cancel_calls_if_discussion_failed(discussion)
                on_discussion_end(discussion)

        def handle_events(events: list[Event], wait_for_program: bool = False) -> bool:
            for discussion in [
                *self._deliver_completions_to_discussions(events),
                *self._record_and_deliver_program_outcomes(wait_for_program),
            ]:
                advance_discussion(discussion)
            self._on_step()
            if left:
                self._submit_queued_calls()
            return bool(left)

        for discussion in discussions:
            advance_discussion(discussion)
        if left:
            self._submit_queued_calls()
        while left:
            if self._session is not None and self._asked:
                try:
                    run_requests(self._session, [], handle_events)
                except signals.BetweenSteps:
                    raise signals.Interrupted(
                        self._records.save_partial_answers(self._session.cancel_and_collect())
                    ) from None
            else:
                handle_events([], wait_for_program=True)

    def _replay_or_queue_agent_calls(self, discussion: Discussion) -> None:
        """Take the answers of ready calls from the call log if it has them, and queue the other calls."""
        turns = discussion.take_ready_calls()
        while turns:
            for turn in turns:
                self._discussions[turn.id] = discussion
                answered = self._records.find_answer(turn)
                if answered is None:
                    self._ready.append(turn)
                else:
                    self._deliver_answer(answered)
            turns = discussion.take_ready_calls()

    def _deliver_answer(self, answered_call: AnsweredCall) -> None:
        """Add an answer to its discussion. If the answer is a program that has not run yet, run it first."""
        if answered_call.turn.writes_code and answered_call.code is None and not answered_call.is_failed:
            self._running += 1
            future = self._pool.submit(self._code.run_program, answered_call.text)
            future.add_done_callback(lambda done: self._ran.put((answered_call, done)))
        else:
            self._discussions.pop(answered_call.turn.id).add_answer(answered_call)

    def _submit_queued_calls(self) -> None:
        if not self._ready or len(self._ready) * BATCHES < len(self._asked):
            return
        if self._session is None:
            self._session = self._open_session()
        for turn in sorted(self._ready, key=lambda turn: turn.role_name):
            begun, adapter = self._records.find_partial_answer(turn), self._adapter_of(turn.role)
            self._session.submit(Request(turn.id, turn.messages, begun=begun, adapter=adapter))
            self._asked[turn.id] = turn
        self._ready = []

    def _deliver_completions_to_discussions(self, events: list[Event]) -> list[Discussion]:
        """Handle the completions of one engine step, and return the discussions that they belong to."""
        discussions = []
        for event in events:
            if isinstance(event, Completion) and event.answer.finish_reason is not FinishReason.cancelled:
                discussion, answered = (
                    self._discussions[str(event.id)],
                    make_answered_call(self._asked.pop(event.id), event),
                )
                self._records.add(answered)
                self._deliver_answer(answered)
                discussions.append(discussion)
            elif isinstance(event, Completion):
                self._discussions.pop(self._asked.pop(event.id).id)
        return discussions

    def _record_and_deliver_program_outcomes(self, wait_for_program: bool) -> list[Discussion]:
        """Handle the outcomes of programs that have ended, and return the discussions that they belong to.

        With `wait_for_program`, the call blocks until a program has ended.
        """
        discussions = []
        while self._running and (wait_for_program or not self._ran.empty()):
            answered, done = self._ran.get()
            self._running -= 1
            wait_for_program = False
            discussion = self._discussions[answered.turn.id]
            answered = replace(answered, code=done.result())
            self._records.add_code_outcome(answered)
            self._deliver_answer(answered)
            discussions.append(discussion)
        return discussions

    def _cancel_calls_if_discussion_failed(self, discussion: Discussion) -> None:
        """Cancel all other calls of a discussion in which one call has failed."""
        if not discussion.failed:
            return
        self._ready = [turn for turn in self._ready if self._discussions[turn.id] is not discussion]
        for turn in self._asked.values():
            if self._discussions[turn.id] is discussion:
                assert self._session is not None
                self._session.cancel(turn.id)


def make_answered_call(call: AgentCall, completion: Completion) -> AnsweredCall:
    return AnsweredCall(
        call, Call.from_response(completion, who=call.role_name, seconds=round(completion.seconds, 6))
    )
