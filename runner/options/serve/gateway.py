"""Connects the HTTP server's event loop with the engine's thread."""

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
from runner.core.answer_sources import count_answers_by_model
from runner.options.serve.client_shares import OpenRequest
from runner.options.serve.counters import ServerCounters
from runner.options.serve.keys import ServeConfig
from runner.options.serve.limits import ServerLimits
from runner.options.serve.model_names import list_accepted_model_names, make_served_model_name
from runner.options.serve.refusals import ClientDisconnected, Refusal
from runner.options.serve.tools import ToolSupport
from runner_base import ConfigError, JobFailed, to_one_line
from runner_engine import Capability, Completion, Driver, EngineReport, Event, Request, RequestId
from runner_engine.sessions import MissingCapability

MAX_THREADS = 32  # many, since most of them wait for the tokenizer or for a chat template
ClientEvent = Event | Exception
P = ParamSpec("P")
T = TypeVar("T")


class Gateway:
    """Admits client requests as long as the engine has capacity, and delivers engine events to them."""

    def __init__(
        self,
        config: RunnerConfig,
        task: ServeConfig,
        driver: Driver,
        report: EngineReport,
        chat_template: str | None = None,
    ) -> None:
        self.config, self.task, self.driver, self.report = config, task, driver, report
        self.engine, self.counters = driver.engine, ServerCounters()
        self.capabilities = self.engine.capabilities
        self.limits = ServerLimits(task, report.metrics.get("max_positions", math.inf))
        self.is_draining, self.created = False, int(time.time())
        self.loop = asyncio.get_running_loop()
        self.model, self._names = (
            make_served_model_name(config, task),
            list_accepted_model_names(config, task),
        )
        self.adapters = tuple(config.lora.adapter_names)  # that a request names as its model
        self._numbers = itertools.count(1)
        self.clients: set[ClientRequest] = set()  # whose requests have begun, and not ended
        self._token_texts: dict[int, str] = {}
        self._outbox: deque[tuple[ClientRequest, ClientEvent]] = deque()
        self._is_delivery_due = False
        self._threads = ThreadPoolExecutor(MAX_THREADS, "serving")
        self.tools = ToolSupport(task, chat_template, self.model)

    @property
    def streams_deltas(self) -> bool:
        return Capability.deltas in self.capabilities

    def check_model(self, model_name: str | None) -> None:
        """Raise Refusal if the server does not serve a model with this name."""
        if model_name is not None and model_name not in (*self._names, *self.adapters):
            served = ", ".join(map(repr, (self.model, *self.adapters)))
            raise Refusal(
                404, f"model {model_name!r} not found. This server has {served}", "model", "model_not_found"
            )

    def find_adapter(self, model_name: str | None) -> str | None:
        return model_name if model_name in self.adapters else None

    def require_logprobs(self) -> None:
        """Raise Refusal if the engine cannot compute log-probabilities."""
        if not {Capability.logprobs, Capability.token_ids, Capability.tokenizer} <= self.capabilities:
            raise Refusal(400, f"this model does not support {Capability.logprobs.value}", "logprobs")

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in another thread, so that the event loop keeps serving other clients."""
        return await self.loop.run_in_executor(self._threads, partial(function, *args, **kwargs))

    def tokenize_prompts(self, requests: Sequence[Request]) -> list[Request]:
        return [replace(request, prompt=self._tokenize_request(request)) for request in requests]

    def _tokenize_request(self, request: Request) -> tuple[int, ...]:
        ids = self.engine.encode(request)[1]
        if not ids:
            raise Refusal(400, "the prompt is empty", "prompt")
        self.limits.check_prompt(len(ids))
        return tuple(ids)

    def decode_token(self, token: int) -> str:
        text = self._token_texts.get(token)
        if text is None:
            text = self._token_texts[token] = self.engine.decode([token])
        return text

    def next_request_id(self) -> int:
        return next(self._numbers)

    def check_admission(self, num_completions: int, client_id: str) -> None:
        """Raise Refusal if the server is shutting down or has no free slot for the client."""
        if self.is_draining:
            raise self.limits.make_shutdown_refusal()
        held = [OpenRequest(client.owner, client.places) for client in self.clients]
        self.limits.require_free_completion_slots(num_completions, client_id, held, self._estimate_wait_s())

    def _estimate_wait_s(self) -> int:
        """Estimate in how many seconds a slot becomes free, from the duration of recent responses."""
        last = list(itertools.islice(reversed(self.counters.seconds), 50))
        return max(1, min(60, math.ceil(sum(last) / len(last) / 4))) if last else 1

    def convert_failed_completion_to_refusal(self, completion: Completion) -> Refusal:
        """Convert a failed completion to an error response. Invalid prompts get HTTP status 400."""
        why = completion.error or "the completion failed"
        if not completion.prompt_tokens:
            return Refusal(400, why, "prompt")
        if completion.prompt_tokens >= self.limits.room:
            return Refusal(400, why, "prompt", "context_length_exceeded")
        if completion.permanent:  # what was requested cannot be generated
            return Refusal(400, why)
        return Refusal(500, why)

    def queue_event(self, client_request: ClientRequest, event: ClientEvent) -> None:
        """Queue an event from the engine's thread. All events of an engine step are delivered together."""
        self._outbox.append((client_request, event))
        if not self._is_delivery_due:
            self._is_delivery_due = True
            with suppress(RuntimeError):  # the loop is closed: no client is left
                self.loop.call_soon_threadsafe(self._deliver_events)

    def _deliver_events(self) -> None:
        self._is_delivery_due = False
        while self._outbox:
            client, event = self._outbox.popleft()
            client.queue_engine_event(event)

    @property
    def num_open_completions(self) -> int:
        """Number of completions that are running or waiting."""
        return sum(client.places for client in self.clients)

    @property
    def is_idle(self) -> bool:
        """Whether all clients have received their responses."""
        return not self.clients

    def end_all_requests(self) -> None:
        """End all running requests with the error that the server is shutting down."""
        for client in list(self.clients):
            why = "the server is shutting down, so the answer is incomplete"
            client.events.put_nowait(Refusal(503, why))


class ClientRequest:
    """Engine requests that belong to one HTTP request, with their events.

    A disconnect of the client cancels the engine requests.
    """

    def __init__(self, gateway: Gateway, client_id: str) -> None:
        self.gateway, self.owner = gateway, client_id
        self.events: asyncio.Queue[ClientEvent] = asyncio.Queue()
        self.left = 0  # completions that are still to come
        self._ids: list[RequestId] = []
        self.places = 0  # that it holds among the open completions
        self._scores_follow = False
        self._is_closed = False
        self._ended: Refusal | None = None  # why nobody waits for the answer any more
        self.deadline = gateway.loop.time() + gateway.task.timeout_s
        self._timeout = gateway.loop.call_later(gateway.task.timeout_s, self._handle_timeout)

    async def submit(self, requests: Sequence[Request]) -> None:
        """Submit requests to the engine from another thread, because tokenization is slow. May raise
        Refusal.
        """
        await self.gateway.run_in_thread(self._submit_to_engine, requests)

    def reserve_slots(self, num_completions: int, is_scored_later: bool = False) -> None:
        """Reserve slots for completions. Raises Refusal if too few slots are free.

        A slot is released when its completion ends, or with `is_scored_later` when it has been scored.
        The client's reading speed does not matter.
        """
        self.gateway.check_admission(num_completions, self.owner)
        self.places, self._scores_follow = num_completions, is_scored_later
        self.gateway.clients.add(self)

    def queue_engine_event(self, event: ClientEvent) -> None:
        """Store an engine event for this client. Called in the event loop."""
        self.events.put_nowait(event)
        if isinstance(event, Completion) and (event.logprobs is not None or not self._scores_follow):
            self.places = max(0, self.places - 1)

    def _submit_to_engine(self, requests: Sequence[Request]) -> None:
        gateway = self.gateway
        self._ids += [request.id for request in requests]
        try:  # together, so that an answer does not depend on which of its requests arrives first
            gateway.driver.submit_all(requests, lambda event: gateway.queue_event(self, event))
        except MissingCapability as error:
            raise Refusal(400, f"this model does not support {', '.join(error.missing)}") from error
        except ConfigError as error:
            raise self._ended or Refusal(400, str(error)) from error
        except JobFailed as error:
            raise Refusal(503, str(error)) from error
        self.left += sum(request.n for request in requests)
        if self._is_closed:  # the client left while its prompt was tokenized
            self._cancel()

    async def wait_for_event(self) -> Event:
        """Wait for the next engine event. Raises Refusal after a failed completion, a timeout or a
        shutdown.
        """
        event = await self.events.get()
        if isinstance(event, Refusal):
            raise event
        if isinstance(event, Exception):
            raise Refusal(500, f"the engine has failed: {to_one_line(event)}")
        if isinstance(event, Completion):
            self.left -= 1
            if event.failed:
                raise self.gateway.convert_failed_completion_to_refusal(event)
            counters = self.gateway.counters
            if event.logprobs is None:
                counters.choices += 1
                counters.new_tokens += event.answer.num_tokens
                counters.prompt_tokens += 0 if event.choice else event.prompt_tokens
                counters.sides.update(count_answers_by_model([event]))
                counters.cost_usd += event.cost_usd or 0.0
        return event

    async def score(self, requests: Sequence[Request]) -> dict[RequestId, Completion]:
        """Run scoring requests and return the completions by request id.

        The client must have no other running requests.
        """
        await self.submit(requests)
        scored: dict[RequestId, Completion] = {}
        while self.left:
            event = await self.wait_for_event()
            assert isinstance(event, Completion)
            scored[event.id] = event
        return scored

    def handle_disconnect(self) -> None:
        self._ended = ClientDisconnected(ClientDisconnected.STATUS, "the client has left")
        self.events.put_nowait(self._ended)
        self._cancel()  # a thread may be compiling its grammar

    def _handle_timeout(self) -> None:
        self._ended = self.gateway.limits.make_timeout_refusal()
        self.events.put_nowait(self._ended)
        self._cancel()  # now, since a client that does not read may never take the event
        self.places = 0

    def close(self) -> None:
        """Cancel the client's running requests before the next engine step."""
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
