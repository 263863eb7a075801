"""Checks the body of a client's request and turns it into requests to the engine.

An unknown parameter is refused by name, unless it has the value that does nothing: no client gets an answer that was
sampled otherwise than it asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.message import Message as Headers
from typing import Any

from pydantic import BaseModel, ValidationError

from runner.config.sampling import PARAMETERS, Sampling
from runner.core.errors import ConfigError, unknown
from runner.engines.base import Message, Prompt, Request
from runner.serving.bodies import (
    ChatBody,
    ChatMessage,
    GenerateBody,
    OpenAIBody,
    SamplingFields,
    StreamOptions,
    TextBody,
)
from runner.serving.gateway import Gateway, Refusal

MOST_STOPS, MOST_STOP_CHARACTERS, MOST_TOP, MOST_MESSAGES = 16, 1000, 20, 10_000
# Parameters of OpenAI's that we have not, and the values at which they do nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},), "min_tokens": (0,),
    "tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (),
    "prediction": (), "reasoning_effort": ("none",), "verbosity": ("medium",), "web_search_options": (),
    "service_tier": ("auto", "default"), "store": (False,), "suffix": ("",), "best_of": (1,),
}  # fmt: skip
# Why some of them are refused, in more words than "this server has no such thing".
WHY_NOT = {
    "response_format": "this server does not hold answers to JSON or to a grammar; ask for the form in the prompt",
}
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")  # say who asks
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass
class ParsedBody:
    """A body that was read and checked: requests for completions of each of its prompts."""

    requests: list[Request]  # one for each prompt
    stream: bool = False
    include_usage: bool = False
    top: int | None = None  # None: no log-probabilities; else how many alternatives for each token
    echo: bool = False  # the answer begins with the prompt
    scores_only: bool = False  # nothing is generated, only the prompt is scored

    @property
    def needs_ids(self) -> bool:
        """Whether the prompts are to be scored, which needs their tokens."""
        return self.top is not None or self.scores_only

    @property
    def rows(self) -> int:
        """Completions that it will have on their way."""
        return len(self.requests) if self.scores_only else sum(request.n for request in self.requests)


def parse_body(
    kind: type[ChatBody | TextBody | GenerateBody], data: bytes, content_type: str, gateway: Gateway
) -> ParsedBody:
    """Read the body of a request, which takes long for a large one; sizes are checked before anything is made of it."""
    value = json_of(data, content_type)
    _check_sizes(value, gateway)
    try:
        read = kind.model_validate(value)
    except ValidationError as error:
        raise malformed(error) from error
    if isinstance(read, ChatBody):
        return parse_chat(read, gateway)
    if isinstance(read, TextBody):
        return parse_text(read, gateway)
    return parse_generate(read, gateway)


def json_of(data: bytes, content_type: str) -> dict[str, Any]:
    """Read an object; a form of another site can send other types unasked, so they are not read."""
    headers = Headers()
    headers["content-type"] = content_type
    kind, subtype = headers.get_content_maintype(), headers.get_content_subtype()
    value = None
    if data and kind == "application" and (subtype == "json" or subtype.endswith("+json")):
        try:
            value = json.loads(data)
        except json.JSONDecodeError as error:
            raise Refusal(400, f"the body is no JSON: {error.msg}") from error
        except RecursionError as error:
            raise Refusal(400, "the body is no JSON that can be read: it is nested too deeply") from error
        except ValueError as error:  # no UTF-8, or a number of thousands of digits
            raise Refusal(400, f"the body is no JSON that can be read: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(400, "the body: give a JSON object, with Content-Type: application/json")
    return value


def check_messages(messages: Any) -> None:
    """Refuse longer conversations than are read."""
    if isinstance(messages, list) and len(messages) > MOST_MESSAGES:
        raise Refusal(400, f"messages: {len(messages)} are too many: this server takes {MOST_MESSAGES}", "messages")


def _check_sizes(value: dict[str, Any], gateway: Gateway) -> None:
    """Refuse lists that are longer than what is served, before each of their elements is looked at."""
    prompt, stop, messages = value.get("prompt"), value.get("stop"), value.get("messages")
    prompts = prompt if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)) else [prompt]
    n = value.get("n")
    gateway.check_rows(len(prompts) * (n if isinstance(n, int) else 1))
    for one in prompts:
        if isinstance(one, list):
            gateway.check_room(len(one))
    check_messages(messages)
    stops = stop if isinstance(stop, list) else [stop]
    if len(stops) > MOST_STOPS:
        raise _stops_refused()
    if any(isinstance(one, str) and len(one) > MOST_STOP_CHARACTERS for one in stops):
        raise Refusal(400, f"stop: a text has more than {MOST_STOP_CHARACTERS} characters", "stop")


def _stops_refused() -> Refusal:
    return Refusal(400, f"stop: give up to {MOST_STOPS} texts, none of them empty", "stop")


def malformed(error: ValidationError) -> Refusal:
    """Say what is wrong with a body, by its first fault."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return Refusal(400, f"{place}: {first['msg']}", place.partition(".")[0])


def parse_chat(body: ChatBody, gateway: Gateway) -> ParsedBody:
    """Read a chat."""
    if not body.messages:
        raise Refusal(400, "messages: give at least one", "messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs=true", "top_logprobs")
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    prompt = tuple(message_of(number, message) for number, message in enumerate(body.messages))
    parsed = _parsed(body, gateway, [prompt], limit)
    parsed.top = (body.top_logprobs or 0) if body.logprobs else None
    return _with_scores(parsed, gateway, "top_logprobs")


def parse_text(body: TextBody, gateway: Gateway) -> ParsedBody:
    """Read a plain prompt, or several; max_tokens=0 with echo scores what is there."""
    given = body.prompt
    prompts: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else [*given]
    if not prompts:
        raise Refusal(400, "prompt: give a text, token ids, or a list of them", "prompt")
    scores_only = body.max_tokens == 0 and bool(body.echo)
    limit = 1 if scores_only else body.max_tokens
    parsed = _parsed(body, gateway, [one if isinstance(one, str) else tuple(one) for one in prompts], limit)
    parsed.top, parsed.echo, parsed.scores_only = body.logprobs, bool(body.echo), scores_only
    return _with_scores(parsed, gateway, "logprobs")


def parse_generate(body: GenerateBody, gateway: Gateway) -> ParsedBody:
    """Read what the old tools sent."""
    refuse_extra(body, {})
    return ParsedBody(
        [_request(body, gateway, body.prompt, "prompt", "max_new_tokens", body.max_new_tokens, 1, False, None)]
    )


def _parsed(body: OpenAIBody, gateway: Gateway, prompts: list[Prompt], limit: int | None) -> ParsedBody:
    neutral = NEUTRAL | {"best_of": (1, body.n or 1)}
    refuse_extra(body, neutral)
    gateway.check_model(body.model)
    n, options = 1 if body.n is None else body.n, body.stream_options
    if n < 1:
        raise Refusal(400, f"n={n}: must be 1 or more", "n")
    if options is not None and not body.stream:
        raise Refusal(400, "stream_options needs stream=true", "stream_options")
    if (options := options or StreamOptions()).include_obfuscation:
        raise Refusal(400, "stream_options.include_obfuscation=true: this server does not pad its streams")
    requests = [
        _request(body, gateway, prompt, "prompt", "max_tokens", limit, n, bool(body.stream), number)
        for number, prompt in enumerate(prompts)
    ]
    return ParsedBody(requests, bool(body.stream), bool(options.include_usage))


def _request(
    body: SamplingFields,
    gateway: Gateway,
    prompt: Prompt,
    name: str,
    key: str,
    limit: int | None,
    n: int,
    stream: bool,
    draws: int | None,
) -> Request:
    """Return the engine's request; with a seed, its place among the prompts stands for its number in the draws."""
    most = gateway.task.max_new_tokens
    if limit is not None and not 1 <= limit <= most:
        need = f"this server gives at most {most} (task.max_new_tokens)" if limit > most else "must be 1 or more"
        raise Refusal(400, f"{key}={limit}: {need}", key)
    if not prompt:
        raise Refusal(400, f"{name}: it is empty", name)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stops) or len(stops) > MOST_STOPS:
        raise _stops_refused()
    drawn = {name: getattr(body, name) for name in PARAMETERS}
    drawn["top_k"] = 0 if drawn["top_k"] == -1 else drawn["top_k"]  # as vLLM says it
    try:
        sampling = Sampling(**drawn, seed=body.seed)
    except ConfigError as error:
        raise Refusal(400, str(error)) from error
    return Request(
        gateway.next_id(),
        prompt,
        tuple(stops),
        min(gateway.config.generation.max_new_tokens, most) if limit is None else limit,
        ignore_eos=bool(body.ignore_eos),
        recurring=True,
        sampling=sampling,
        n=n,
        deltas=stream and gateway.streams_deltas,
        draws=None if body.seed is None else draws or 0,
    )


def _with_scores(parsed: ParsedBody, gateway: Gateway, name: str) -> ParsedBody:
    """Check the wish for log-probabilities."""
    if parsed.top is not None and not 0 <= parsed.top <= MOST_TOP:
        raise Refusal(400, f"{name}={parsed.top}: must lie in 0..{MOST_TOP}", name)
    if parsed.needs_ids:
        gateway.check_scores()
    return parsed


def message_of(number: int, message: ChatMessage) -> Message:
    """Return a message as the engine takes it."""
    where = f"messages[{number}]"
    for name, value in (message.model_extra or {}).items():
        if value not in (None, [], "", {}):
            raise Refusal(400, f"{where}.{name}: this server reads only role and content of a message", "messages")
    if message.role not in ROLES:
        raise Refusal(400, f"{where}.role: {unknown('role', message.role, ROLES)}", "messages")
    content = message.content
    if isinstance(content, list):
        other = next((part.type for part in content if part.type != "text" or part.text is None), None)
        if other is not None:
            raise Refusal(400, f"{where}.content: a part of type {other!r}: this server reads only text", "messages")
        content = "".join(part.text or "" for part in content)
    if content is None:
        raise Refusal(400, f"{where}.content: give a text", "messages")
    return Message(ROLES[message.role], content)


def refuse_extra(body: BaseModel, neutral: dict[str, tuple[Any, ...]]) -> None:
    """Refuse parameters that are not known, and those that are not had, unless they do nothing."""
    for name, value in (body.model_extra or {}).items():
        if value is None or name in LABELS or (name in neutral and value in neutral[name]):
            continue
        if name in neutral:
            plain = " or ".join(repr(one) for one in neutral[name]) or "null"
            why = WHY_NOT.get(name, "this server has no such thing")
            raise Refusal(400, f"{name}: {why}: leave it out, or give {plain}", name)
        raise Refusal(400, unknown("parameter", name, {*type(body).model_fields, *neutral}), name)
