"""A loaded model that Python code asks, and its answers.

One thread decodes for all who ask, so that requests of several threads and tasks share a batch. Whoever waits no longer
(Ctrl-C, a cancelled task, a stream that is not read to its end) has their requests cancelled.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from numbers import Real
from queue import SimpleQueue
from typing import Any, Literal, Self, Unpack, overload

from runner.config.root import RunnerConfig
from runner.config.sampling import Sampling, SamplingArguments
from runner.core.errors import ConfigError, JobFailed, check, unknown
from runner.core.result import FinishReason
from runner.datasets.prompts import message_of, text_of
from runner.engines.base import Completion, Delta, EngineReport, Event, Message, Prompt, Request, RequestId
from runner.engines.driver import Driver
from runner.engines.stats import EngineStats

Turn = Message | Mapping[str, str]
Asked = str | Sequence[Turn]
Texts = list[str] | tuple[str, ...]
Format = Literal["chat", "raw"]  # as a user's turn in the model's chat template, or as it is


class Settings(SamplingArguments, total=False):
    """How a call draws its tokens; what is left out, the generation group and `seed` of `load` say."""

    max_new_tokens: int
    stop: str | Sequence[str]
    n: int  # answers to each prompt; they stand in `Answer.choices`


class Answer(str):
    """What the model said: a text that also knows how it came about."""

    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    seconds: float
    choices: list[Answer]  # all n, itself the first

    @classmethod
    def of(cls, completions: Sequence[Completion]) -> Answer:
        """Return the answers to one request."""
        choices: list[Answer] = []
        for completion in sorted(completions, key=lambda one: one.choice):
            answer = cls(completion.text)
            answer.token_ids, answer.finish_reason = completion.token_ids, completion.finish_reason
            answer.prompt_tokens, answer.seconds = completion.prompt_tokens, completion.seconds
            choices.append(answer)
            answer.choices = choices
        return choices[0]


@dataclass(frozen=True)
class Scores:
    """How probable a continuation is: a natural logarithm for each of its tokens."""

    token_ids: list[int]
    logprobs: list[float]
    greedy: list[bool]  # whether the model would have said this token itself

    @property
    def total(self) -> float:
        """The logarithm of the probability of the whole."""
        return sum(self.logprobs)


class Unanswered(JobFailed):
    """Some requests of a call ended in an error; `answers` holds the others, and None in the place of these."""

    def __init__(self, message: str, answers: list[Any]) -> None:
        super().__init__(message)
        self.answers = answers


class Model:
    """A loaded model. Any thread may ask it; tasks of asyncio use the names that begin with `a`."""

    def __init__(self, config: RunnerConfig, driver: Driver, report: EngineReport) -> None:
        self.config, self.report = config, report
        self._driver, self._numbers = driver, count()
        self._release = weakref.finalize(self, driver.stop)  # when nobody holds the model any more

    def __repr__(self) -> str:
        facts = self.report.facts
        named = f"{self.config.model.name} at {facts['server']}" if "server" in facts else self.config.model.name
        known = [it for key in ("architecture", "device", "dtype") if (it := facts.get(key))]
        return f"<model {named}{': ' * bool(known)}{', '.join(known)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is under way and let go of the weights."""
        self._release.detach()
        self._driver.close()

    @property
    def stats(self) -> EngineStats:
        """Running totals: tokens prefilled, shared and decoded, and the seconds that took."""
        return replace(self._driver.engine.stats)

    @overload
    def generate(
        self, prompt: str, *, format: Format = ..., system: str | None = ..., **how: Unpack[Settings]
    ) -> Answer: ...
    @overload
    def generate(
        self, prompt: Texts, *, format: Format = ..., system: str | None = ..., **how: Unpack[Settings]
    ) -> list[Answer]: ...
    def generate(self, prompt: Any, *, format: Format = "chat", system: str | None = None, **how: Any) -> Any:
        """Answer a prompt, or a list of prompts as one batch; the same call gives the same answers.

        As in task=generate, a prompt is a user's turn in the model's chat template; format="raw" leaves it as it is.
        """
        answers = [Answer.of(said) for said in self._ask(self._generating(prompt, format, system, how))]
        return answers[0] if isinstance(prompt, str) else answers

    @overload
    async def agenerate(
        self, prompt: str, *, format: Format = ..., system: str | None = ..., **how: Unpack[Settings]
    ) -> Answer: ...
    @overload
    async def agenerate(
        self, prompt: Texts, *, format: Format = ..., system: str | None = ..., **how: Unpack[Settings]
    ) -> list[Answer]: ...
    async def agenerate(self, prompt: Any, *, format: Format = "chat", system: str | None = None, **how: Any) -> Any:
        """As `generate`; a task that is cancelled cancels its requests."""
        answers = [Answer.of(said) for said in await self._aask(self._generating(prompt, format, system, how))]
        return answers[0] if isinstance(prompt, str) else answers

    def chat(self, messages: Sequence[Turn], **how: Unpack[Settings]) -> Answer:
        """Answer a conversation, `[{"role": "user", "content": "Hi"}]`; its next turn prefills only what is new."""
        return Answer.of(self._ask([self._chatting(messages, how)])[0])

    async def achat(self, messages: Sequence[Turn], **how: Unpack[Settings]) -> Answer:
        """As `chat`; a task that is cancelled cancels its request."""
        return Answer.of((await self._aask([self._chatting(messages, how)]))[0])

    def stream(self, prompt: Asked, **how: Unpack[Settings]) -> Iterator[str]:
        """Yield the answer to a prompt or a conversation as it comes; closing the iterator cancels the request."""
        queue: SimpleQueue[Event | Exception] = SimpleQueue()
        with _Call(self._driver, [self._streaming(prompt, how)], queue.put) as call:
            while not call.is_over:
                if text := call.take(queue.get()):
                    yield text
        call.completions()  # or the error in which it ended

    async def astream(self, prompt: Asked, **how: Unpack[Settings]) -> AsyncIterator[str]:
        """As `stream`, for `async for`."""
        queue, put = _async_queue()
        with _Call(self._driver, [self._streaming(prompt, how)], put) as call:
            while not call.is_over:
                if text := call.take(await queue.get()):
                    yield text
        call.completions()

    @overload
    def logprobs(self, prompt: Asked, continuation: str, *, format: Format = ...) -> Scores: ...
    @overload
    def logprobs(self, prompt: Asked, continuation: Texts, *, format: Format = ...) -> list[Scores]: ...
    def logprobs(self, prompt: Asked, continuation: Any, *, format: Format = "chat") -> Any:
        """Say how probable a continuation of the prompt is, or each of several, which share the prompt's prefill."""
        scores = _scores(self._ask(self._scoring(prompt, continuation, format)))
        return scores[0] if isinstance(continuation, str) else scores

    @overload
    async def alogprobs(self, prompt: Asked, continuation: str, *, format: Format = ...) -> Scores: ...
    @overload
    async def alogprobs(self, prompt: Asked, continuation: Texts, *, format: Format = ...) -> list[Scores]: ...
    async def alogprobs(self, prompt: Asked, continuation: Any, *, format: Format = "chat") -> Any:
        """As `logprobs`; a task that is cancelled cancels its requests."""
        scores = _scores(await self._aask(self._scoring(prompt, continuation, format)))
        return scores[0] if isinstance(continuation, str) else scores

    # ----------------------------------------------------------------------------------------------- requests

    def _generating(self, prompt: Any, format: Format, system: str | None, how: Mapping[str, Any]) -> list[Request]:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        check(not isinstance(prompts, Mapping), "prompt", prompt, "give a text or a list of texts")
        seen = [_prompt(one, format, system) for one in map(_text, prompts)]
        return [self._request(one, how, draws=index) for index, one in enumerate(seen)]

    def _chatting(self, messages: Sequence[Turn], how: Mapping[str, Any]) -> Request:
        return self._request(_turns(messages), how, keep=True)

    def _streaming(self, prompt: Asked, how: Mapping[str, Any]) -> Request:
        is_text = isinstance(prompt, str)
        request = self._request(_prompt(prompt, "chat"), how, keep=not is_text, deltas=True)
        check(request.n == 1, "n", request.n, "a stream has one answer")
        return request

    def _scoring(self, prompt: Asked, continuation: str | Texts, format: Format) -> list[Request]:
        seen, said = _prompt(prompt, format), [continuation] if isinstance(continuation, str) else continuation
        return [self._request(seen, {}, continuation=_text(one)) for one in said]

    def _request(self, prompt: Prompt, how: Mapping[str, Any], draws: int = 0, **more: Any) -> Request:
        """Ask for what the settings of a call say; the place in its list decides over a prompt's random numbers."""
        for key, value in how.items():
            if key not in Settings.__annotations__:
                raise ConfigError(f"{key}={value}: {unknown('setting', key, Settings.__annotations__)}")
            check(key == "stop" or isinstance(value, Real), key, repr(value), "a number is needed")
        own = {key: value for key, value in how.items() if key in ("max_new_tokens", "n")}
        stop = how.get("stop", ())
        stops = tuple(_text(one) for one in ([stop] if isinstance(stop, str) else stop))
        sampling = Sampling(**{key: value for key, value in how.items() if key not in ("max_new_tokens", "n", "stop")})
        return Request(next(self._numbers), prompt, stops, sampling=sampling, random_id=draws, **own, **more)

    def _ask(self, requests: list[Request]) -> list[list[Completion]]:
        """Wait for the completions of each request."""
        queue: SimpleQueue[Event | Exception] = SimpleQueue()
        with _Call(self._driver, requests, queue.put) as call:
            while not call.is_over:
                call.take(queue.get())
        return call.completions()

    async def _aask(self, requests: list[Request]) -> list[list[Completion]]:
        queue, put = _async_queue()
        with _Call(self._driver, requests, put) as call:
            while not call.is_over:
                call.take(await queue.get())
        return call.completions()


class _Call:
    """Requests on their way: gathers what becomes of them; on the way out, cancels those that are not done."""

    def __init__(self, driver: Driver, requests: list[Request], put: Callable[[Event | Exception], None]) -> None:
        self._driver, self._requests, self._put = driver, requests, put
        self._said: dict[RequestId, list[Completion]] = {request.id: [] for request in requests}
        self._left = sum(request.n for request in requests)

    def __enter__(self) -> Self:
        try:
            self._driver.submit_all(self._requests, self._put)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for request in self._requests:
            if len(self._said[request.id]) < request.n:
                self._driver.cancel(request.id)

    @property
    def is_over(self) -> bool:
        """Whether everything has come."""
        return not self._left

    def take(self, event: Event | Exception) -> str:
        """Note an event; return the text that came with it."""
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Delta):
            return event.text
        self._said[event.id].append(event)
        self._left -= 1
        return ""

    def completions(self) -> list[list[Completion]]:
        """Return the completions of each request; Unanswered where some have ended in an error."""
        said = list(self._said.values())
        wrong = {at: one.error for at, some in enumerate(said) for one in some if one.error is not None}
        if not wrong:
            return said
        at, error = next(iter(wrong.items()))
        message = str(error) if len(said) == 1 else f"{len(wrong)} of {len(said)} have no answer, number {at}: {error}"
        raise Unanswered(message, [None if at in wrong else Answer.of(some) for at, some in enumerate(said)])


def _async_queue() -> tuple[asyncio.Queue[Event | Exception], Callable[[Event | Exception], None]]:
    """Return a queue of the running loop, and what puts events into it from any thread."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event | Exception]()

    def put(event: Event | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(queue.put_nowait, event)

    return queue, put


def _scores(said: list[list[Completion]]) -> list[Scores]:
    return [Scores(one.token_ids, one.logprobs or [], one.greedy or []) for (one,) in said]


def _prompt(prompt: Asked, format: Format, system: str | None = None) -> Prompt:
    """Return what the model is to see: a conversation, or a text as it is."""
    check(format in ("chat", "raw"), "format", format, "use chat or raw")
    check(format == "chat" or not system, "system", system, "a raw prompt has no system message: use format='chat'")
    if not isinstance(prompt, str):
        check(format == "chat", "format", format, "a conversation needs format='chat'")
        return _turns(prompt)
    text = _text(prompt)
    if format == "raw":
        return text
    return (*([Message("system", _text(system))] if system else []), Message("user", text))


def _turns(messages: Sequence[Turn]) -> tuple[Message, ...]:
    needed = 'give a list of turns: [{"role": "user", "content": "..."}]'
    check(isinstance(messages, list | tuple) and bool(messages), "messages", repr(messages)[:80], needed)
    try:
        return tuple(
            message_of(dict(turn) if isinstance(turn, Mapping) else vars(turn) if isinstance(turn, Message) else turn)
            for turn in messages
        )
    except ValueError as error:
        raise ConfigError(f"messages: {error}") from error


def _text(value: Any) -> str:
    try:
        return str.__str__(text_of(value))  # of an answer, the text alone
    except ValueError as error:
        raise ConfigError(str(error)) from error
