"""Many questions over one open session: a call is submitted as soon as its inputs are there, while
others decode.

No question waits for another. Ready calls are submitted in batches, not one by one: calls that
arrive together share the prefixes of their prompts, and a pass that admits one row costs as much as
one that admits ten. Programs run in threads meanwhile. Recorded calls are reused; the session is
opened at the first call that is not recorded.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from runner.options.agents.keys import Role
from runner.options.agents.sandbox import CodeOutcome
from runner.options.agents.team import AgentCall, Answered, Discussion
from runner_base import Call, FinishReason, signals
from runner_engine import Begun, Completion, Event, Request, RequestId, Session, gather

BATCHES = 8  # ready calls wait until they are an eighth of those that are under way


class CallLog(Protocol):
    """Where calls are recorded, each as soon as it is answered."""

    def find(self, turn: AgentCall) -> Answered | None:
        """Return the recorded answer to exactly this prompt, with or without its program's
        outcome."""

    def add(self, answered: Answered) -> None:
        """Record the answer to a call."""

    def add_code(self, answered: Answered) -> None:
        """Record the outcome of a call's program."""

    def begun(self, turn: AgentCall) -> Begun | None:
        """Return what an interrupted start has of an answer."""

    def keep(self, unfinished: list[Completion]) -> str:
        """Keep what was under way when a signal came, and say what becomes of it."""


class Code(Protocol):
    """Runs programs that a model has written; any thread may call it."""

    def run(self, text: str) -> CodeOutcome:
        """Run the program in a text and return its outcome."""


class Player:
    """Plays discussions to their end over one session, several at a time."""

    def __init__(
        self,
        records: CallLog,
        code: Code,
        open_session: Callable[[], Session],
        on_step: Callable[[], None] = lambda: None,
        programs_at_once: int = 2,
        adapter_of: Callable[[Role | None], str | None] = lambda _: None,
    ) -> None:
        self._records, self._code, self._open_session, self._on_step = (records, code, open_session, on_step)
        self._session: Session | None = None
        self._adapter_of = adapter_of
        self._pool = ThreadPoolExecutor(programs_at_once, thread_name_prefix="program")
        self._ready: list[AgentCall] = []
        self._asked: dict[RequestId, AgentCall] = {}
        self._discussions: dict[str, Discussion] = {}  # by the id of a call that has not been taken
        self._ran: queue.SimpleQueue[tuple[Answered, Future[CodeOutcome]]] = queue.SimpleQueue()
        self._running = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if self._session is not None:
            self._session.close()

    def play(
        self, discussions: Sequence[Discussion], on_end: Callable[[Discussion], None] = lambda _: None
    ) -> None:
        """Play all discussions to their end; `on_end` is called with each as it ends."""
        left = {discussion.key: discussion for discussion in discussions}

        def advance(discussion: Discussion) -> None:
            self._submit_ready(discussion)
            if discussion.has_ended and left.pop(discussion.key, None) is not None:
                self._cancel_if_failed(discussion)
                on_end(discussion)

        def listen(events: list[Event], wait: bool = False) -> bool:
            for discussion in [*self._take_completions(events), *self._take_programs(wait)]:
                advance(discussion)
            self._on_step()
            if left:
                self._submit()
            return bool(left)

        for discussion in discussions:
            advance(discussion)
        if left:
            self._submit()
        while left:
            if self._session is not None and self._asked:
                try:
                    gather(self._session, [], listen)
                except signals.BetweenSteps:
                    raise signals.Interrupted(self._records.keep(self._session.stop())) from None
            else:
                listen([], wait=True)

    def _submit_ready(self, discussion: Discussion) -> None:
        """Take the recorded answers to the calls that are ready, and queue the other calls."""
        turns = discussion.ready()
        while turns:
            for turn in turns:
                self._discussions[turn.id] = discussion
                answered = self._records.find(turn)
                if answered is None:
                    self._ready.append(turn)
                else:
                    self._take(answered)
            turns = discussion.ready()

    def _take(self, answered: Answered) -> None:
        """Give an answer to its discussion; if it has a program that was not run yet, run that
        first."""
        if answered.turn.writes_code and answered.code is None and not answered.failed:
            self._running += 1
            future = self._pool.submit(self._code.run, answered.text)
            future.add_done_callback(lambda done: self._ran.put((answered, done)))
        else:
            self._discussions.pop(answered.turn.id).take(answered)

    def _submit(self) -> None:
        """Submit the ready calls, if they are enough; those of one role together, since they share
        a prefix."""
        if not self._ready or len(self._ready) * BATCHES < len(self._asked):
            return
        if self._session is None:
            self._session = self._open_session()
        for turn in sorted(self._ready, key=lambda turn: turn.who):
            begun, adapter = self._records.begun(turn), self._adapter_of(turn.role)
            self._session.submit(Request(turn.id, turn.messages, begun=begun, adapter=adapter))
            self._asked[turn.id] = turn
        self._ready = []

    def _take_completions(self, events: list[Event]) -> list[Discussion]:
        """Take the completions of a step; return their discussions."""
        discussions = []
        for event in events:
            if isinstance(event, Completion) and event.answer.finish_reason is not FinishReason.cancelled:
                discussion, answered = (
                    self._discussions[str(event.id)],
                    answered_by(self._asked.pop(event.id), event),
                )
                self._records.add(answered)
                self._take(answered)
                discussions.append(discussion)
            elif isinstance(event, Completion):
                self._discussions.pop(self._asked.pop(event.id).id)
        return discussions

    def _take_programs(self, wait: bool) -> list[Discussion]:
        """Take the outcomes of programs that have ended, and return their discussions; with `wait`,
        wait for one."""
        discussions = []
        while self._running and (wait or not self._ran.empty()):
            answered, done = self._ran.get()
            self._running -= 1
            wait = False
            discussion = self._discussions[answered.turn.id]
            answered = replace(answered, code=done.result())
            self._records.add_code(answered)
            self._take(answered)
            discussions.append(discussion)
        return discussions

    def _cancel_if_failed(self, discussion: Discussion) -> None:
        """Drop and cancel the other calls of a question that has failed."""
        if not discussion.failed:
            return
        self._ready = [turn for turn in self._ready if self._discussions[turn.id] is not discussion]
        for turn in self._asked.values():
            if self._discussions[turn.id] is discussion:
                assert self._session is not None
                self._session.cancel(turn.id)


def answered_by(turn: AgentCall, completion: Completion) -> Answered:
    return Answered(turn, Call.of(completion, who=turn.who, seconds=round(completion.seconds, 6)))
