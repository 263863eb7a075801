"""What this server takes at most: each limit with its check, its refusal, and what /openapi.json
says of it.

A new limit is a key in keys.py and lines here, unless it is asked where nothing asks yet. The
others only ask, in the order in which a request meets them: a connection (`connections_refused`),
the guard before a body is read (`declared_body_refused`) and while it arrives (`body_refused`), the
parser before it reads the values of a body (`check_sizes`) and for each prompt (`check_new_tokens`,
`check_thinking`), the gateway before the completions begin (`check_places`, `check_prompt`).
/metrics counts refusals by their status, so a limit adds nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runner.options.serve.keys import ServeConfig
from runner.options.serve.refusals import Refusal
from runner.options.serve.shares import Held, has_room

# What no key changes.
MAX_STOPS, MAX_STOP_CHARACTERS, MAX_TOP, MAX_MESSAGES = 16, 1000, 20, 10_000
MAX_TOOLS = 128  # functions that a request offers
BODY_S = 60.0  # time limit for a body to arrive
HEADER_S = 20.0  # time limit for a request's header, from its first byte
READ_BYTES_PER_S = 1024  # a client that reads less of its answer has stopped reading
NO_LIMIT = 1e9  # tokens: a model with more room has no limit that a client should know

NEW_TOKENS = ("max_tokens", "max_completion_tokens", "max_new_tokens")  # parameters of requests


class Limits:
    """The limits of one server: the keys of its task, and the room of its model."""

    def __init__(self, task: ServeConfig, room: float = math.inf) -> None:
        self.task = task
        self.room = room  # tokens of a prompt and its answer together

    # ---------------------------------------------------------------------------------- connections

    def connections_refused(self, others: int) -> Refusal | None:
        """Return why a connection beside so many others is refused, or None."""
        most = self.task.max_connections
        if others < most:
            return None
        why = f"{others} connections are open, {most} at most (task.max_connections): try again later"
        return Refusal(503, why, code="too_many_connections")

    # --------------------------------------------------------------------------------------- bodies

    def declared_body_refused(self, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """Return why a body of the declared length is refused, or None."""
        length = headers.get(b"content-length", b"0")
        return self.body_refused(int(length[:20])) if length.isdigit() else None

    def body_refused(self, size: int) -> Refusal | None:
        """Return why a body of so many bytes is refused, or None."""
        most_kib = self.task.max_body_kib
        if size <= most_kib * 1024:
            return None
        why = f"the body is too large: this server takes {most_kib} KiB (task.max_body_kib)"
        return Refusal(413, why)

    # ------------------------------------------------------------------------------- the values of
    # a body

    def check_sizes(self, body: Mapping[str, Any]) -> None:
        """Refuse lists that are too long, before their elements are checked."""
        prompt, stop, n = body.get("prompt"), body.get("stop"), body.get("n")
        prompts = [prompt]
        if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)):
            prompts = prompt
        choices = n if isinstance(n, int) else 1
        self.check_rows(choices)  # by itself: the product may have more digits than Python writes
        self.check_rows(len(prompts) * choices)
        for part in prompts:
            if isinstance(part, list):
                self.check_prompt(len(part))
        self.check_messages(body.get("messages"))
        self.check_tools(body.get("tools"))
        stops = stop if isinstance(stop, list) else [stop]
        self.check_stops(stops)
        if any(isinstance(text, str) and len(text) > MAX_STOP_CHARACTERS for text in stops):
            raise Refusal(400, f"stop: a text has more than {MAX_STOP_CHARACTERS} characters", "stop")

    def check_messages(self, messages: Any) -> None:
        """Refuse conversations that are too long."""
        if isinstance(messages, list) and len(messages) > MAX_MESSAGES:
            raise Refusal(
                400, f"messages: {len(messages)} are too many, this server takes {MAX_MESSAGES}", "messages"
            )

    def check_tools(self, tools: Any) -> None:
        """Refuse too many offered functions."""
        if isinstance(tools, list) and len(tools) > MAX_TOOLS:
            raise Refusal(400, f"tools: {len(tools)} are too many, this server takes {MAX_TOOLS}", "tools")

    def check_stops(self, stops: Sequence[Any]) -> None:
        """Refuse too many stop texts."""
        if len(stops) > MAX_STOPS:
            raise stops_refused()

    def check_top(self, parameter: str, top: int) -> None:
        """Refuse log-probabilities of too many alternatives."""
        if not 0 <= top <= MAX_TOP:
            raise Refusal(400, f"{parameter}={top}: must lie in 0..{MAX_TOP}", parameter)

    def check_new_tokens(self, parameter: str, new_tokens: int) -> None:
        """Refuse a request for too long an answer."""
        most = self.task.max_new_tokens
        if new_tokens < 1:
            raise Refusal(400, f"{parameter}={new_tokens}: must be 1 or more", parameter)
        if new_tokens > most:
            need = f"this server gives at most {most} (task.max_new_tokens)"
            raise Refusal(400, f"{parameter}={new_tokens}: {need}", parameter)

    def check_thinking(self, budget: int, new_tokens: int) -> None:
        """Refuse more thinking than the answer's new tokens leave of those that the server
        gives."""
        room = self.task.max_new_tokens - new_tokens
        if budget < 0:
            need = "must be 0 or more"
        elif budget > room:
            need = f"the answer leaves {room} tokens of those that this server gives (task.max_new_tokens)"
        else:
            return
        raise Refusal(400, f"thinking_token_budget={budget}: {need}", "thinking_token_budget")

    # ---------------------------------------------------------------------------------- completions

    def check_rows(self, rows: int) -> None:
        """Refuse more completions in one request than the server has open at once."""
        most = self.task.max_open
        if rows > most:
            raise Refusal(
                400, f"{rows} completions in one request: this server takes {most} (task.max_open)", "n"
            )

    def check_places(self, rows: int, owner: str, held: Sequence[Held], retry_s: int) -> None:
        """Refuse new completions if the server is full and the client has its share of it."""
        self.check_rows(rows)
        most = self.task.max_open
        if not has_room(most, held, owner, rows):
            now = sum(request.places for request in held)
            why = f"{now} completions are under way or waiting, {most} at most: try again later"
            raise Refusal(429, why, code="rate_limit_exceeded", retry_s=retry_s)

    def check_prompt(self, tokens: int) -> None:
        """Refuse a prompt of more tokens than the model has room for."""
        if tokens > self.room + 1:  # the last token of a prompt that is only scored needs no room
            why = f"the prompt has {tokens} tokens, the model has room for {self.room:.0f}"
            raise Refusal(400, why, "prompt", "context_length_exceeded")

    def timed_out(self) -> Refusal:
        """Return why an answer is ended that has taken too long."""
        limit = f"{self.task.timeout_s:g} s (task.timeout_s)"
        why = f"the answer was not complete after {limit}: it was cancelled"
        return Refusal(504, why)

    def stopping(self) -> Refusal:
        """Return why a server that is being stopped takes no requests; open answers have `drain_s`
        to finish."""
        why = "the server is being stopped and takes no new requests"
        return Refusal(503, why, retry_s=math.ceil(self.task.drain_s))

    # -------------------------------------------------------------------------------- what clients
    # are told

    @property
    def described_room(self) -> dict[str, int]:
        """Return the model's room, as vLLM names it; nothing if there is no limit."""
        return {"max_model_len": int(self.room)} if self.room < NO_LIMIT else {}

    def describe(self, name: str, kinds: Sequence[dict[str, Any]]) -> None:
        """Add the limits of one parameter to the kinds of values that its schema lists."""
        if name == "n":
            kinds[0]["maximum"] = self.task.max_open
        elif name in NEW_TOKENS:
            kinds[0]["maximum"] = self.task.max_new_tokens
        elif name == "prompt":
            for kind in kinds:
                if kind.get("items", {}).get("type") in ("string", "array"):
                    kind["maxItems"] = self.task.max_open


def stops_refused() -> Refusal:
    """Return the refusal for stop texts that are too many or empty."""
    return Refusal(400, f"stop: give up to {MAX_STOPS} texts, none of them empty", "stop")
