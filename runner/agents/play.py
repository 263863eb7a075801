"""Many questions over one open session: an agent is asked as soon as its inputs are there, while others decode.

No question waits for another. What became ready is handed to the engine in lots, not one by one: calls that arrive
together share the beginnings of their prompts, and a pass that lets in one row costs as much as one for ten. Programs
run in threads meanwhile. Recorded calls are taken as they are, and the session is opened for the first that is not.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from runner.agents.sandbox import CodeOutcome
from runner.agents.team import AgentCall, Answered, Discussion
from runner.core.result import Call, FinishReason
from runner.engines.base import Completion, Event, Request, RequestId, gather
from runner.engines.session import Session

LOTS = 8  # that make up what is on its way: calls wait until an eighth as many as are under way are ready


class CallLog(Protocol):
    """Where calls are kept, each at once."""

    def find(self, turn: AgentCall) -> Answered | None:
        """Return what an earlier start has got for this very prompt, with or without its program's outcome."""

    def add(self, answered: Answered) -> None:
        """Keep what came back of a call."""

    def add_code(self, answered: Answered) -> None:
        """Keep what the program of a call came to."""


class Code(Protocol):
    """Runs programs that a model has written; any thread may ask."""

    def run(self, text: str) -> CodeOutcome:
        """Return what it came to."""


class Player:
    """Plays discussions to their end, some of them after others, over one session."""

    def __init__(
        self,
        records: CallLog,
        code: Code,
        open_session: Callable[[], Session],
        on_step: Callable[[], None] = lambda: None,
        programs_at_once: int = 2,
    ) -> None:
        self._records, self._code, self._open_session, self._on_step = records, code, open_session, on_step
        self._session: Session | None = None
        self._pool = ThreadPoolExecutor(programs_at_once, thread_name_prefix="program")
        self._ready: list[AgentCall] = []
        self._asked: dict[RequestId, AgentCall] = {}
        self._courses: dict[str, Discussion] = {}  # by the id of a call that is ready, asked or run
        self._ran: queue.SimpleQueue[tuple[Answered, Future[CodeOutcome]]] = queue.SimpleQueue()
        self._running = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if self._session is not None:
            self._session.close()

    def play(self, discussions: Sequence[Discussion], on_end: Callable[[Discussion], None] = lambda _: None) -> None:
        """Play all of them to their end; `on_end` hears of each as it gets there."""
        left = {discussion.key: discussion for discussion in discussions}

        def look(discussion: Discussion) -> None:
            self._go_on(discussion)
            if discussion.has_ended and left.pop(discussion.key, None) is not None:
                self._give_up_the_rest(discussion)
                on_end(discussion)

        def listen(events: list[Event], wait: bool = False) -> bool:
            for discussion in [*self._heard(events), *self._programs(wait)]:
                look(discussion)
            self._on_step()
            if left:
                self._submit()
            return bool(left)

        for discussion in discussions:
            look(discussion)
        if left:
            self._submit()
        while left:
            if self._session is not None and self._asked:
                gather(self._session, [], listen)
            else:
                listen([], wait=True)

    def _go_on(self, discussion: Discussion) -> None:
        """Take what is recorded, and get the rest under way."""
        turns = discussion.ready()
        while turns:
            for turn in turns:
                self._courses[turn.id] = discussion
                answered = self._records.find(turn)
                if answered is None:
                    self._ready.append(turn)
                else:
                    self._take(answered)
            turns = discussion.ready()

    def _take(self, answered: Answered) -> None:
        """Bring a call into its discussion, behind its program where that has still to be run."""
        if answered.turn.writes_code and answered.code is None and not answered.failed:
            self._running += 1
            future = self._pool.submit(self._code.run, answered.call.text)
            future.add_done_callback(lambda done: self._ran.put((answered, done)))
        else:
            self._courses.pop(answered.turn.id).take(answered)

    def _submit(self) -> None:
        """Hand over what is ready, if it is enough; agents of one role stand together, since they begin alike."""
        if not self._ready or len(self._ready) * LOTS < len(self._asked):
            return
        if self._session is None:
            self._session = self._open_session()
        for turn in sorted(self._ready, key=lambda turn: turn.who):
            self._session.submit(Request(turn.id, turn.messages))
            self._asked[turn.id] = turn
        self._ready = []

    def _heard(self, events: list[Event]) -> list[Discussion]:
        """Take what came of a step; return the discussions that have got something of it."""
        heard = []
        for event in events:
            if isinstance(event, Completion) and event.finish_reason is not FinishReason.cancelled:
                discussion, answered = self._courses[str(event.id)], answered_by(self._asked.pop(event.id), event)
                self._records.add(answered)
                self._take(answered)
                heard.append(discussion)
            elif isinstance(event, Completion):
                self._courses.pop(self._asked.pop(event.id).id)
        return heard

    def _programs(self, wait: bool) -> list[Discussion]:
        """Return the discussions that have got something of the programs that have ended; wait for one, if asked to."""
        heard = []
        while self._running and (wait or not self._ran.empty()):
            answered, done = self._ran.get()
            self._running -= 1
            wait = False
            discussion = self._courses[answered.turn.id]
            answered = replace(answered, code=done.result())
            self._records.add_code(answered)
            self._take(answered)
            heard.append(discussion)
        return heard

    def _give_up_the_rest(self, discussion: Discussion) -> None:
        """Ask for nothing more of a question that has failed."""
        if not discussion.failed:
            return
        self._ready = [turn for turn in self._ready if self._courses[turn.id] is not discussion]
        for turn in self._asked.values():
            if self._courses[turn.id] is discussion:
                assert self._session is not None
                self._session.cancel(turn.id)


def answered_by(turn: AgentCall, completion: Completion) -> Answered:
    """Return a completion as the answer to a turn."""
    call = Call(
        who=turn.who,
        prompt_sha256=completion.prompt_sha256,
        prompt_tokens=completion.prompt_tokens,
        text=completion.text,
        token_ids=completion.token_ids,
        finish_reason=completion.finish_reason,
        seconds=round(completion.seconds, 6),
        new_tokens=completion.new_tokens,
        error=completion.error,
        by=completion.by,
        calls=completion.calls,
    )
    return Answered(turn, call, permanent=completion.permanent, cost_usd=completion.cost_usd)
