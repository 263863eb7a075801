"""Between the event loop of a server and the thread of its engine: admits requests, and carries events to clients."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from runner.config.root import RunnerConfig
from runner.config.task import ServeConfig
from runner.core.errors import ConfigError, JobFailed, one_line
from runner.core.result import FinishReason
from runner.core.sides import sides
from runner.engines.base import Capability, Completion, EngineReport, Event, Request, RequestId
from runner.engines.driver import Driver
from runner.serving.counters import Counters
from runner.serving.name import accepted_names, served_name

MAX_THREADS = 32  # most of these threads wait for the tokenizer or for a chat template
ClientEvent = Event | Exception
P = ParamSpec("P")
T = TypeVar("T")


class Refusal(Exception):
    """A request that is not served: the status, and why."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_s = status, message, param, code, retry_s


class Gateway:
    """Admits requests while there is room, and holds what all of them share."""

    def __init__(self, config: RunnerConfig, task: ServeConfig, driver: Driver, report: EngineReport) -> None:
        self.config, self.task, self.driver, self.report = config, task, driver, report
        self.engine, self.counters = driver.engine, Counters()
        self.capabilities = self.engine.capabilities
        self.room = report.metrics.get("max_positions", math.inf)
        self.is_draining, self.created = False, int(time.time())
        self.loop = asyncio.get_running_loop()
        self.model, self._names = served_name(config, task), accepted_names(config, task)
        self._numbers = itertools.count(1)
        self._clients: set[ClientRequest] = set()
        self._pieces: dict[int, str] = {}
        self._outbox: deque[tuple[ClientRequest, ClientEvent]] = deque()
        self._is_due = False
        self._threads = ThreadPoolExecutor(MAX_THREADS, "serving")

    @property
    def streams_deltas(self) -> bool:
        """Whether the engine tells text as it comes; else a stream has it all at the end."""
        return Capability.deltas in self.capabilities

    def check_model(self, name: str | None) -> None:
        """Refuse a model that is not served here; none named is the one that is."""
        if name is not None and name not in self._names:
            raise Refusal(404, f"no model {name!r} here: this server has {self.model!r}", "model", "model_not_found")

    def check_scores(self) -> None:
        """Refuse log-probabilities where the engine has none."""
        if not {Capability.logprobs, Capability.token_ids, Capability.tokenizer} <= self.capabilities:
            raise Refusal(400, f"this model does not offer {Capability.logprobs.value}", "logprobs")

    def check_rows(self, rows: int) -> None:
        """Refuse more completions in one request than are served at all."""
        most = self.task.max_open
        if rows > most:
            raise Refusal(400, f"{rows} completions in one request: this server takes {most} (task.max_open)", "n")

    def check_room(self, tokens: int) -> None:
        """Refuse a prompt of more tokens than the model has room for."""
        if tokens > self.room + 1:  # the last one of a prompt that is only scored needs no place
            reason = f"the prompt has {tokens} tokens, the model has room for {self.room:.0f}"
            raise Refusal(400, reason, "prompt", "context_length_exceeded")

    async def in_thread(self, work: Callable[P, T], *values: P.args, **named: P.kwargs) -> T:
        """Do in another thread what takes longer than the event loop's other clients should wait."""
        return await self.loop.run_in_executor(self._threads, partial(work, *values, **named))

    def with_ids(self, requests: Sequence[Request]) -> list[Request]:
        """Return requests with their prompts as token ids."""
        return [replace(request, prompt=self._token_ids(request)) for request in requests]

    def _token_ids(self, request: Request) -> tuple[int, ...]:
        try:
            ids = self.engine.encode(request)[1]
        except ConfigError as error:
            raise Refusal(400, str(error)) from error
        if not ids:
            raise Refusal(400, "prompt: it is empty", "prompt")
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

    def admit(self, rows: int) -> None:
        """Refuse who comes when the server is full or about to end."""
        if self.is_draining:
            raise Refusal(
                503, "the server is being stopped and takes no new requests", retry_s=math.ceil(self.task.drain_s)
            )
        self.check_rows(rows)
        most, now = self.task.max_open, self.counters.open
        if now + rows > most:
            raise Refusal(
                429, f"{now} completions are under way or waiting, {most} at most: try again later",
                code="rate_limit_exceeded", retry_s=self._wait_s(),
            )  # fmt: skip

    def _wait_s(self) -> int:
        """Guess when there is room: as long as answers took lately, over those that were under way at once."""
        last = list(itertools.islice(reversed(self.counters.seconds), 50))
        return max(1, min(60, math.ceil(sum(last) / len(last) / 4))) if last else 1

    def refusal_of(self, completion: Completion) -> Refusal:
        """Return the refusal for a request that has ended in an error: a wrong prompt is the client's."""
        error = completion.error or "it ended in an error"
        if not completion.prompt_tokens:
            return Refusal(400, error, "prompt")
        if completion.prompt_tokens >= self.room:
            return Refusal(400, error, "prompt", "context_length_exceeded")
        return Refusal(500, error)

    def take_event(self, client: ClientRequest, event: ClientEvent) -> None:
        """Take an event in the engine's thread; all of one step cross to the event loop together."""
        self._outbox.append((client, event))
        if not self._is_due:
            self._is_due = True
            with suppress(RuntimeError):  # the loop is closed: nobody hears any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        while self._outbox:
            client, event = self._outbox.popleft()
            client.events.put_nowait(event)

    def opened(self, client: ClientRequest) -> None:
        """Note a client whose request has begun."""
        self._clients.add(client)

    def closed(self, client: ClientRequest) -> None:
        """Note a client whose request has ended."""
        self._clients.discard(client)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._clients

    def end_all(self) -> None:
        """End what is under way: who waits for it is told that the server is being stopped."""
        for client in list(self._clients):
            client.events.put_nowait(Refusal(503, "the server is being stopped: the answer is not complete"))


class ClientRequest:
    """The requests of one client to the engine, and their events; they end when the client has gone."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.events: asyncio.Queue[ClientEvent] = asyncio.Queue()
        self.left = 0  # completions that are still to come
        self._ids: list[int] = []
        self._rows = 0
        self._is_closed = False
        self._clock = gateway.loop.call_later(gateway.task.timeout_s, self._late)

    async def ask(self, requests: Sequence[Request]) -> None:
        """Submit requests, or raise Refusal; in a thread, since tokens and chat templates take time."""
        await self.gateway.in_thread(self._submit, requests)

    def enter(self, rows: int) -> None:
        """Take the room that it needs; raise Refusal where there is none."""
        self.gateway.admit(rows)
        self._rows, self.gateway.counters.open = rows, self.gateway.counters.open + rows
        self.gateway.opened(self)

    def _submit(self, requests: Sequence[Request]) -> None:
        gateway = self.gateway
        for request in requests:
            assert isinstance(request.id, int)
            missing = sorted(request.needs - gateway.capabilities)
            if missing:
                raise Refusal(400, f"this model does not offer {', '.join(missing)}")
            self._ids.append(request.id)
        try:  # together: an answer then does not depend on which of its requests is read first
            gateway.driver.submit_all(requests, lambda event: gateway.take_event(self, event))
        except ConfigError as error:
            raise Refusal(400, str(error)) from error
        except JobFailed as error:
            raise Refusal(503, str(error)) from error
        self.left += sum(request.n for request in requests)
        if self._is_closed:  # the client went while its prompt was read
            self._cancel()

    async def next(self) -> Event:
        """Return the next event; raise Refusal where a completion has failed, took too long, or the server ends."""
        event = await self.events.get()
        if isinstance(event, Refusal):
            raise event
        if isinstance(event, Exception):
            raise Refusal(500, f"the engine has failed: {one_line(event)}")
        if isinstance(event, Completion):
            self.left -= 1
            if event.finish_reason is FinishReason.error:
                raise self.gateway.refusal_of(event)
            counters = self.gateway.counters
            if event.logprobs is None:
                counters.choices += 1
                counters.new_tokens += event.tokens
                counters.prompt_tokens += 0 if event.choice else event.prompt_tokens
                counters.sides.update(sides([event]))
                counters.cost_usd += event.cost_usd or 0.0
        return event

    async def score(self, requests: Sequence[Request]) -> dict[RequestId, Completion]:
        """Score continuations, by request; call it when nothing else of this client is running."""
        await self.ask(requests)
        scored: dict[RequestId, Completion] = {}
        while self.left:
            event = await self.next()
            assert isinstance(event, Completion)
            scored[event.id] = event
        return scored

    def leave(self) -> None:
        """Tell who waits for the answer that the client has gone."""
        self.events.put_nowait(ClientGone(ClientGone.STATUS, "the client has gone"))

    def _late(self) -> None:
        limit = f"{self.gateway.task.timeout_s:g} s (task.timeout_s)"
        self.events.put_nowait(Refusal(504, f"the answer was not complete after {limit}: it was ended"))

    def close(self) -> None:
        """End what is still under way, before the engine's next pass."""
        self._clock.cancel()
        self._is_closed = True
        if self.left:
            self._cancel()
        self.gateway.counters.open -= self._rows
        self._rows = 0
        self.gateway.closed(self)

    def _cancel(self) -> None:
        for number in self._ids:
            self.gateway.driver.cancel(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class ClientGone(Refusal):
    """Nobody waits for the answer any more."""

    STATUS = 499
