"""A loaded model for use in Python code.

One thread decodes for all callers, so that requests of several threads and tasks share a batch.
When a caller stops waiting (Ctrl-C, a cancelled task, a stream that is not read to its end),
its requests are cancelled.
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
from runner.datasets.prompts import validate_message, validate_nonempty_utf8_text
from runner.library.answers import Answer, Scores, scores_from_completions
from runner.library.arguments import LIMITS, Format, PromptOrMessages, Settings, Texts, Turn
from runner.library.calls import ModelCall, create_thread_safe_queue
from runner_base import ConfigError, check_value, format_unknown_choice_message
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
    """A loaded model that any thread may use. The methods whose names begin with `a` are for asyncio."""

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
        """Cancel all running requests and free the weights."""
        self._release.detach()
        self._driver.close()

    @property
    def stats(self) -> EngineStats:
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
        """Answer a prompt, or a list of prompts as one batch. The same call gives the same answers.

        As in task=generate, a prompt is a user's turn in the model's chat template; format="raw" uses
        no template.
        """
        answers = [
            Answer.from_completions(choices)
            for choices in self._complete_requests(self._build_generate_requests(prompt, format, system, how))
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
        """Async version of `generate`. Cancelling the task cancels its requests."""
        answers = [
            Answer.from_completions(choices)
            for choices in await self._complete_requests_async(
                self._build_generate_requests(prompt, format, system, how)
            )
        ]
        return answers[0] if isinstance(prompt, str) else answers

    def chat(self, messages: Sequence[Turn], **how: Unpack[Settings]) -> Answer:
        """Answer a conversation such as `[{"role": "user", "content": "Hi"}]`.

        The next turn prefills only the new messages.
        """
        return Answer.from_completions(self._complete_requests([self._build_chat_request(messages, how)])[0])

    async def achat(self, messages: Sequence[Turn], **how: Unpack[Settings]) -> Answer:
        """Async version of `chat`. Cancelling the task cancels its request."""
        return Answer.from_completions(
            (await self._complete_requests_async([self._build_chat_request(messages, how)]))[0]
        )

    def stream(self, prompt: PromptOrMessages, **how: Unpack[Settings]) -> Iterator[str]:
        """Yield the answer in chunks while it is generated, without the thinking. Closing the iterator
        cancels the request.
        """
        queue: SimpleQueue[Event | Exception] = SimpleQueue()
        with ModelCall(self._driver, [self._build_stream_request(prompt, how)], queue.put) as call:
            while not call.is_finished:
                if text := call.store_completion_or_get_text(queue.get()):
                    yield text
        call.get_completions()  # raises the error if the request has ended in one

    async def astream(self, prompt: PromptOrMessages, **how: Unpack[Settings]) -> AsyncIterator[str]:
        queue, put = create_thread_safe_queue()
        with ModelCall(self._driver, [self._build_stream_request(prompt, how)], put) as call:
            while not call.is_finished:
                if text := call.store_completion_or_get_text(await queue.get()):
                    yield text
        call.get_completions()

    @overload
    def logprobs(self, prompt: PromptOrMessages, continuation: str, *, format: Format = ...) -> Scores: ...
    @overload
    def logprobs(
        self, prompt: PromptOrMessages, continuation: Texts, *, format: Format = ...
    ) -> list[Scores]: ...
    def logprobs(self, prompt: PromptOrMessages, continuation: Any, *, format: Format = "chat") -> Any:
        """Return the log-probabilities of one or more continuations of a prompt, which is prefilled
        only once.
        """
        scores = scores_from_completions(
            self._complete_requests(self._build_scoring_requests(prompt, continuation, format))
        )
        return scores[0] if isinstance(continuation, str) else scores

    @overload
    async def alogprobs(
        self, prompt: PromptOrMessages, continuation: str, *, format: Format = ...
    ) -> Scores: ...
    @overload
    async def alogprobs(
        self, prompt: PromptOrMessages, continuation: Texts, *, format: Format = ...
    ) -> list[Scores]: ...
    async def alogprobs(self, prompt: PromptOrMessages, continuation: Any, *, format: Format = "chat") -> Any:
        """Async version of `logprobs`. Cancelling the task cancels its requests."""
        scores = scores_from_completions(
            await self._complete_requests_async(self._build_scoring_requests(prompt, continuation, format))
        )
        return scores[0] if isinstance(continuation, str) else scores

    # ------------------------------------------------------------------------------------- requests

    def _build_generate_requests(
        self, prompt: Any, format: Format, system: str | None, settings: Mapping[str, Any]
    ) -> list[Request]:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        check_value(not isinstance(prompts, Mapping), "prompt", prompt, "give a string or a list of strings")
        formatted = [_build_request_prompt(text, format, system) for text in map(_require_text, prompts)]
        return [
            self._build_request(formatted_prompt, settings, seed_offset=index)
            for index, formatted_prompt in enumerate(formatted)
        ]

    def _build_chat_request(self, messages: Sequence[Turn], settings: Mapping[str, Any]) -> Request:
        return self._build_request(_convert_turns_to_messages(messages), settings, keep=True)

    def _build_stream_request(self, prompt: PromptOrMessages, settings: Mapping[str, Any]) -> Request:
        is_text = isinstance(prompt, str)
        request = self._build_request(
            _build_request_prompt(prompt, "chat"), settings, keep=not is_text, deltas=True
        )
        check_value(request.n == 1, "n", request.n, "a stream has one answer", code="unsupported")
        return request

    def _build_scoring_requests(
        self, prompt: PromptOrMessages, continuation: str | Texts, format: Format
    ) -> list[Request]:
        formatted = _build_request_prompt(prompt, format)
        continuations = [continuation] if isinstance(continuation, str) else continuation
        return [
            self._build_request(formatted, {}, continuation=_require_text(text)) for text in continuations
        ]

    def _build_request(
        self, prompt: Prompt, settings: Mapping[str, Any], seed_offset: int = 0, **request_fields: Any
    ) -> Request:
        """Build a request with the call's settings. Its seed depends on the prompt's position in the list."""
        for key, value in settings.items():
            if key not in Settings.__annotations__:
                raise ConfigError(
                    format_unknown_choice_message("setting", key, Settings.__annotations__),
                    key=key,
                    value=value,
                    code="unknown_choice",
                )
            check_value(key == "stop" or isinstance(value, Real), key, repr(value), "a number is needed")
        limits = {key: value for key, value in settings.items() if key in LIMITS}
        stop = settings.get("stop", ())
        stops = tuple(_require_text(text) for text in ([stop] if isinstance(stop, str) else stop))
        sampling = Sampling(**{key: value for key, value in settings.items() if key not in (*LIMITS, "stop")})
        return Request(
            next(self._numbers),
            prompt,
            stops,
            sampling=sampling,
            random_id=seed_offset,
            **limits,
            **request_fields,
        )

    def _complete_requests(self, requests: list[Request]) -> list[list[Completion]]:
        queue: SimpleQueue[Event | Exception] = SimpleQueue()
        with ModelCall(self._driver, requests, queue.put) as call:
            while not call.is_finished:
                call.store_completion_or_get_text(queue.get())
        return call.get_completions()

    async def _complete_requests_async(self, requests: list[Request]) -> list[list[Completion]]:
        queue, put = create_thread_safe_queue()
        with ModelCall(self._driver, requests, put) as call:
            while not call.is_finished:
                call.store_completion_or_get_text(await queue.get())
        return call.get_completions()


def _build_request_prompt(prompt: PromptOrMessages, format: Format, system: str | None = None) -> Prompt:
    """Return a request's prompt: a conversation or a raw text."""
    check_value(format in ("chat", "raw"), "format", format, "use chat or raw")
    check_value(
        format == "chat" or not system,
        "system",
        system,
        "a raw prompt has no system message. Use format='chat'",
        code="conflict",
    )
    if not isinstance(prompt, str):
        check_value(format == "chat", "format", format, "a conversation needs format='chat'", code="conflict")
        return _convert_turns_to_messages(prompt)
    text = _require_text(prompt)
    if format == "raw":
        return text
    return (*([Message("system", _require_text(system))] if system else []), Message("user", text))


def _convert_turns_to_messages(messages: Sequence[Turn]) -> tuple[Message, ...]:
    needed = 'give a list of messages: [{"role": "user", "content": "..."}]'
    check_value(
        isinstance(messages, list | tuple) and bool(messages), "messages", repr(messages)[:80], needed
    )
    try:
        return tuple(
            validate_message(
                dict(turn)
                if isinstance(turn, Mapping)
                else turn.to_dict()
                if isinstance(turn, Message)
                else turn
            )
            for turn in messages
        )
    except ValueError as error:
        raise ConfigError(str(error), key="messages", code="bad_value") from error


def _require_text(value: Any) -> str:
    try:
        return str.__str__(validate_nonempty_utf8_text(value))  # turns an Answer into a plain str
    except ValueError as error:
        raise ConfigError(str(error), code="bad_value") from error
