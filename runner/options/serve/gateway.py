"""Between a server's event loop and its engine's thread: admits requests, and passes events to
clients."""

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
from runner.core.sides import sides
from runner.options.serve.counters import Counters
from runner.options.serve.keys import ServeConfig
from runner.options.serve.limits import Limits
from runner.options.serve.name import accepted_names, served_name
from runner.options.serve.refusals import ClientGone, Refusal
from runner.options.serve.shares import Held
from runner.options.serve.tools import ServedTools
from runner_base import ConfigError, JobFailed, one_line
from runner_engine import Capability, Completion, Driver, EngineReport, Event, Request, RequestId
from runner_engine.sessions import NotOffered

MAX_THREADS = 32  # many, since most of them wait for the tokenizer or for a chat template
ClientEvent = Event | Exception
P = ParamSpec("P")
T = TypeVar("T")


class Gateway:
    """Admits requests while there is room, and holds the state that they share."""

    def __init__(
        self,
        config: RunnerConfig,
        task: ServeConfig,
        driver: Driver,
        report: EngineReport,
        template: str | None = None,
    ) -> None:
        """template: the text of the model's chat templates, as far as its files show it."""
        self.config, self.task, self.driver, self.report = config, task, driver, report
        self.engine, self.counters = driver.engine, Counters()
        self.capabilities = self.engine.capabilities
        self.limits = Limits(task, report.metrics.get("max_positions", math.inf))
        self.is_draining, self.created = False, int(time.time())
        self.loop = asyncio.get_running_loop()
        self.model, self._names = served_name(config, task), accepted_names(config, task)
        self.adapters = tuple(config.lora.names)  # that a request names as its model
        self._numbers = itertools.count(1)
        self.clients: set[ClientRequest] = set()  # whose requests have begun, and not ended
        self._token_texts: dict[int, str] = {}
        self._outbox: deque[tuple[ClientRequest, ClientEvent]] = deque()
        self._is_delivery_due = False
        self._threads = ThreadPoolExecutor(MAX_THREADS, "serving")
        self.tools = ServedTools(task, template, self.model)

    @property
    def streams_deltas(self) -> bool:
        """Whether the engine returns text as it is generated; otherwise a stream gets all of it at
        the end."""
        return Capability.deltas in self.capabilities

    def check_model(self, name: str | None) -> None:
        """Refuse another model's name; None means the served model."""
        if name is not None and name not in (*self._names, *self.adapters):
            served = ", ".join(map(repr, (self.model, *self.adapters)))
            raise Refusal(
                404, f"this server has no model {name!r}, only {served}", "model", "model_not_found"
            )

    def adapter(self, name: str | None) -> str | None:
        """Return the adapter that a model's name means; None: the base."""
        return name if name in self.adapters else None

    def check_scores(self) -> None:
        """Refuse log-probabilities if the engine cannot compute them."""
        if not {Capability.logprobs, Capability.token_ids, Capability.tokenizer} <= self.capabilities:
            raise Refusal(400, f"this model does not offer {Capability.logprobs.value}", "logprobs")

    async def in_thread(self, work: Callable[P, T], *values: P.args, **named: P.kwargs) -> T:
        """Run work in another thread, because other clients should not wait for it."""
        return await self.loop.run_in_executor(self._threads, partial(work, *values, **named))

    def with_ids(self, requests: Sequence[Request]) -> list[Request]:
        return [replace(request, prompt=self._token_ids(request)) for request in requests]

    def _token_ids(self, request: Request) -> tuple[int, ...]:
        ids = self.engine.encode(request)[1]
        if not ids:
            raise Refusal(400, "the prompt is empty", "prompt")
        self.limits.check_prompt(len(ids))
        return tuple(ids)

    def token_text(self, token: int) -> str:
        text = self._token_texts.get(token)
        if text is None:
            text = self._token_texts[token] = self.engine.decode([token])
        return text

    def next_id(self) -> int:
        """Return a number that no other request has."""
        return next(self._numbers)

    def admit(self, rows: int, owner: str) -> None:
        """Refuse new completions if the server is stopping, or full and the client has its share of
        it."""
        if self.is_draining:
            raise self.limits.stopping()
        held = [Held(client.owner, client.places) for client in self.clients]
        self.limits.check_places(rows, owner, held, self._wait_s())

    def _wait_s(self) -> int:
        """Guess when there is room, from the duration of the last answers."""
        last = list(itertools.islice(reversed(self.counters.seconds), 50))
        return max(1, min(60, math.ceil(sum(last) / len(last) / 4))) if last else 1

    def refusal_of(self, completion: Completion) -> Refusal:
        """Return the refusal for a completion that ended in an error; a bad prompt is the client's
        fault."""
        why = completion.error or "the completion ended in an error"
        if not completion.prompt_tokens:
            return Refusal(400, why, "prompt")
        if completion.prompt_tokens >= self.limits.room:
            return Refusal(400, why, "prompt", "context_length_exceeded")
        if completion.permanent:  # what was requested cannot be generated
            return Refusal(400, why)
        return Refusal(500, why)

    def take_event(self, client: ClientRequest, event: ClientEvent) -> None:
        """Queue an event in the engine's thread; all events of one step cross to the event loop
        together."""
        self._outbox.append((client, event))
        if not self._is_delivery_due:
            self._is_delivery_due = True
            with suppress(RuntimeError):  # the loop is closed: no client is left
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_delivery_due = False
        while self._outbox:
            client, event = self._outbox.popleft()
            client.arrive(event)

    @property
    def open(self) -> int:
        """How many completions are under way or waiting."""
        return sum(client.places for client in self.clients)

    @property
    def is_idle(self) -> bool:
        """Whether no client waits for an answer."""
        return not self.clients

    def end_all(self) -> None:
        """End all requests under way: their clients are told that the server is being stopped."""
        for client in list(self.clients):
            why = "the server is being stopped: the answer is not complete"
            client.events.put_nowait(Refusal(503, why))


class ClientRequest:
    """One client's requests to the engine, and their events; they are cancelled when the client
    leaves."""

    def __init__(self, gateway: Gateway, owner: str) -> None:
        self.gateway, self.owner = gateway, owner
        self.events: asyncio.Queue[ClientEvent] = asyncio.Queue()
        self.left = 0  # completions that are still to come
        self._ids: list[RequestId] = []
        self.places = 0  # that it holds among the open completions
        self._scores_follow = False
        self._is_closed = False
        self._ended: Refusal | None = None  # why nobody waits for the answer any more
        self.deadline = gateway.loop.time() + gateway.task.timeout_s
        self._timeout = gateway.loop.call_later(gateway.task.timeout_s, self._time_out)

    async def submit(self, requests: Sequence[Request]) -> None:
        """Submit requests, or raise Refusal; in a thread, because tokenizers and chat templates
        take time."""
        await self.gateway.in_thread(self._submit, requests)

    def enter(self, rows: int, scores_follow: bool = False) -> None:
        """Reserve places for so many completions; raise Refusal if there are none.

        A place is free when its completion is complete, or has been scored where `scores_follow`:
        how fast the client reads does not matter.
        """
        self.gateway.admit(rows, self.owner)
        self.places, self._scores_follow = rows, scores_follow
        self.gateway.clients.add(self)

    def arrive(self, event: ClientEvent) -> None:
        """Take an event, in the event loop."""
        self.events.put_nowait(event)
        if isinstance(event, Completion) and (event.logprobs is not None or not self._scores_follow):
            self.places = max(0, self.places - 1)

    def _submit(self, requests: Sequence[Request]) -> None:
        gateway = self.gateway
        self._ids += [request.id for request in requests]
        try:  # together, so that an answer does not depend on which of its requests arrives first
            gateway.driver.submit_all(requests, lambda event: gateway.take_event(self, event))
        except NotOffered as error:
            raise Refusal(400, f"this model does not offer {', '.join(error.missing)}") from error
        except ConfigError as error:
            raise self._ended or Refusal(400, str(error)) from error
        except JobFailed as error:
            raise Refusal(503, str(error)) from error
        self.left += sum(request.n for request in requests)
        if self._is_closed:  # the client left while its prompt was tokenized
            self._cancel()

    async def next(self) -> Event:
        """Return the next event; raise Refusal on a failed completion, a timeout or the server's
        end."""
        event = await self.events.get()
        if isinstance(event, Refusal):
            raise event
        if isinstance(event, Exception):
            raise Refusal(500, f"the engine has failed: {one_line(event)}")
        if isinstance(event, Completion):
            self.left -= 1
            if event.failed:
                raise self.gateway.refusal_of(event)
            counters = self.gateway.counters
            if event.logprobs is None:
                counters.choices += 1
                counters.new_tokens += event.answer.tokens
                counters.prompt_tokens += 0 if event.choice else event.prompt_tokens
                counters.sides.update(sides([event]))
                counters.cost_usd += event.cost_usd or 0.0
        return event

    async def score(self, requests: Sequence[Request]) -> dict[RequestId, Completion]:
        """Return the completions that score these requests, by id; only while nothing else of this
        client runs."""
        await self.submit(requests)
        scored: dict[RequestId, Completion] = {}
        while self.left:
            event = await self.next()
            assert isinstance(event, Completion)
            scored[event.id] = event
        return scored

    def leave(self) -> None:
        """End the wait for events, because the client has left."""
        self._ended = ClientGone(ClientGone.STATUS, "the client has left")
        self.events.put_nowait(self._ended)
        self._cancel()  # a thread may be compiling its grammar

    def _time_out(self) -> None:
        self._ended = self.gateway.limits.timed_out()
        self.events.put_nowait(self._ended)
        self._cancel()  # now, since a client that does not read may never take the event
        self.places = 0

    def close(self) -> None:
        """Cancel all that is still under way, before the engine's next pass."""
        self._timeout.cancel()
        self._is_closed = True
        if self.left:
            self._cancel()
        self.gateway.clients.discard(self)

    def _cancel(self) -> None:
        for number in self._ids:
            self.gateway.driver.cancel(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()
