"""Builds complete or streamed responses in OpenAI's format, with log-probabilities if requested."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from runner.options.serve.gateway import ClientRequest, Gateway
from runner.options.serve.logprobs import MIN_LOGPROB, ScoredToken
from runner.options.serve.refusals import Refusal, format_error
from runner.options.serve.request_parsing import ParsedBody
from runner.options.serve.stream_buffer import StreamBuffer
from runner_base import Answer
from runner_engine import Completion, Delta, Event, Request

CONNECTION = "runner.connection"  # the key of a request's connection in its scope
LAST_WORDS_S = 1.0  # time for the last chunk of a stream that has timed out
SHORT_CHARACTERS = 16_384  # an answer of fewer characters is written in the event loop


class ClientResponse(ABC):
    """Base class of responses. Submits a client's requests to the engine and converts their completions
    to JSON.
    """

    kind: str
    prefix: str
    chunk_kind: str

    def __init__(self, gateway: Gateway, parsed: ParsedBody) -> None:
        self.gateway, self.parsed = gateway, parsed
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())
        self._numbers = {request.id: number for number, request in enumerate(parsed.requests)}
        self.done: dict[int, Answer] = {}  # by the index of the choice
        self.prompt_tokens: dict[int, int] = {}  # by the number of the prompt

    @property
    def adapter(self) -> str | None:
        return self.parsed.requests[0].adapter

    @abstractmethod
    def format_choice(
        self, index: int, text: str, finish_reason: str, scored_tokens: list[ScoredToken] | None
    ) -> dict[str, Any]:
        """Format a choice of a complete response as a JSON object."""

    @abstractmethod
    def format_delta(
        self,
        index: int,
        text: str | None,
        finish_reason: str | None,
        scored_tokens: list[ScoredToken] | None = None,
        is_thinking: bool = False,
    ) -> dict[str, Any]:
        """Format a choice of a stream chunk as a JSON object."""

    @abstractmethod
    def split_texts(self, answer: Answer) -> list[tuple[str, bool]]:
        """Split an answer into pairs (text, is_thinking). The last pair contains the answer without
        thinking.
        """

    def build_final_deltas(self, choice_index: int) -> list[dict[str, Any]]:
        """Return the stream chunks that follow the text of a choice, such as tool calls."""
        return []

    def build_initial_deltas(self) -> list[dict[str, Any]]:
        """Return the chunks that a stream starts with, before any generated text."""
        return []

    # ------------------------------------------------------------------------------- a whole answer

    async def build_complete_response(self, client_request: ClientRequest) -> bytes:
        await self._wait_for_completions(client_request)
        tokens = await self._score_choices(client_request)
        characters = sum(len(text) for answer in self.done.values() for text, _ in self.split_texts(answer))
        is_short = not tokens and not self.parsed.echo and characters < SHORT_CHARACTERS
        return (
            self._serialize_response(tokens)
            if is_short
            else await self.gateway.run_in_thread(self._serialize_response, tokens)
        )

    async def wait_for_completion_text(self, client_request: ClientRequest) -> str:
        """Wait for the single completion of a request and return its text."""
        await self._wait_for_completions(client_request)
        return self.done[0].text

    async def _wait_for_completions(self, client_request: ClientRequest) -> None:
        await self._submit_requests(client_request)
        while client_request.left:
            self._store_event(await client_request.wait_for_event())

    def _serialize_response(self, scored_tokens: dict[int, list[ScoredToken]]) -> bytes:
        """Convert the response to JSON, choice by choice, so that other threads can run in between."""
        choices = []
        for index in self._choice_indices():
            choices.append(
                _encode_json(
                    self.format_choice(
                        index,
                        self._choice_text(index),
                        self._get_finish_reason(index),
                        scored_tokens.get(index),
                    )
                )
            )
        answer = self._response_object(self.kind, []) | {"usage": self._count_usage()}
        head, tail = _encode_json(answer).split(b'"choices":[]', 1)
        return head + b'"choices":[' + b",".join(choices) + b"]" + tail

    async def _submit_requests(self, client_request: ClientRequest) -> None:
        """Submit the client's requests to the engine, except requests that only score a prompt."""
        client_request.reserve_slots(self.parsed.num_completions, is_scored_later=self.parsed.top is not None)
        if self.parsed.needs_token_ids:
            self.parsed.requests = await self.gateway.run_in_thread(
                self.gateway.tokenize_prompts, self.parsed.requests
            )
        if not self.parsed.scores_only:
            await client_request.submit(self.parsed.requests)
            return
        for number, request in enumerate(self.parsed.requests):
            self.prompt_tokens[number] = len(request.prompt)

    def _store_event(self, event: Event) -> int:
        """Store an engine event, and return the index of its choice in the response."""
        number = self._numbers[event.id]
        index = number * self.parsed.requests[number].n + event.choice
        if isinstance(event, Completion):
            self.done[index] = event.answer
            self.prompt_tokens[number] = event.prompt_tokens
        return index

    def _choice_indices(self) -> range:
        return range(sum(request.n for request in self.parsed.requests))

    def _choice_request(self, index: int) -> Request:
        return self.parsed.requests[index // self.parsed.requests[0].n]

    def _prompt_ids(self, choice_index: int) -> list[int]:
        """Return the prompt token ids of a choice, for a prompt that consists of token ids."""
        return [part for part in self._choice_request(choice_index).prompt if isinstance(part, int)]

    def _choice_text(self, index: int) -> str:
        answer = "" if self.parsed.scores_only else self.split_texts(self.done[index])[-1][0]
        return self.get_prompt_text(index) + answer if self.parsed.echo else answer

    def get_prompt_text(self, choice_index: int) -> str:
        prompt = self._choice_request(choice_index).prompt
        return (
            prompt if isinstance(prompt, str) else self.gateway.engine.decode(self._prompt_ids(choice_index))
        )

    def _get_finish_reason(self, choice_index: int) -> str:
        if self.parsed.scores_only:  # nothing is generated
            return "length"
        reason = self.done[choice_index].finish_reason
        # OpenAI's word, also where the model's context was full
        return "length" if reason.is_cut_off else reason.value

    def _count_usage(self) -> dict[str, Any]:
        prompt = sum(self.prompt_tokens.values())
        new = sum(answer.num_tokens for answer in self.done.values())
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
        }
        thinking = [it.thinking_tokens for it in self.done.values() if it.thinking_tokens is not None]
        return usage | (
            {"completion_tokens_details": {"reasoning_tokens": sum(thinking)}} if thinking else {}
        )

    def _response_object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.adapter or self.gateway.model,
            "choices": choices,
        }

    # ---------------------------------------------------------------------------- log-probabilities

    async def _score_choices(self, client_request: ClientRequest) -> dict[int, list[ScoredToken]]:
        top = self.parsed.top
        if top is None:
            return {}
        requests, tokens = await self.gateway.run_in_thread(self._build_score_requests, top)
        completions = await client_request.score(list(requests.values()))
        for index, request in requests.items():
            tokens[index] += await self.gateway.run_in_thread(
                self._convert_to_scored_tokens, completions[request.id]
            )
        return tokens

    def _build_score_requests(
        self, num_top_logprobs: int
    ) -> tuple[dict[int, Request], dict[int, list[ScoredToken]]]:
        """Return scoring requests by choice.

        Also returns the first token of each echoed prompt, which cannot be scored.
        """
        requests: dict[int, Request] = {}
        first: dict[int, list[ScoredToken]] = {}
        for index in self._choice_indices():
            prompt = self._prompt_ids(index)
            thinking, new = (
                ([], []) if self.parsed.scores_only else self._split_thinking_ids(self.done[index])
            )
            first[index] = (
                [ScoredToken(self.gateway.decode_token(prompt[0]), None, [])] if self.parsed.echo else []
            )
            before, scored = (prompt[:1], prompt[1:] + new) if self.parsed.echo else (prompt + thinking, new)
            if scored:
                number = self.gateway.next_request_id()
                requests[index] = Request(
                    number,
                    tuple(before),
                    continuation=tuple(scored),
                    top_logprobs=num_top_logprobs,
                    adapter=self.adapter,
                )
        return requests, first

    def _convert_to_scored_tokens(self, completion: Completion) -> list[ScoredToken]:
        text = self.gateway.decode_token
        tops = completion.top_logprobs or [[] for _ in completion.answer.token_ids]
        return [
            ScoredToken(
                text(token), max(logprob, MIN_LOGPROB), [(text(id), max(it, MIN_LOGPROB)) for id, it in top]
            )
            for token, logprob, top in zip(
                completion.answer.token_ids, completion.logprobs or [], tops, strict=True
            )
        ]

    def _split_thinking_ids(self, answer: Answer) -> tuple[list[int], list[int]]:
        """Split an answer's token ids into thinking tokens and answer tokens, without stop tokens."""
        new = len(answer.token_ids) if answer.answer_tokens is None else answer.answer_tokens
        before = len(answer.token_ids) - new
        thinking, ids = answer.token_ids[:before], answer.token_ids[before:]
        text = self.split_texts(answer)[-1][0].lstrip()
        while ids and self.gateway.engine.decode(ids[:-1]).lstrip().startswith(text):
            ids.pop()
        return thinking, ids

    # ------------------------------------------------------------------------------------- a stream

    async def start(self, client_request: ClientRequest) -> Event | None:
        """Submit the requests to the engine and wait for the first event.

        An error before the first event can still set the HTTP status.
        """
        await self._submit_requests(client_request)
        return await client_request.wait_for_event() if client_request.left else None

    async def stream_chunks(
        self, client_request: ClientRequest, first_event: Event | None
    ) -> AsyncIterator[bytes]:
        """Yield the chunks of a streamed response. An error during the stream is sent in the last
        chunk.
        """
        try:
            pieces = (
                await self.gateway.run_in_thread(self.build_initial_deltas)
                if self.parsed.echo
                else self.build_initial_deltas()
            )
            for piece in pieces:
                yield self._format_chunk([piece])
            event = first_event
            held = [StreamBuffer(self.parsed.interval) for _ in self._choice_indices()]
            while event is not None:
                index = self._store_event(event)
                for text, is_thinking in held[index].buffer_and_take_ready_texts(
                    self._extract_new_texts(event), isinstance(event, Completion)
                ):
                    yield self._format_chunk([self.format_delta(index, text, None, is_thinking=is_thinking)])
                if isinstance(event, Completion):
                    for piece in self.build_final_deltas(index):
                        yield self._format_chunk([piece])
                if isinstance(event, Completion) and self.parsed.top is None:
                    yield self._format_chunk([self.format_delta(index, None, self._get_finish_reason(index))])
                event = await client_request.wait_for_event() if client_request.left else None
            if self.parsed.top is not None:
                tokens = await self._score_choices(client_request)
                for index in self._choice_indices():
                    yield await self.gateway.run_in_thread(self._final_chunk, index, tokens[index])
            if self.parsed.include_usage:
                yield self._format_chunk([], usage=self._count_usage())
        except Refusal as error:
            self.gateway.counters.broken += 1
            yield b"data: " + json.dumps({"error": format_error(error)}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _extract_new_texts(self, event: Event) -> list[tuple[str, bool]]:
        """Return the texts that an engine event adds to the stream, as pairs (text, is_thinking)."""
        if isinstance(event, Delta):
            return [(event.text, event.thinking)]
        return [] if self.gateway.streams_deltas else self.split_texts(event.answer)

    def _final_chunk(self, index: int, tokens: list[ScoredToken]) -> bytes:
        return self._format_chunk([self.format_delta(index, None, self._get_finish_reason(index), tokens)])

    def _format_chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + _encode_json(self._response_object(self.chunk_kind, choices) | more) + b"\n\n"


def _encode_json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


class CancellingStream(StreamingResponse):
    """Streaming HTTP response that cancels its engine requests at its end, even after a disconnect."""

    def __init__(self, client_request: ClientRequest, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self.client = client_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream to the client. Aborts the connection if the client stops reading."""
        with self.client:
            try:
                async with asyncio.timeout_at(self.client.deadline + LAST_WORDS_S):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                self.client.gateway.counters.broken += 1
                scope[CONNECTION].abort()
                await send({"type": "http.response.body"})  # returns when the connection has ended
