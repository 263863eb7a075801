"""The answers to clients in OpenAI's format: whole or as a stream of server-sent events, with log-probabilities."""

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
from runner.options.serve.held_texts import HeldTexts
from runner.options.serve.logprobs import MIN_LOGPROB, Token
from runner.options.serve.parsing import ParsedBody
from runner.options.serve.refusals import Refusal, error_body
from runner_base import Answer
from runner_engine import Completion, Delta, Event, Request

CONNECTION = "runner.connection"  # the key of a request's connection in its scope
LAST_WORDS_S = 1.0  # time for the last chunk of a stream that has timed out
SHORT_CHARACTERS = 16_384  # an answer of fewer characters is written in the event loop


class ClientAnswer(ABC):
    """The answer to one client: it submits the requests and writes their completions as JSON."""

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
        """The adapter that answers; None: the base."""
        return self.parsed.requests[0].adapter

    @abstractmethod
    def choice(self, index: int, text: str, reason: str, tokens: list[Token] | None) -> dict[str, Any]:
        """Return a choice of a whole answer."""

    @abstractmethod
    def piece(
        self,
        index: int,
        text: str | None,
        reason: str | None,
        tokens: list[Token] | None = None,
        is_thinking: bool = False,
    ) -> dict[str, Any]:
        """Return a choice of a chunk of a stream."""

    @abstractmethod
    def texts(self, answer: Answer) -> list[tuple[str, bool]]:
        """Return the texts of an answer, each with whether it is thinking; the answer itself is the
        last one."""

    def last_pieces(self, index: int) -> list[dict[str, Any]]:
        """Return the choices that a stream has behind the text of a choice."""
        return []

    def first_pieces(self) -> list[dict[str, Any]]:
        """Return the choices that a stream begins with."""
        return []

    # ------------------------------------------------------------------------------- a whole answer

    async def whole(self, client: ClientRequest) -> bytes:
        """Wait for all completions and return the answer, as JSON."""
        await self._complete(client)
        tokens = await self._tokens(client)
        characters = sum(len(text) for answer in self.done.values() for text, _ in self.texts(answer))
        is_short = not tokens and not self.parsed.echo and characters < SHORT_CHARACTERS
        return self._written(tokens) if is_short else await self.gateway.in_thread(self._written, tokens)

    async def text(self, client: ClientRequest) -> str:
        """Wait for the only completion and return its text."""
        await self._complete(client)
        return self.done[0].text

    async def _complete(self, client: ClientRequest) -> None:
        await self._submit(client)
        while client.left:
            self._take(await client.next())

    def _written(self, tokens: dict[int, list[Token]]) -> bytes:
        """Write the answer choice by choice, so that other threads can run in between."""
        choices = []
        for index in self._indices():
            choices.append(
                _json(self.choice(index, self._text(index), self._reason(index), tokens.get(index)))
            )
        answer = self._object(self.kind, []) | {"usage": self._usage()}
        head, tail = _json(answer).split(b'"choices":[]', 1)
        return head + b'"choices":[' + b",".join(choices) + b"]" + tail

    async def _submit(self, client: ClientRequest) -> None:
        """Submit the requests to the engine, or none if only the prompt is to be scored."""
        client.enter(self.parsed.rows, scores_follow=self.parsed.top is not None)
        if self.parsed.needs_ids:
            self.parsed.requests = await self.gateway.in_thread(self.gateway.with_ids, self.parsed.requests)
        if not self.parsed.scores_only:
            await client.submit(self.parsed.requests)
            return
        for number, request in enumerate(self.parsed.requests):
            self.prompt_tokens[number] = len(request.prompt)

    def _take(self, event: Event) -> int:
        """Store an event and return the index of its choice."""
        number = self._numbers[event.id]
        index = number * self.parsed.requests[number].n + event.choice
        if isinstance(event, Completion):
            self.done[index] = event.answer
            self.prompt_tokens[number] = event.prompt_tokens
        return index

    def _indices(self) -> range:
        return range(sum(request.n for request in self.parsed.requests))

    def _request(self, index: int) -> Request:
        return self.parsed.requests[index // self.parsed.requests[0].n]

    def _ids(self, index: int) -> list[int]:
        """Return the ids of a choice's prompt, which was given as ids."""
        return [part for part in self._request(index).prompt if isinstance(part, int)]

    def _text(self, index: int) -> str:
        answer = "" if self.parsed.scores_only else self.texts(self.done[index])[-1][0]
        return self.echo(index) + answer if self.parsed.echo else answer

    def echo(self, index: int) -> str:
        """Return a choice's prompt as text."""
        prompt = self._request(index).prompt
        return prompt if isinstance(prompt, str) else self.gateway.engine.decode(self._ids(index))

    def _reason(self, index: int) -> str:
        if self.parsed.scores_only:  # nothing is generated
            return "length"
        reason = self.done[index].finish_reason
        # OpenAI's word, also where the model's context was full
        return "length" if reason.is_cut_off else reason.value

    def _usage(self) -> dict[str, Any]:
        prompt = sum(self.prompt_tokens.values())
        new = sum(answer.tokens for answer in self.done.values())
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
        }
        thinking = [it.thinking_tokens for it in self.done.values() if it.thinking_tokens is not None]
        return usage | (
            {"completion_tokens_details": {"reasoning_tokens": sum(thinking)}} if thinking else {}
        )

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.adapter or self.gateway.model,
            "choices": choices,
        }

    # ---------------------------------------------------------------------------- log-probabilities

    async def _tokens(self, client: ClientRequest) -> dict[int, list[Token]]:
        """Score the answers, and the prompts if they are echoed; return the tokens of each
        choice."""
        top = self.parsed.top
        if top is None:
            return {}
        requests, tokens = await self.gateway.in_thread(self._score_requests, top)
        completions = await client.score(list(requests.values()))
        for index, request in requests.items():
            tokens[index] += await self.gateway.in_thread(self._scored_tokens, completions[request.id])
        return tokens

    def _score_requests(self, top: int) -> tuple[dict[int, Request], dict[int, list[Token]]]:
        """Return the request that scores each choice, and the tokens before it that have no
        score."""
        requests: dict[int, Request] = {}
        first: dict[int, list[Token]] = {}
        for index in self._indices():
            prompt = self._ids(index)
            thinking, new = ([], []) if self.parsed.scores_only else self._ids_of(self.done[index])
            first[index] = [Token(self.gateway.token_text(prompt[0]), None, [])] if self.parsed.echo else []
            before, scored = (prompt[:1], prompt[1:] + new) if self.parsed.echo else (prompt + thinking, new)
            if scored:
                number = self.gateway.next_id()
                requests[index] = Request(
                    number, tuple(before), continuation=tuple(scored), top_logprobs=top, adapter=self.adapter
                )
        return requests, first

    def _scored_tokens(self, completion: Completion) -> list[Token]:
        text = self.gateway.token_text
        tops = completion.top_logprobs or [[] for _ in completion.answer.token_ids]
        return [
            Token(
                text(token), max(logprob, MIN_LOGPROB), [(text(id), max(it, MIN_LOGPROB)) for id, it in top]
            )
            for token, logprob, top in zip(
                completion.answer.token_ids, completion.logprobs or [], tops, strict=True
            )
        ]

    def _ids_of(self, answer: Answer) -> tuple[list[int], list[int]]:
        """Return the tokens before the answer's text, and its own, without a stop text and the
        token that ended it."""
        new = len(answer.token_ids) if answer.answer_tokens is None else answer.answer_tokens
        before = len(answer.token_ids) - new
        thinking, ids = answer.token_ids[:before], answer.token_ids[before:]
        text = self.texts(answer)[-1][0].lstrip()
        while ids and self.gateway.engine.decode(ids[:-1]).lstrip().startswith(text):
            ids.pop()
        return thinking, ids

    # ------------------------------------------------------------------------------------- a stream

    async def begin(self, client: ClientRequest) -> Event | None:
        """Submit and wait for the first event, so that an early error gets its own HTTP status."""
        await self._submit(client)
        return await client.next() if client.left else None

    async def stream(self, client: ClientRequest, first: Event | None) -> AsyncIterator[bytes]:
        """Yield the chunks; a later error is in the last one."""
        try:
            pieces = (
                await self.gateway.in_thread(self.first_pieces) if self.parsed.echo else self.first_pieces()
            )
            for piece in pieces:
                yield self._chunk([piece])
            event = first
            held = [HeldTexts(self.parsed.interval) for _ in self._indices()]
            while event is not None:
                index = self._take(event)
                for text, is_thinking in held[index].take(
                    self._new_texts(event), isinstance(event, Completion)
                ):
                    yield self._chunk([self.piece(index, text, None, is_thinking=is_thinking)])
                if isinstance(event, Completion):
                    for piece in self.last_pieces(index):
                        yield self._chunk([piece])
                if isinstance(event, Completion) and self.parsed.top is None:
                    yield self._chunk([self.piece(index, None, self._reason(index))])
                event = await client.next() if client.left else None
            if self.parsed.top is not None:
                tokens = await self._tokens(client)
                for index in self._indices():
                    yield await self.gateway.in_thread(self._last_chunk, index, tokens[index])
            if self.parsed.include_usage:
                yield self._chunk([], usage=self._usage())
        except Refusal as error:
            self.gateway.counters.broken += 1
            yield b"data: " + json.dumps({"error": error_body(error)}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _new_texts(self, event: Event) -> list[tuple[str, bool]]:
        """Return the texts that an event adds to a stream, each with whether it is thinking."""
        if isinstance(event, Delta):
            return [(event.text, event.thinking)]
        return [] if self.gateway.streams_deltas else self.texts(event.answer)

    def _last_chunk(self, index: int, tokens: list[Token]) -> bytes:
        return self._chunk([self.piece(index, None, self._reason(index), tokens)])

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + _json(self._object(self.chunk_kind, choices) | more) + b"\n\n"


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


class Stream(StreamingResponse):
    """A stream that cancels its requests when it ends, also when the client has left or does not
    read."""

    def __init__(self, client: ClientRequest, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self.client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; its connection is ended if the client has not even read the word of a
        timeout."""
        with self.client:
            try:
                async with asyncio.timeout_at(self.client.deadline + LAST_WORDS_S):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                self.client.gateway.counters.broken += 1
                scope[CONNECTION].abort()
                await send({"type": "http.response.body"})  # returns when the connection has ended
