"""A loaded model for Python code.

One thread decodes for all callers, so that requests of several threads and tasks share a batch.
When a caller stops waiting (Ctrl-C, a cancelled task, a stream that is not read to its end), its
requests are cancelled.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from numbers import Real
from queue import SimpleQueue
from typing import Any, Self, Unpack, overload

from runner.config.root import RunnerConfig
from runner.datasets.prompts import message_of, text_of
from runner.library.answers import Answer, Scores, scores_of
from runner.library.arguments import LIMITS, Format, Settings, TextOrTurns, Texts, Turn
from runner.library.calls import Call, async_queue
from runner_base import ConfigError, check, unknown
from runner_engine import (
    Completion,
    Driver,
    EngineReport,
    EngineStats,
    Event,
    Message,
    Prompt,
    Request,
    Sampling,
)


class Model:
    """A loaded model. Any thread may use it; asyncio tasks use the methods that begin with `a`."""

    def __init__(self, config: RunnerConfig, driver: Driver, report: EngineReport) -> None:
        self.config, self.report = config, report
        self._driver, self._numbers = driver, count()
        # when nothing refers to the model any more
        self._release = weakref.finalize(self, driver.stop)

    def __repr__(self) -> str:
        facts = self.report.facts
        name = (
            f"{self.config.model.name} at {facts['server']}" if "server" in facts else self.config.model.name
        )
        details = [fact for key in ("architecture", "device", "dtype") if (fact := facts.get(key))]
        return f"<model {name}{(': ' if details else '')}{', '.join(details)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the running requests and free the weights."""
        self._release.detach()
        self._driver.close()

    @property
    def stats(self) -> EngineStats:
        """Totals so far: tokens prefilled, shared and decoded, and the seconds for that."""
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

        As in task=generate, a prompt is a user's turn in the model's chat template; format="raw"
        uses no template.
        """
        answers = [
            Answer.of(choices) for choices in self._complete(self._generating(prompt, format, system, how))
        ]
        return answers[0] if isinstance(prompt, str) else answers

    @overload
    async def agenerate(
        self, prompt: str, *, format: Format = ..., system: str | None = ..., **how: Unpack[Settings]
    ) -> Answer: ...
    @overload
    async def agenerate(
        self, prompt: Texts, *, format: Format = ..., system: str | None = ..., **how: Unpack[Settings]
    ) -> list[Answer]: ...
    async def agenerate(
        self, prompt: Any, *, format: Format = "chat", system: str | None = None, **how: Any
    ) -> Any:
        """As `generate`; a task that is cancelled cancels its requests."""
        answers = [
            Answer.of(choices)
            for choices in await self._acomplete(self._generating(prompt, format, system, how))
        ]
        return answers[0] if isinstance(prompt, str) else answers

    def chat(self, messages: Sequence[Turn], **how: Unpack[Settings]) -> Answer:
        """Answer a conversation, `[{"role": "user", "content": "Hi"}]`; its next turn prefills only
        what is new."""
        return Answer.of(self._complete([self._chatting(messages, how)])[0])

    async def achat(self, messages: Sequence[Turn], **how: Unpack[Settings]) -> Answer:
        """As `chat`; a task that is cancelled cancels its request."""
        return Answer.of((await self._acomplete([self._chatting(messages, how)]))[0])

    def stream(self, prompt: TextOrTurns, **how: Unpack[Settings]) -> Iterator[str]:
        """Yield the answer to a prompt or a conversation piece by piece, without thinking; closing
        it cancels."""
        queue: SimpleQueue[Event | Exception] = SimpleQueue()
        with Call(self._driver, [self._streaming(prompt, how)], queue.put) as call:
            while not call.is_over:
                if text := call.take(queue.get()):
                    yield text
        call.completions()  # raises the error if the request has ended in one

    async def astream(self, prompt: TextOrTurns, **how: Unpack[Settings]) -> AsyncIterator[str]:
        queue, put = async_queue()
        with Call(self._driver, [self._streaming(prompt, how)], put) as call:
            while not call.is_over:
                if text := call.take(await queue.get()):
                    yield text
        call.completions()

    @overload
    def logprobs(self, prompt: TextOrTurns, continuation: str, *, format: Format = ...) -> Scores: ...
    @overload
    def logprobs(self, prompt: TextOrTurns, continuation: Texts, *, format: Format = ...) -> list[Scores]: ...
    def logprobs(self, prompt: TextOrTurns, continuation: Any, *, format: Format = "chat") -> Any:
        """Score a continuation of the prompt, or each of several, which share the prompt's
        prefill."""
        scores = scores_of(self._complete(self._scoring(prompt, continuation, format)))
        return scores[0] if isinstance(continuation, str) else scores

    @overload
    async def alogprobs(self, prompt: TextOrTurns, continuation: str, *, format: Format = ...) -> Scores: ...
    @overload
    async def alogprobs(
        self, prompt: TextOrTurns, continuation: Texts, *, format: Format = ...
    ) -> list[Scores]: ...
    async def alogprobs(self, prompt: TextOrTurns, continuation: Any, *, format: Format = "chat") -> Any:
        """As `logprobs`; a task that is cancelled cancels its requests."""
        scores = scores_of(await self._acomplete(self._scoring(prompt, continuation, format)))
        return scores[0] if isinstance(continuation, str) else scores

    # ------------------------------------------------------------------------------------- requests

    def _generating(
        self, prompt: Any, format: Format, system: str | None, how: Mapping[str, Any]
    ) -> list[Request]:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        check(not isinstance(prompts, Mapping), "prompt", prompt, "give a text or a list of texts")
        formatted = [_prompt(text, format, system) for text in map(_text, prompts)]
        return [
            self._request(formatted_prompt, how, draws=index)
            for index, formatted_prompt in enumerate(formatted)
        ]

    def _chatting(self, messages: Sequence[Turn], how: Mapping[str, Any]) -> Request:
        return self._request(_turns(messages), how, keep=True)

    def _streaming(self, prompt: TextOrTurns, how: Mapping[str, Any]) -> Request:
        is_text = isinstance(prompt, str)
        request = self._request(_prompt(prompt, "chat"), how, keep=not is_text, deltas=True)
        check(request.n == 1, "n", request.n, "a stream has one answer", code="unsupported")
        return request

    def _scoring(self, prompt: TextOrTurns, continuation: str | Texts, format: Format) -> list[Request]:
        formatted = _prompt(prompt, format)
        continuations = [continuation] if isinstance(continuation, str) else continuation
        return [self._request(formatted, {}, continuation=_text(text)) for text in continuations]

    def _request(self, prompt: Prompt, how: Mapping[str, Any], draws: int = 0, **more: Any) -> Request:
        """Return a request with the settings of a call; its random numbers depend on the prompt's
        place in the list."""
        for key, value in how.items():
            if key not in Settings.__annotations__:
                raise ConfigError(
                    unknown("setting", key, Settings.__annotations__),
                    key=key,
                    value=value,
                    code="unknown_choice",
                )
            check(key == "stop" or isinstance(value, Real), key, repr(value), "a number is needed")
        limits = {key: value for key, value in how.items() if key in LIMITS}
        stop = how.get("stop", ())
        stops = tuple(_text(text) for text in ([stop] if isinstance(stop, str) else stop))
        sampling = Sampling(**{key: value for key, value in how.items() if key not in (*LIMITS, "stop")})
        return Request(
            next(self._numbers), prompt, stops, sampling=sampling, random_id=draws, **limits, **more
        )

    def _complete(self, requests: list[Request]) -> list[list[Completion]]:
        """Submit requests and wait for the completions of each."""
        queue: SimpleQueue[Event | Exception] = SimpleQueue()
        with Call(self._driver, requests, queue.put) as call:
            while not call.is_over:
                call.take(queue.get())
        return call.completions()

    async def _acomplete(self, requests: list[Request]) -> list[list[Completion]]:
        queue, put = async_queue()
        with Call(self._driver, requests, put) as call:
            while not call.is_over:
                call.take(await queue.get())
        return call.completions()


def _prompt(prompt: TextOrTurns, format: Format, system: str | None = None) -> Prompt:
    """Return a request's prompt: a conversation, or a raw text."""
    check(format in ("chat", "raw"), "format", format, "use chat or raw")
    check(
        format == "chat" or not system,
        "system",
        system,
        "a raw prompt has no system message: use format='chat'",
        code="conflict",
    )
    if not isinstance(prompt, str):
        check(format == "chat", "format", format, "a conversation needs format='chat'", code="conflict")
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
            message_of(
                dict(turn)
                if isinstance(turn, Mapping)
                else turn.as_dict()
                if isinstance(turn, Message)
                else turn
            )
            for turn in messages
        )
    except ValueError as error:
        raise ConfigError(str(error), key="messages", code="bad_value") from error


def _text(value: Any) -> str:
    try:
        return str.__str__(text_of(value))  # turns an Answer into a plain str
    except ValueError as error:
        raise ConfigError(str(error), code="bad_value") from error
