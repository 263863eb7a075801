"""Between a server's event loop and the engine's thread: who asks is let in or refused, and hears of its own events."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.config.root import RunnerConfig
from runner.config.task import ServeConfig
from runner.core.errors import ConfigError, JobFailed, one_line
from runner.core.result import FinishReason
from runner.engines.base import Capability, Completion, EngineReport, Event, Request, RequestId
from runner.engines.driver import Driver
from runner.serving.counters import Counters

LONG_PROMPT = 20_000  # characters: to find their tokens takes longer than the others should wait
Told = Event | Exception


class Refused(Exception):
    """A request that is not served: the status, and why."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_s = status, message, param, code, retry_s


class Desk:
    """Lets requests in as far as there is room, and knows what holds for all of them."""

    def __init__(self, config: RunnerConfig, task: ServeConfig, driver: Driver, report: EngineReport) -> None:
        self.config, self.task, self.driver, self.report = config, task, driver, report
        self.engine, self.counters = driver.engine, Counters()
        self.capabilities = self.engine.capabilities
        self.room = report.metrics.get("max_positions", math.inf)
        self.is_draining, self.created = False, int(time.time())
        self.loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._calls: set[Call] = set()
        self._pieces: dict[int, str] = {}
        self._outbox: deque[tuple[Call, Told]] = deque()
        self._is_due = False

    @property
    def model(self) -> str:
        """What clients call the model."""
        name = self.config.model.name
        return self.task.model_name or (Path(name).name if Path(name).expanduser().exists() else name)

    @property
    def tells_deltas(self) -> bool:
        """Whether the engine tells text as it comes; else a stream has it all at the end."""
        return Capability.deltas in self.capabilities

    def check_model(self, name: str | None) -> None:
        """Refuse a model that is not served here; none named is the one that is."""
        if name not in (None, self.model):
            raise Refused(404, f"no model {name!r} here: this server has {self.model!r}", "model", "model_not_found")

    def check_scores(self) -> None:
        """Refuse log-probabilities where the engine has none."""
        if not {Capability.logprobs, Capability.token_ids} <= self.capabilities:
            raise Refused(400, f"this model does not offer {Capability.logprobs.value}", "logprobs")

    def token_ids(self, request: Request) -> tuple[int, ...]:
        """Return the prompt as token ids."""
        try:
            ids = self.engine.encode(request)[1]
        except ConfigError as error:
            raise Refused(400, str(error)) from error
        if not ids:
            raise Refused(400, "prompt: it has no tokens, so there is nothing to go on from", "prompt")
        return tuple(ids)

    def piece(self, token: int) -> str:
        """Return the text of a token."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self.engine.decode([token])
        return known

    def next_id(self) -> int:
        """Return a number that no other request has."""
        return next(self._numbers)

    def let_in(self, rows: int) -> None:
        """Refuse who comes when the server is full or about to end."""
        if self.is_draining:
            raise Refused(
                503, "the server is being stopped and takes no new requests", retry_s=math.ceil(self.task.drain_s)
            )
        most, now = self.task.max_open, self.counters.open
        if rows > most:
            raise Refused(400, f"{rows} completions in one request: this server takes {most} (task.max_open)", "n")
        if now + rows > most:
            raise Refused(
                429, f"{now} completions are under way or waiting, {most} at most: try again later",
                code="rate_limit_exceeded", retry_s=self._wait_s(),
            )  # fmt: skip

    def _wait_s(self) -> int:
        """Guess when there is room: as long as answers took lately, over those that were under way at once."""
        last = list(itertools.islice(reversed(self.counters.seconds), 50))
        return max(1, min(60, math.ceil(sum(last) / len(last) / 4))) if last else 1

    def why(self, completion: Completion) -> Refused:
        """Return the refusal for a request that has ended in an error: a wrong prompt is the client's."""
        error = completion.error or "it ended in an error"
        if not completion.prompt_tokens:
            return Refused(400, error, "prompt")
        if completion.prompt_tokens >= self.room:
            return Refused(400, error, "prompt", "context_length_exceeded")
        return Refused(500, error)

    def hear(self, call: Call, event: Told) -> None:
        """Take an event in the engine's thread; all of one step cross to the event loop together."""
        self._outbox.append((call, event))
        if not self._is_due:
            self._is_due = True
            with suppress(RuntimeError):  # the loop is closed: nobody hears any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        while self._outbox:
            call, event = self._outbox.popleft()
            call.told.put_nowait(event)

    def opened(self, call: Call) -> None:
        """Note a call that has begun."""
        self._calls.add(call)

    def closed(self, call: Call) -> None:
        """Note a call that has ended."""
        self._calls.discard(call)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._calls

    def end_all(self) -> None:
        """End what is under way: who waits for it is told that the server is being stopped."""
        for call in list(self._calls):
            call.told.put_nowait(Refused(503, "the server is being stopped: the answer is not complete"))


class Call:
    """What one client has asked for: requests to the engine, their events, and their end when the client has gone."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.told: asyncio.Queue[Told] = asyncio.Queue()
        self.left = 0  # completions that are still to come
        self._ids: list[int] = []
        self._rows = 0
        self._is_closed = False
        self._clock = desk.loop.call_later(desk.task.timeout_s, self._late)

    async def ask(self, requests: Sequence[Request]) -> None:
        """Submit requests; Refused where the server is full or the engine cannot serve them."""
        self.enter(sum(request.n for request in requests))
        if sum(len(part) for request in requests for part in _texts(request)) > LONG_PROMPT:
            await asyncio.to_thread(self._submit, requests)
        else:
            self._submit(requests)

    def enter(self, rows: int) -> None:
        """Take the room that it needs; Refused where there is none."""
        self.desk.let_in(rows)
        self._rows, self.desk.counters.open = rows, self.desk.counters.open + rows
        self.desk.opened(self)

    def _submit(self, requests: Sequence[Request]) -> None:
        desk = self.desk
        for request in requests:
            assert isinstance(request.id, int)
            missing = sorted(request.needs - desk.capabilities)
            if missing:
                raise Refused(400, f"this model does not offer {', '.join(missing)}")
            self._ids.append(request.id)
            try:
                desk.driver.submit(request, lambda event: desk.hear(self, event))
            except ConfigError as error:
                raise Refused(400, str(error)) from error
            except JobFailed as error:
                raise Refused(503, str(error)) from error
            self.left += request.n
        if self._is_closed:  # the client went while its long prompt was read
            self._cancel()

    async def next(self) -> Event:
        """Return the next event; Refused where a completion has failed, took too long, or the server ends."""
        event = await self.told.get()
        if isinstance(event, Refused):
            raise event
        if isinstance(event, Exception):
            raise Refused(500, f"the engine has failed: {one_line(event)}")
        if isinstance(event, Completion):
            self.left -= 1
            if event.finish_reason is FinishReason.error:
                raise self.desk.why(event)
            counters = self.desk.counters
            if event.logprobs is None:
                counters.choices += 1
                counters.new_tokens += event.tokens
                counters.prompt_tokens += 0 if event.choice else event.prompt_tokens
        return event

    async def score(self, requests: Sequence[Request]) -> dict[RequestId, Completion]:
        """Return how probable continuations are, by request; to be asked once nothing else is under way."""
        self._submit(requests)
        scored: dict[RequestId, Completion] = {}
        while self.left:
            event = await self.next()
            assert isinstance(event, Completion)
            scored[event.id] = event
        return scored

    def leave(self) -> None:
        """Tell who waits for the answer that the client has gone."""
        self.told.put_nowait(ClientGone(ClientGone.STATUS, "the client has gone"))

    def _late(self) -> None:
        limit = f"{self.desk.task.timeout_s:g} s (task.timeout_s)"
        self.told.put_nowait(Refused(504, f"the answer was not complete after {limit}: it was ended"))

    def close(self) -> None:
        """End what is still under way, before the engine's next pass."""
        self._clock.cancel()
        self._is_closed = True
        if self.left:
            self._cancel()
        self.desk.counters.open -= self._rows
        self._rows = 0
        self.desk.closed(self)

    def _cancel(self) -> None:
        for number in self._ids:
            self.desk.driver.cancel(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class ClientGone(Refused):
    """Nobody waits for the answer any more."""

    STATUS = 499


def _texts(request: Request) -> list[str]:
    """Return the texts of a prompt that have to become tokens."""
    if isinstance(request.prompt, str):
        return [request.prompt]
    return [part.content for part in request.prompt if not isinstance(part, int)]
