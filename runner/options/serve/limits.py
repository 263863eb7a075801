"""Enforces a server's limits, builds the error responses, and describes the limits in /openapi.json.

A new limit is a key in keys.py and code here, unless it needs a new call site. Callers, in
the order of a request: connection (`check_connection_limit`), guard before and while a body
arrives (`check_content_length`, `check_body_size`), parser before values are read
(`check_request_list_lengths`) and per prompt (`check_requested_new_tokens`, `check_thinking_budget`), gateway
before completions begin (`require_free_completion_slots`, `check_prompt`). /metrics counts error responses by
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
    """Limits of a server, from its config and from the model's context length."""

    def __init__(self, task: ServeConfig, context_length: float = math.inf) -> None:
        self.task = task
        self.room = context_length  # tokens of a prompt and its answer together

    # ---------------------------------------------------------------------------------- connections

    def check_connection_limit(self, num_other_connections: int) -> Refusal | None:
        most = self.task.max_connections
        if num_other_connections < most:
            return None
        why = (
            f"{num_other_connections} connections are open. The limit is {most} (task.max_connections). "
            "Try again later"
        )
        return Refusal(503, why, code="too_many_connections")

    # --------------------------------------------------------------------------------------- bodies

    def check_content_length(self, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """Return an error response if the Content-Length of a request is too large, otherwise None."""
        length = headers.get(b"content-length", b"0")
        return self.check_body_size(int(length[:20])) if length.isdigit() else None

    def check_body_size(self, nbytes: int) -> Refusal | None:
        most_kib = self.task.max_body_kib
        if nbytes <= most_kib * 1024:
            return None
        why = f"the request body is too large: the limit is {most_kib} KiB (task.max_body_kib)"
        return Refusal(413, why)

    # ------------------------------------------------------------------------------- the values of
    # a body

    def check_request_list_lengths(self, body: Mapping[str, Any]) -> None:
        """Raise Refusal if a list in the request body is too long, before its elements are validated."""
        prompt, stop, n = body.get("prompt"), body.get("stop"), body.get("n")
        prompts = [prompt]
        if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)):
            prompts = prompt
        choices = n if isinstance(n, int) else 1
        # by itself: the product may have more digits than Python writes
        self.require_completions_within_limit(choices)
        self.require_completions_within_limit(len(prompts) * choices)
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
        """Raise Refusal if a conversation has too many messages."""
        if isinstance(messages, list) and len(messages) > MAX_MESSAGES:
            raise Refusal(
                400, f"messages: {len(messages)} messages exceed the limit of {MAX_MESSAGES}", "messages"
            )

    def check_tools(self, tools: Any) -> None:
        """Raise Refusal if a request offers too many functions."""
        if isinstance(tools, list) and len(tools) > MAX_TOOLS:
            raise Refusal(400, f"tools: {len(tools)} tools exceed the limit of {MAX_TOOLS}", "tools")

    def check_stops(self, stop_texts: Sequence[Any]) -> None:
        """Raise Refusal if a request has too many stop texts."""
        if len(stop_texts) > MAX_STOPS:
            raise make_stop_texts_refusal()

    def check_top_logprobs(self, parameter: str, num_alternatives: int) -> None:
        """Raise Refusal if log-probabilities of too many alternative tokens are requested."""
        if not 0 <= num_alternatives <= MAX_TOP:
            raise Refusal(400, f"{parameter}={num_alternatives}: must lie in 0..{MAX_TOP}", parameter)

    def check_requested_new_tokens(self, parameter: str, new_tokens: int) -> None:
        """Raise Refusal if the requested token budget is too large."""
        most = self.task.max_new_tokens
        if new_tokens < 1:
            raise Refusal(400, f"{parameter}={new_tokens}: must be 1 or more", parameter)
        if new_tokens > most:
            need = f"the server's limit is {most} tokens (task.max_new_tokens)"
            raise Refusal(400, f"{parameter}={new_tokens}: {need}", parameter)

    def check_thinking_budget(self, budget: int, new_tokens: int) -> None:
        """Raise Refusal if the sum of thinking budget and answer budget exceeds the server's limit."""
        room = self.task.max_new_tokens - new_tokens
        if budget < 0:
            need = "must be 0 or more"
        elif budget > room:
            need = f"the server's limit leaves only {room} tokens for thinking (task.max_new_tokens)"
        else:
            return
        raise Refusal(400, f"thinking_token_budget={budget}: {need}", "thinking_token_budget")

    # ---------------------------------------------------------------------------------- completions

    def require_completions_within_limit(self, num_completions: int) -> None:
        """Raise Refusal if a request needs more completions than the server can run at a time."""
        most = self.task.max_open
        if num_completions > most:
            raise Refusal(
                400, f"{num_completions} completions in one request: the limit is {most} (task.max_open)", "n"
            )

    def require_free_completion_slots(
        self, num_completions: int, client_id: str, open_requests: Sequence[OpenRequest], retry_after_s: int
    ) -> None:
        """Raise Refusal if the server is full and the client has used its share of completion slots."""
        self.require_completions_within_limit(num_completions)
        most = self.task.max_open
        if not has_free_slots(most, open_requests, client_id, num_completions):
            now = sum(request.places for request in open_requests)
            why = f"{now} completions are running or waiting. The limit is {most}. Try again later"
            raise Refusal(429, why, code="rate_limit_exceeded", retry_after_s=retry_after_s)

    def check_prompt(self, num_tokens: int) -> None:
        """Raise Refusal if a prompt is longer than the model's context."""
        if num_tokens > self.room + 1:  # the last token of a prompt that is only scored needs no room
            why = f"the prompt has {num_tokens} tokens, but the limit is {self.room:.0f}"
            raise Refusal(400, why, "prompt", "context_length_exceeded")

    def make_timeout_refusal(self) -> Refusal:
        """Return the error response for a request that exceeded its time limit."""
        limit = f"{self.task.timeout_s:g} s (task.timeout_s)"
        why = f"the request exceeded the time limit of {limit}"
        return Refusal(504, why)

    def make_shutdown_refusal(self) -> Refusal:
        """Return the error response for requests during a shutdown, with the shutdown's time limit as
        `Retry-After`.
        """
        why = "the server is shutting down and accepts no new requests"
        return Refusal(503, why, retry_after_s=math.ceil(self.task.drain_timeout_s))

    # -------------------------------------------------------------------------------- what clients
    # are told

    @property
    def max_model_len_entry(self) -> dict[str, int]:
        """The context length as vLLM's JSON entry max_model_len, or {} if the length is unlimited."""
        return {"max_model_len": int(self.room)} if self.room < NO_LIMIT else {}

    def add_schema_limits(self, parameter: str, schemas: Sequence[dict[str, Any]]) -> None:
        if parameter == "n":
            schemas[0]["maximum"] = self.task.max_open
        elif parameter in NEW_TOKENS:
            schemas[0]["maximum"] = self.task.max_new_tokens
        elif parameter == "prompt":
            for kind in schemas:
                if kind.get("items", {}).get("type") in ("string", "array"):
                    kind["maxItems"] = self.task.max_open


def make_stop_texts_refusal() -> Refusal:
    return Refusal(400, f"stop: give at most {MAX_STOPS} non-empty strings", "stop")
