"""Session of model=api, which sends engine requests concurrently as streamed HTTP requests."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import openai

from runner.options.remote.faults import InvalidTokenCounts, RequestFault, RequestRejected
from runner.options.remote.model import RemoteModel
from runner.options.remote.server_connection import KEPT, ServerConnection, move_token_ids_to_extra_body
from runner.options.remote.server_text import ApiKeyRedactor, RedactedStream
from runner.options.remote.thinking import (
    TokenUsage,
    extract_thinking,
    is_thinking_budget_spent,
    parse_token_usage,
)
from runner.options.remote.token_scores import ScoredContinuation
from runner_base import Answer, FinishReason, JobFailed, RunnerError
from runner_base.thinking import Tags, ends_in_thinking, split_streamable_text, split_thinking
from runner_engine import Completion, Delta, Event, Request, RequestId, Session, request_sha256
from runner_engine.sessions import Listener

TICK_S = 0.2  # how long a step waits for events
# finish reasons of servers for incomplete answers
ABORT_REASONS = ("error", "abort", "aborted", "cancelled")
CHARACTERS_PER_TOKEN = 100  # more than any answer has on average: a server that sends more ignores the limit


@dataclass(eq=False)
class RemoteRequest:
    """A running request to a server, with its partial answer. A retry starts again with an empty answer."""

    request: Request
    sent: dict[str, Any]
    sha256: str
    max_characters: int
    secret: ApiKeyRedactor  # of the server that is asked
    tags: Tags
    budget: int | None = None  # tokens of thinking
    started: float = 0.0
    has_sent_text: bool = False  # as deltas, which cannot be taken back
    task: asyncio.Task[None] | None = None
    error: str | None = None
    by: str | None = None
    scored: ScoredContinuation | None = None  # of a request with a continuation
    usage: TokenUsage | None = None
    first_token_s: float = 0.0
    # of each choice: when its pieces of text arrived
    times: list[list[float]] = field(default_factory=list)
    texts: list[RedactedStream] = field(default_factory=list)
    # of each choice: what the server sends apart
    thinking: list[RedactedStream] = field(default_factory=list)
    reasons: list[FinishReason | None] = field(default_factory=list)
    # of each text, that were returned as deltas
    sent_characters: list[int] = field(default_factory=list)

    def discard_partial_answer(self, redactor: ApiKeyRedactor) -> None:
        self.secret = redactor
        self.texts, self.thinking = (
            [RedactedStream(redactor) for _ in range(self.request.n)] for _ in range(2)
        )
        self.times, self.reasons = [[] for _ in self.texts], [None] * self.request.n
        self.sent_characters = [0] * self.request.n
        self.usage, self.first_token_s = None, 0.0

    @property
    def is_complete(self) -> bool:
        """Whether every choice of the answer is complete."""
        return bool(self.reasons) and None not in self.reasons

    def add_server_stream_chunk(self, chunk: Any) -> list[Delta]:
        """Add a chunk of the server's stream and return the new deltas. The caller treats any exception
        as a malformed chunk.
        """
        deltas: list[Delta] = []
        for choice in chunk.choices or []:
            number = choice.index or 0
            text = choice.delta.content if "messages" in self.sent else choice.text
            text = "" if text is None else text
            thinking = extract_thinking(choice.delta) if "messages" in self.sent else ""
            if not isinstance(text, str) or not isinstance(number, int) or not 0 <= number < len(self.texts):
                raise ValueError("the chunk has a choice with an unknown index or without text")
            if self.reasons[number] is not None:
                continue
            if text or thinking:
                self.times[number].append(time.perf_counter())
                self.first_token_s = self.first_token_s or self.times[number][0] - self.started
            final = self.thinking[number].append(thinking)
            self.texts[number].append(text)
            if choice.finish_reason not in (None, ""):  # some servers send an empty one until the end
                self.reasons[number] = _convert_finish_reason(choice.finish_reason)
                final += self.thinking[number].flush()
                self.texts[number].flush()
            if self.request.deltas:
                deltas += self._build_unsent_text_deltas(number, final)
        if (counts := parse_token_usage(chunk)) is not None:
            self.usage = counts
        if isinstance(chunk.model, str) and chunk.model:
            self.by = self.secret.redact_name(chunk.model)
        pairs = zip(self.texts, self.thinking, strict=True)
        if max(len(text.text) + len(thinking.text) for text, thinking in pairs) > self.max_characters:
            raise RequestFault("the answer exceeds its token limit", "sent an endless answer")
        return deltas

    def _build_unsent_text_deltas(self, choice: int, separate_thinking: str) -> list[Delta]:
        """Return the text of a choice that was not yet sent, as deltas without thinking tags."""
        found = (
            [Delta(self.request.id, choice, separate_thinking, thinking=True)] if separate_thinking else []
        )
        pieces, self.sent_characters[choice] = split_streamable_text(
            self.texts[choice].text,
            self.sent_characters[choice],
            self.tags,
            self._starts_in_thinking(choice),
            is_complete=self.reasons[choice] is not None,
        )
        return found + [Delta(self.request.id, choice, piece.text, piece.is_thinking) for piece in pieces]

    def _starts_in_thinking(self, choice: int) -> bool:
        """Return whether the answer's text starts inside thinking. False if the server sends thinking in
        a separate field.
        """
        return not self.thinking[choice].text and ends_in_thinking(self.request.prompt, self.tags)

    def build_answer(self, choice: int, reason: FinishReason) -> Answer:
        text, apart = self.texts[choice].text, self.thinking[choice].text or None
        in_thinking = ends_in_thinking(self.request.prompt, self.tags)
        if self.scored is not None:
            return Answer(text, self.scored.token_ids, reason, in_thinking=in_thinking)
        several = self.request.n > 1
        _, new_tokens, thinking_tokens = self.usage or TokenUsage(0, 0)
        parts = split_thinking(text, self._starts_in_thinking(choice), self.tags)
        if thinking_tokens == 0 and (apart or parts.has_thinking):
            thinking_tokens = None  # a server that has no parser for this thinking
        if thinking_tokens and not several and apart is None and not parts.has_thinking:
            apart = ""  # as OpenAI's, which is not shown
        budget = None if several else self.budget
        if choice:  # the tokens of all choices are counted together, at the first
            new_tokens, thinking_tokens = 0, None if thinking_tokens is None else 0
        return Answer.from_text(
            text,
            [],
            reason,
            self.tags,
            in_thinking=in_thinking,
            thinking=apart,
            is_spent=is_thinking_budget_spent(thinking_tokens, budget),
            thinking_tokens=thinking_tokens,
            answer_tokens=None if thinking_tokens is None else new_tokens - thinking_tokens,
            new_tokens=new_tokens,
        )


def _convert_finish_reason(server_reason: object) -> FinishReason:
    """Convert a server's finish reason to the runner's. Raises an error if the server aborted or blocked
    the answer.
    """
    if not isinstance(server_reason, str):
        raise ValueError("the finish reason is not a string")
    if server_reason in ABORT_REASONS:
        raise RequestFault(
            f"finish reason {server_reason}: the server aborted the answer", "aborted the answer"
        )
    if server_reason == "content_filter":
        raise RequestRejected("the server's content filter blocked the answer")
    return FinishReason.length if server_reason == "length" else FinishReason.stop


class ApiSession(Session):
    """Session of a model on a server, with many concurrent requests."""

    def __init__(self, engine: RemoteModel, max_in_flight: int) -> None:
        super().__init__(engine.capabilities)
        self.engine, self.most, self.tick_s = engine, max_in_flight, TICK_S
        self.servers = engine.servers
        self._slots = asyncio.Semaphore(max_in_flight)
        self._requests: dict[RequestId, RemoteRequest] = {}  # used by the pool's thread only
        self._failures_in_a_row = 0
        self._queue: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._failed: BaseException | None = None

    def submit_all(self, requests: Sequence[Request], listener: Listener | None = None) -> None:
        super().submit_all(requests, listener)
        self._queue.put(None)

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request by closing its HTTP connection."""
        super().cancel(request_id)
        self._queue.put(None)

    def _admit(self, request: Request) -> RemoteRequest:
        sha256 = request_sha256(self.engine.encode(request)[0], request)
        most, budget = self.engine.get_max_total_tokens(request), self.engine.thinking_budget(request)
        return RemoteRequest(
            request,
            self.engine.build_request_parameters(request),
            sha256,
            CHARACTERS_PER_TOKEN * (most + CHARACTERS_PER_TOKEN),
            self.servers.servers[0].secret,
            () if request.is_raw else self.engine.tags,
            budget,
        )

    def _run_step(self, submitted: list[RemoteRequest], cancelled: set[RequestId]) -> list[Event]:
        for remote in submitted:
            self.servers.call_soon(self._start_request, remote)
        for request_id in cancelled:
            self.servers.call_soon(self._cancel_request, request_id)
        events: list[Event] = []
        wait_s = self.tick_s
        with suppress(queue.Empty):
            while self._failed is None:
                event = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
                wait_s = 0.0
                if isinstance(event, BaseException):
                    self._failed = event
                elif event is not None:
                    events.append(event)
        if self._failed is not None and not events:
            raise self._failed
        return events

    def _drop_requests(self) -> None:
        self.servers.run(self._cancel_all_requests())

    # ------------------------------------------------------------------------------------ in the
    # pool's thread

    def _start_request(self, request: RemoteRequest) -> None:
        request.discard_partial_answer(request.secret)
        request.started = time.perf_counter()
        self._requests[request.request.id] = request
        request.task = asyncio.ensure_future(self._run_request(request))
        request.task.add_done_callback(partial(self._on_request_done, request))

    def _cancel_request(self, request_id: RequestId) -> None:
        remote = self._requests.get(request_id)
        if remote is not None and remote.task is not None:
            remote.task.cancel()

    async def _cancel_all_requests(self) -> None:
        tasks = [remote.task for remote in self._requests.values() if remote.task is not None]
        for task in tasks:
            if not task.cancelling():  # a second cancel would interrupt the closing of its connection
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_request(self, request: RemoteRequest) -> None:
        async with self._slots:
            request.started = time.perf_counter()
            self.engine.stats.rows_alive += 1
            try:
                await self.servers.run_with_retries(
                    partial(self._send_to_server, request), self.engine.model.retries + 1
                )
                self._failures_in_a_row = 0
            except RequestRejected as error:
                request.error = str(error)
            except RequestFault as fault:
                request.error = (
                    f"{fault} ({('1 attempt' if fault.tries == 1 else f'{fault.tries} attempts')})"
                )
                self._failures_in_a_row += 1
                if not fault.reached or self._failures_in_a_row > self.most:
                    raise JobFailed(f"{request.error}. {KEPT}", code="failed") from None
            finally:
                self.engine.stats.rows_alive -= 1

    async def _send_to_server(self, request: RemoteRequest, server: ServerConnection) -> None:
        """Send a request to one server. Raises RequestFault unless the answer is complete."""
        request.discard_partial_answer(server.secret)
        server.requests += 1
        began, has_answer_begun = asyncio.get_running_loop().time(), False
        client, model = server.client, server.model
        ask: Any = client.chat.completions.create if "messages" in request.sent else client.completions.create
        try:
            async with asyncio.timeout(model.first_token_timeout_s) as deadline:
                if request.request.continuation is not None:
                    request.scored = await server.scorer.score(request.request)
                    request.usage, request.reasons = (
                        TokenUsage(request.scored.prompt_tokens, 0),
                        [FinishReason.stop],
                    )
                    return
                async with await ask(
                    **move_token_ids_to_extra_body(request.sent),
                    stream=True,
                    stream_options={"include_usage": True},
                ) as stream:
                    has_answer_begun = True
                    kind = stream.response.headers.get("content-type", "nothing")
                    if "text/event-stream" not in kind:
                        raise RequestFault(
                            f"{model.base_url} answered with {server.plain(kind)} instead of an event stream. "
                            "Check its address",
                            "sent no valid answer",
                            is_permanent=not server.has_streamed,
                        )
                    server.has_streamed = True
                    async for chunk in stream:
                        deltas = request.add_server_stream_chunk(chunk)
                        if request.first_token_s:
                            deadline.reschedule(began + model.request_timeout_s)
                        if deltas:
                            request.has_sent_text = True
                            for delta in deltas:
                                self._queue.put(delta)
            if not request.is_complete:
                raise RequestFault(f"{model.base_url} aborted the answer", "aborted the answer")
        except openai.APIStatusError as error:
            raise await server.make_status_error(error) from None
        except (RequestRejected, RunnerError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a server may send
            if request.is_complete and not isinstance(error, InvalidTokenCounts):
                return  # an error after the end of the answer does not matter
            fault = server.convert_to_request_fault(error)
            if isinstance(error, TimeoutError) and request.first_token_s:
                fault = RequestFault(
                    f"{model.base_url} took longer than {model.request_timeout_s:g} s for an answer",
                    "took too long",
                )
            elif isinstance(error, TimeoutError) and has_answer_begun:
                why = f"{model.base_url} started an answer, but sent no text within {model.first_token_timeout_s:g} s"
                fault = RequestFault(why, "sent no text")
            if request.has_sent_text:
                raise RequestRejected(f"{fault}, after part of the answer") from None
            raise fault from None

    def _on_request_done(self, request: RemoteRequest, task: asyncio.Task[None]) -> None:
        try:
            self._queue_completions_of_ended_request(request, task)
        except Exception as error:  # noqa: BLE001 - a step raises it
            self._queue.put(error)

    def _queue_completions_of_ended_request(self, request: RemoteRequest, task: asyncio.Task[None]) -> None:
        del self._requests[request.request.id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._queue.put(error)
            return
        usage = request.usage or TokenUsage(0, 0)
        if request.usage is not None and request.is_complete and request.error is None:
            request.error = self.engine.check_answer(request.request, usage.prompt_tokens)
        self.engine.answers_without_usage += request.usage is None and request.is_complete
        scored = request.scored
        for choice in range(request.request.n):
            reason = FinishReason.cancelled if task.cancelled() else request.reasons[choice]
            answer = request.build_answer(
                choice, FinishReason.error if request.error or reason is None else reason
            )
            if request.budget is not None and request.is_complete:
                choices = request.request.n  # the first answer has the tokens of all
                limit = self.engine.get_max_answer_tokens(request.request)
                self.engine.budgets.count_thinking_budget_outcome(
                    answer, choices * request.budget, choices * limit
                )
            self.engine.update_server_stats_and_warnings()
            completion = Completion(
                answer,
                id=request.request.id,
                prompt_sha256=request.sha256,
                prompt_tokens=usage.prompt_tokens,
                first_token_s=request.first_token_s,
                seconds=time.perf_counter() - request.started,
                error=request.error,
                choice=choice,
                logprobs=None if scored is None else scored.logprobs,
                greedy=None if scored is None else scored.greedy,
                top_logprobs=None if scored is None else scored.top_logprobs,
                score_token_logprobs=None if scored is None else scored.named,
                by=request.by,
                cost_usd=self.engine.cost_usd(usage.prompt_tokens, usage.new_tokens) if choice == 0 else None,
                token_times=request.times[choice] or None,
            )
            self._queue.put(completion)
