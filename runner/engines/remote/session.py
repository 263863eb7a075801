"""A session of model=api: each request is one HTTP request, streamed; many of them are under way at once."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import openai

from runner.core.errors import JobFailed, RunnerError
from runner.core.result import FinishReason
from runner.engines.base import Completion, Delta, Event, Request, RequestId, request_sha256
from runner.engines.remote.faults import Fault, Miscounted, RequestRejected
from runner.engines.remote.heard import AnswerText, Secret, counted
from runner.engines.remote.scoring import ScoredContinuation
from runner.engines.session import Session

if TYPE_CHECKING:
    from runner.engines.remote.engine import ApiEngine

TICK_S = 0.2  # how long a step waits for news
BROKEN_OFF = ("error", "abort", "aborted", "cancelled")  # what servers call an end that is none
CHARACTERS_A_TOKEN = 100  # more than any answer has on average: what goes on beyond does not know its limit


@dataclass(eq=False)
class RemoteRequest:
    """A request on its way, and what has come back so far; a new try begins with nothing."""

    request: Request
    sent: dict[str, Any]
    sha256: str
    longest: int  # characters
    secret: Secret
    started: float = 0.0
    told: bool = False  # text has gone out as deltas, and cannot be taken back
    task: asyncio.Task[None] | None = None
    error: str | None = None
    by: str | None = None
    scored: ScoredContinuation | None = None  # where a continuation was to be scored
    usage: tuple[int, int] | None = None  # tokens of the prompt, and new ones
    first_token_s: float = 0.0
    times: list[list[float]] = field(default_factory=list)  # of each choice: when its pieces of text came
    heard: list[AnswerText] = field(default_factory=list)
    reasons: list[FinishReason | None] = field(default_factory=list)

    def begin(self) -> None:
        """Forget what came of an earlier try."""
        self.heard = [AnswerText(self.secret) for _ in range(self.request.n)]
        self.times, self.reasons = [[] for _ in self.heard], [None] * self.request.n
        self.usage, self.first_token_s = None, 0.0

    @property
    def is_whole(self) -> bool:
        """Whether every choice has come to its end."""
        return bool(self.reasons) and None not in self.reasons

    def take(self, chunk: Any) -> list[Delta]:
        """Take in one event of the stream; raises ValueError, TypeError and the like where it is none."""
        fresh = []
        for choice in chunk.choices or []:
            number = choice.index or 0
            text = choice.delta.content if "messages" in self.sent else choice.text
            text = "" if text is None else text
            if not isinstance(text, str) or not isinstance(number, int) or not 0 <= number < len(self.heard):
                raise ValueError("a choice that was not asked for, or one without text")
            if self.reasons[number] is not None:
                continue
            settled = ""
            if text:
                self.times[number].append(time.perf_counter())
                self.first_token_s = self.first_token_s or self.times[number][0] - self.started
                settled = self.heard[number].take(text)
            if choice.finish_reason not in (None, ""):  # some servers send an empty one until the end
                self.reasons[number] = _reason(choice.finish_reason)
                settled += self.heard[number].end()
            if settled:
                fresh.append(Delta(self.request.id, number, settled))
        if (counts := usage_of(chunk)) is not None:
            self.usage = counts
        if isinstance(chunk.model, str) and chunk.model:
            self.by = self.secret.name(chunk.model)
        if max(len(words.text) for words in self.heard) > self.longest:
            raise Fault("the answer goes on past its limit of tokens", "sent an endless answer")
        return fresh


def usage_of(answer: Any) -> tuple[int, int] | None:
    """Return the tokens of the prompt and the new ones as the server counts them; None where it does not."""
    names = ("prompt_tokens", "completion_tokens")
    values = [getattr(answer.usage, name, None) for name in names]
    if None in values:
        return None
    prompt, new = (counted(f"usage.{name}", value) for name, value in zip(names, values, strict=True))
    return prompt, new


def _reason(said: object) -> FinishReason:
    """Return why an answer ended, in our words."""
    if not isinstance(said, str):
        raise ValueError("a reason for the end that is no word")
    if said in BROKEN_OFF:
        raise Fault(f"the server broke the answer off and called it {said}", "broke the answer off")
    if said == "content_filter":
        raise RequestRejected("the server's filter has withheld the answer")
    return FinishReason.length if said == "length" else FinishReason.stop


class ApiSession(Session):
    """Requests on their way to a server; its thread puts events on a queue, and a step takes them from there."""

    def __init__(self, engine: ApiEngine, most: int) -> None:
        super().__init__(engine.capabilities)
        self.engine, self.most, self.tick_s = engine, most, TICK_S
        self.server = engine.server
        self._slots = asyncio.Semaphore(most)
        self._asked: dict[RequestId, RemoteRequest] = {}  # seen by the server's thread alone
        self._in_a_row = 0  # requests that have got no answer, one after another
        self._news: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._failed: BaseException | None = None

    def submit_all(self, requests: Sequence[Request]) -> None:
        """Let requests in, and wake a step that waits for news."""
        super().submit_all(requests)
        self._news.put(None)

    def cancel(self, request_id: RequestId) -> None:
        """End a request by closing its connection."""
        super().cancel(request_id)
        self._news.put(None)

    def _admit(self, request: Request) -> RemoteRequest:
        sha256 = request_sha256(self.engine.encode(request)[0], request)
        longest = CHARACTERS_A_TOKEN * (self.engine.limit(request) + CHARACTERS_A_TOKEN)
        return RemoteRequest(request, self.engine.parameters(request), sha256, longest, self.server.secret)

    def _advance(self, arrived: list[RemoteRequest], cancelled: set[RequestId]) -> list[Event]:
        for asked in arrived:
            self.server.soon(self._begin, asked)
        for request_id in cancelled:
            self.server.soon(self._cancel, request_id)
        events: list[Event] = []
        wait_s = self.tick_s
        with suppress(queue.Empty):
            while self._failed is None:
                news = self._news.get(timeout=wait_s) if wait_s else self._news.get_nowait()
                wait_s = 0.0
                if isinstance(news, BaseException):
                    self._failed = news
                elif news is not None:
                    events.append(news)
        if self._failed is not None and not events:
            raise self._failed
        return events

    def _drop(self) -> None:
        self.server.call(self._stop())

    # -------------------------------------------------------------------------------- in the server's thread

    def _begin(self, asked: RemoteRequest) -> None:
        asked.begin()
        asked.started = time.perf_counter()
        self._asked[asked.request.id] = asked
        asked.task = asyncio.ensure_future(self._answer(asked))
        asked.task.add_done_callback(partial(self._ended, asked))

    def _cancel(self, request_id: RequestId) -> None:
        asked = self._asked.get(request_id)
        if asked is not None and asked.task is not None:
            asked.task.cancel()

    async def _stop(self) -> None:
        tasks = [asked.task for asked in self._asked.values() if asked.task is not None]
        for task in tasks:
            if not task.cancelling():  # twice would cut short how it closes its connection
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, asked: RemoteRequest) -> None:
        async with self._slots:
            asked.started = time.perf_counter()
            self.engine.stats.rows_alive += 1
            try:
                await self.server.patiently(partial(self._try, asked), self.engine.model.retries + 1)
                self._in_a_row = 0
            except RequestRejected as error:
                asked.error = str(error)
            except Fault as fault:
                asked.error = f"{fault}; it was asked {fault.tries} times"
                self._in_a_row += 1
                if not fault.reached or self._in_a_row > self.most:
                    raise JobFailed(f"{asked.error}. What was answered is kept; the same command goes on") from None
            finally:
                self.engine.stats.rows_alive -= 1

    async def _try(self, asked: RemoteRequest) -> None:
        """Put the request once; raise Fault where no whole answer comes of it."""
        asked.begin()
        began, has_answer_begun = asyncio.get_running_loop().time(), False
        client, model = self.server.client, self.engine.model
        ask: Any = client.chat.completions.create if "messages" in asked.sent else client.completions.create
        try:
            async with asyncio.timeout(model.first_token_s) as deadline:
                if asked.request.continuation is not None:
                    asked.scored = await self.server.scorer.score(asked.request)
                    asked.usage, asked.reasons = (asked.scored.prompt_tokens, 0), [FinishReason.stop]
                    return
                async with await ask(**asked.sent, stream=True, stream_options={"include_usage": True}) as stream:
                    has_answer_begun = True
                    kind = stream.response.headers.get("content-type", "nothing")
                    if "text/event-stream" not in kind:
                        raise Fault(f"{model.base_url} answered with {self.server.plain(kind)}, no stream of events: "
                                    "is its address right?", "sent what is no answer")  # fmt: skip
                    async for chunk in stream:
                        fresh = asked.take(chunk)
                        if asked.first_token_s:
                            deadline.reschedule(began + model.answer_s)
                        if fresh and asked.request.deltas:
                            asked.told = True
                            for delta in fresh:
                                self._news.put(delta)
            if not asked.is_whole:
                raise Fault(f"{model.base_url} broke the answer off", "broke the answer off")
        except openai.APIStatusError as error:
            raise await self.server.what_is(error) from None
        except (RequestRejected, RunnerError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a server may send
            if asked.is_whole and not isinstance(error, Miscounted):
                return  # what follows an answer does not unmake it
            fault = self.server.fault(error)
            if isinstance(error, TimeoutError) and asked.first_token_s:
                fault = Fault(f"{model.base_url} took longer than {model.answer_s:g} s for an answer", "took too long")
            elif isinstance(error, TimeoutError) and has_answer_begun:
                late = f"{model.base_url} began an answer and sent no text within {model.first_token_s:g} s"
                fault = Fault(late, "sent no text")
            if asked.told:
                raise RequestRejected(f"{fault}, after part of the answer") from None
            raise fault from None

    def _ended(self, asked: RemoteRequest, task: asyncio.Task[None]) -> None:
        """Tell what became of a request; nobody may wait for it for ever, whatever goes wrong here."""
        try:
            self._tell(asked, task)
        except Exception as error:  # noqa: BLE001 - a step raises it
            self._news.put(error)

    def _tell(self, asked: RemoteRequest, task: asyncio.Task[None]) -> None:
        del self._asked[asked.request.id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._news.put(error)
            return
        prompt_tokens, new_tokens = asked.usage or (0, 0)
        self.engine.uncounted += asked.usage is None and asked.is_whole
        self.engine.note()
        scored = asked.scored
        for choice, words in enumerate(asked.heard):
            first = choice == 0  # tokens are known for all choices together
            reason = FinishReason.cancelled if task.cancelled() else asked.reasons[choice]
            completion = Completion(
                id=asked.request.id,
                text=words.text,
                token_ids=[] if scored is None else scored.token_ids,
                finish_reason=FinishReason.error if asked.error or reason is None else reason,
                prompt_sha256=asked.sha256,
                prompt_tokens=prompt_tokens,
                first_token_s=asked.first_token_s,
                seconds=time.perf_counter() - asked.started,
                error=asked.error,
                choice=choice,
                new_tokens=None if scored is not None else new_tokens if first else 0,
                logprobs=None if scored is None else scored.logprobs,
                greedy=None if scored is None else scored.greedy,
                by=asked.by,
                cost_usd=self.engine.cost(prompt_tokens, new_tokens) if first else None,
                token_times=asked.times[choice] or None,
            )
            self._news.put(completion)
