"""Limits of a server: each with its check, its error response, and its entry in /openapi.json.

A new limit is a key in keys.py and code here, unless it needs a new call site. Callers, in
the order of a request: connection (`check_connections`), guard before and while a body
arrives (`check_declared_body`, `check_body_size`), parser before values are read
(`check_sizes`) and per prompt (`check_new_tokens`, `check_thinking`), gateway before
completions begin (`check_slots`, `check_prompt`). /metrics counts error responses by
status.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runner.options.serve.client_shares import OpenRequest, has_free_slots
from runner.options.serve.keys import ServeConfig
from runner.options.serve.refusals import Refusal

# What no key changes.
MAX_STOPS, MAX_STOP_CHARACTERS, MAX_TOP, MAX_MESSAGES = 16, 1000, 20, 10_000
MAX_TOOLS = 128  # functions that a request offers
BODY_S = 60.0  # time limit for a body to arrive
HEADER_S = 20.0  # time limit for a request's header, from its first byte
READ_BYTES_PER_S = 1024  # a client that reads less of its answer has stopped reading
NO_LIMIT = 1e9  # tokens: a model with more room has no limit that a client should know

NEW_TOKENS = ("max_tokens", "max_completion_tokens", "max_new_tokens")  # parameters of requests


class ServerLimits:
    """The limits of one server: the keys of its task, and the model's context length."""

    def __init__(self, task: ServeConfig, context_length: float = math.inf) -> None:
        self.task = task
        self.room = context_length  # tokens of a prompt and its answer together

    # ---------------------------------------------------------------------------------- connections

    def check_connections(self, num_others: int) -> Refusal | None:
        """Return the error response for one more connection, or None if it is accepted."""
        most = self.task.max_connections
        if num_others < most:
            return None
        why = (
            f"{num_others} connections are open, the limit is {most} (task.max_connections). Try again later"
        )
        return Refusal(503, why, code="too_many_connections")

    # --------------------------------------------------------------------------------------- bodies

    def check_declared_body(self, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """Return the error response for a body of the declared length, or None if it is accepted."""
        length = headers.get(b"content-length", b"0")
        return self.check_body_size(int(length[:20])) if length.isdigit() else None

    def check_body_size(self, nbytes: int) -> Refusal | None:
        """Return the error response for a body of this size, or None if it is accepted."""
        most_kib = self.task.max_body_kib
        if nbytes <= most_kib * 1024:
            return None
        why = f"the request body is too large: the limit is {most_kib} KiB (task.max_body_kib)"
        return Refusal(413, why)

    # ------------------------------------------------------------------------------- the values of
    # a body

    def check_sizes(self, body: Mapping[str, Any]) -> None:
        """Raise Refusal for lists that are too long, before their elements are checked."""
        prompt, stop, n = body.get("prompt"), body.get("stop"), body.get("n")
        prompts = [prompt]
        if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)):
            prompts = prompt
        choices = n if isinstance(n, int) else 1
        self.check_completions(choices)  # by itself: the product may have more digits than Python writes
        self.check_completions(len(prompts) * choices)
        for part in prompts:
            if isinstance(part, list):
                self.check_prompt(len(part))
        self.check_messages(body.get("messages"))
        self.check_tools(body.get("tools"))
        stops = stop if isinstance(stop, list) else [stop]
        self.check_stops(stops)
        if any(isinstance(text, str) and len(text) > MAX_STOP_CHARACTERS for text in stops):
            raise Refusal(400, f"stop: a string has more than {MAX_STOP_CHARACTERS} characters", "stop")

    def check_messages(self, messages: Any) -> None:
        """Raise Refusal for a conversation with too many messages."""
        if isinstance(messages, list) and len(messages) > MAX_MESSAGES:
            raise Refusal(
                400, f"messages: {len(messages)} are too many, the limit is {MAX_MESSAGES}", "messages"
            )

    def check_tools(self, tools: Any) -> None:
        """Raise Refusal for too many offered functions."""
        if isinstance(tools, list) and len(tools) > MAX_TOOLS:
            raise Refusal(400, f"tools: {len(tools)} are too many, the limit is {MAX_TOOLS}", "tools")

    def check_stops(self, stops: Sequence[Any]) -> None:
        """Raise Refusal for too many stop texts."""
        if len(stops) > MAX_STOPS:
            raise stop_texts_refusal()

    def check_top_logprobs(self, parameter: str, top: int) -> None:
        """Raise Refusal for log-probabilities of too many alternatives."""
        if not 0 <= top <= MAX_TOP:
            raise Refusal(400, f"{parameter}={top}: must lie in 0..{MAX_TOP}", parameter)

    def check_new_tokens(self, parameter: str, new_tokens: int) -> None:
        """Raise Refusal for too large a token budget."""
        most = self.task.max_new_tokens
        if new_tokens < 1:
            raise Refusal(400, f"{parameter}={new_tokens}: must be 1 or more", parameter)
        if new_tokens > most:
            need = f"the server's limit is {most} tokens (task.max_new_tokens)"
            raise Refusal(400, f"{parameter}={new_tokens}: {need}", parameter)

    def check_thinking_budget(self, budget: int, new_tokens: int) -> None:
        """Raise Refusal if thinking budget plus answer exceed the server's limit of new tokens."""
        room = self.task.max_new_tokens - new_tokens
        if budget < 0:
            need = "must be 0 or more"
        elif budget > room:
            need = f"the answer leaves only {room} tokens of the server's limit (task.max_new_tokens)"
        else:
            return
        raise Refusal(400, f"thinking_token_budget={budget}: {need}", "thinking_token_budget")

    # ---------------------------------------------------------------------------------- completions

    def check_completions(self, num_completions: int) -> None:
        """Raise Refusal for more completions in one request than the server runs at once."""
        most = self.task.max_open
        if num_completions > most:
            raise Refusal(
                400, f"{num_completions} completions in one request: the limit is {most} (task.max_open)", "n"
            )

    def check_slots(
        self, num_completions: int, owner: str, open_requests: Sequence[OpenRequest], retry_s: int
    ) -> None:
        """Raise Refusal if the server is full and the client has used its share."""
        self.check_completions(num_completions)
        most = self.task.max_open
        if not has_free_slots(most, open_requests, owner, num_completions):
            now = sum(request.places for request in open_requests)
            why = f"{now} completions are running or waiting, the limit is {most}. Try again later"
            raise Refusal(429, why, code="rate_limit_exceeded", retry_s=retry_s)

    def check_prompt(self, num_tokens: int) -> None:
        """Raise Refusal for a prompt longer than the model's context."""
        if num_tokens > self.room + 1:  # the last token of a prompt that is only scored needs no room
            why = f"the prompt has {num_tokens} tokens, but the limit is {self.room:.0f}"
            raise Refusal(400, why, "prompt", "context_length_exceeded")

    def timeout_refusal(self) -> Refusal:
        """Return the error response for a timeout."""
        limit = f"{self.task.timeout_s:g} s (task.timeout_s)"
        why = f"the answer was cancelled, because it was incomplete after {limit}"
        return Refusal(504, why)

    def shutdown_refusal(self) -> Refusal:
        """Return the error response of a server that is shutting down. Open responses have `drain_s`
        to finish.
        """
        why = "the server is shutting down and accepts no new requests"
        return Refusal(503, why, retry_s=math.ceil(self.task.drain_s))

    # -------------------------------------------------------------------------------- what clients
    # are told

    @property
    def max_model_len_entry(self) -> dict[str, int]:
        """The model's context length under vLLM's name, or {} if it is unlimited."""
        return {"max_model_len": int(self.room)} if self.room < NO_LIMIT else {}

    def add_schema_limits(self, name: str, schemas: Sequence[dict[str, Any]]) -> None:
        """Add one parameter's limits to its JSON schemas."""
        if name == "n":
            schemas[0]["maximum"] = self.task.max_open
        elif name in NEW_TOKENS:
            schemas[0]["maximum"] = self.task.max_new_tokens
        elif name == "prompt":
            for kind in schemas:
                if kind.get("items", {}).get("type") in ("string", "array"):
                    kind["maxItems"] = self.task.max_open


def stop_texts_refusal() -> Refusal:
    """Return the error response for too many or empty stop texts."""
    return Refusal(400, f"stop: give at most {MAX_STOPS} strings, none of them empty", "stop")
