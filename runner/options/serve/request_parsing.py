"""Validates the bodies of client requests and converts them to engine requests.

Unknown parameters are rejected by name, unless their value has no effect. So no answer is
sampled differently than requested.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from email.message import Message as Headers
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from runner.options.serve.answer_grammar import build_answer_grammar
from runner.options.serve.bodies import (
    ChatBody,
    GenerateBody,
    OpenAIBody,
    SamplingFields,
    StreamOptions,
    TextBody,
)
from runner.options.serve.chat_messages import convert_chat_to_engine_messages
from runner.options.serve.gateway import Gateway
from runner.options.serve.limits import make_stop_texts_refusal
from runner.options.serve.refusals import Refusal
from runner.options.serve.tools import OfferedTools
from runner_base import format_unknown_choice_message
from runner_engine import Prompt, Request, Sampling
from runner_engine.settings.sampling import PARAMETERS

Body = TypeVar("Body", bound=BaseModel)
# OpenAI's parameters that this server lacks, and the values at which they have no effect.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "min_tokens": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "chat_template_kwargs": ({},),
}
# more helpful than that this server does not support it
REJECTION_REASONS = {
    "response_format": "only chats have it: /v1/chat/completions",
    "tools": "only chats have them: /v1/chat/completions",
    "chat_template_kwargs": "not settable per request. Start the server with model.chat_template_kwargs",
}
# These describe the client, and are ignored.
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")


@dataclass
class ParsedBody:
    """A validated client request: an engine request for each prompt, and the options of the response."""

    requests: list[Request]  # one for each prompt
    stream: bool = False
    include_usage: bool = False
    interval: int = 1  # tokens in an event of the stream
    top: int | None = None  # None: no log-probabilities; else how many alternatives for each token
    echo: bool = False  # the answer begins with the prompt
    scores_only: bool = False  # nothing is generated, only the prompt is scored
    offered: OfferedTools | None = None  # functions that the answer may call

    @property
    def needs_token_ids(self) -> bool:
        return self.top is not None or self.scores_only

    @property
    def num_completions(self) -> int:
        return len(self.requests) if self.scores_only else sum(request.n for request in self.requests)


def parse_request_body(
    body_type: type[ChatBody | TextBody | GenerateBody], data: bytes, content_type: str, gateway: Gateway
) -> ParsedBody:
    """Parse the body of a client's request. Checks sizes first, because parsing a large body is slow."""
    value = parse_json_body(data, content_type)
    gateway.limits.check_request_list_lengths(value)
    body = validate_body(body_type, value)
    if isinstance(body, ChatBody):
        return parse_chat_request(body, gateway)
    parsed = (
        parse_completion_request(body, gateway)
        if isinstance(body, TextBody)
        else parse_generate_request(body, gateway)
    )
    parsed.requests = [replace(request, is_raw=True) for request in parsed.requests]
    return parsed


def parse_json_body(data: bytes, content_type: str) -> dict[str, Any]:
    """Parse a body as a JSON object. Refuses other content types, because HTML forms of any website could
    send them.
    """
    headers = Headers()
    headers["content-type"] = content_type
    kind, subtype = headers.get_content_maintype(), headers.get_content_subtype()
    value = None
    if data and kind == "application" and (subtype == "json" or subtype.endswith("+json")):
        try:
            value = json.loads(data)
        except json.JSONDecodeError as error:
            raise Refusal(400, f"the request body is not JSON: {error.msg}") from error
        except RecursionError as error:
            raise Refusal(400, "the request body is not readable JSON: it is nested too deeply") from error
        except ValueError as error:  # not UTF-8, or a number with thousands of digits
            raise Refusal(400, f"the request body is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(400, "the request body must be a JSON object, with Content-Type: application/json")
    return value


def validate_body(body_type: type[Body], json_object: dict[str, Any]) -> Body:
    """Validate a JSON object as a request body. Raises Refusal that names the first error."""
    try:
        return body_type.model_validate(json_object)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"{place}: {first['msg']}", place.partition(".")[0]) from error


def parse_chat_request(body: ChatBody, gateway: Gateway) -> ParsedBody:
    if not body.messages:
        raise Refusal(400, "messages: give at least one", "messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs=true", "top_logprobs")
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    offered = gateway.tools.parse_offered_tools(body)
    prompt = gateway.tools.build_messages_with_tools(convert_chat_to_engine_messages(body.messages), offered)
    parsed = _make_parsed_request(body, gateway, [prompt], limit)
    parsed.top = (body.top_logprobs or 0) if body.logprobs else None
    if offered is not None:
        if parsed.top is not None:
            need = "log-probabilities are not available together with tools. Omit one of them"
            raise Refusal(400, f"logprobs: {need}", "logprobs")
        is_raw, parsed.offered = offered.marks_thinking, offered
        parsed.requests = [replace(request, is_raw=is_raw) for request in parsed.requests]
    if (grammar := build_answer_grammar(body, gateway.tools, offered)) is not None:
        parsed.requests = [replace(request, grammar=grammar) for request in parsed.requests]
    return _check_requested_logprobs(parsed, gateway, "top_logprobs")


def parse_completion_request(body: TextBody, gateway: Gateway) -> ParsedBody:
    """Convert a /v1/completions body to engine requests. With max_tokens=0 and echo, the prompts are only
    scored.
    """
    given = body.prompt
    prompts: list[Any] = (
        [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else [*given]
    )
    if not prompts:
        raise Refusal(400, "prompt: give a string, token ids, or a list of them", "prompt")
    scores_only = body.max_tokens == 0 and bool(body.echo)
    limit = 1 if scores_only else body.max_tokens
    parsed = _make_parsed_request(
        body, gateway, [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts], limit
    )
    parsed.top, parsed.echo, parsed.scores_only = body.logprobs, bool(body.echo), scores_only
    return _check_requested_logprobs(parsed, gateway, "logprobs")


def parse_generate_request(body: GenerateBody, gateway: Gateway) -> ParsedBody:
    reject_unsupported_parameters(body, {})
    return ParsedBody(
        [
            _make_engine_request(
                body, gateway, body.prompt, "max_new_tokens", body.max_new_tokens, 1, False, None
            )
        ]
    )


def _make_parsed_request(
    body: OpenAIBody, gateway: Gateway, prompts: list[Prompt], max_tokens: int | None
) -> ParsedBody:
    neutral = NEUTRAL | {"best_of": (1, body.n or 1)}
    reject_unsupported_parameters(body, neutral)
    gateway.check_model(body.model)
    n, options = 1 if body.n is None else body.n, body.stream_options
    if n < 1:
        raise Refusal(400, f"n={n}: must be 1 or more", "n")
    if options is not None and not body.stream:
        raise Refusal(400, "stream_options needs stream=true", "stream_options")
    if (interval := 1 if body.stream_interval is None else body.stream_interval) < 1:
        raise Refusal(400, f"stream_interval={interval}: must be 1 or more", "stream_interval")
    if (options := options or StreamOptions()).include_obfuscation:
        raise Refusal(
            400, "stream_options.include_obfuscation=true: this server does not support obfuscation. Omit it"
        )
    requests = [
        _make_engine_request(body, gateway, prompt, "max_tokens", max_tokens, n, bool(body.stream), number)
        for number, prompt in enumerate(prompts)
    ]
    return ParsedBody(requests, bool(body.stream), bool(options.include_usage), interval)


def _make_engine_request(
    body: SamplingFields,
    gateway: Gateway,
    prompt: Prompt,
    max_tokens_name: str,
    max_tokens: int | None,
    num_choices: int,
    is_streamed: bool,
    random_id: int | None,
) -> Request:
    """Return the engine request for a prompt.

    With a seed, sampling depends on the prompt's position, not on the request id.
    """
    if max_tokens is not None:
        gateway.limits.check_requested_new_tokens(max_tokens_name, max_tokens)
    if not prompt:
        raise Refusal(400, "prompt is empty", "prompt")
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    gateway.limits.check_stops(stops)
    if not all(stops):
        raise make_stop_texts_refusal()
    new_tokens = max_tokens
    if new_tokens is None:
        new_tokens = min(gateway.config.generation.max_new_tokens, gateway.task.max_new_tokens)
    thinking_tokens = body.thinking_token_budget if isinstance(body, OpenAIBody) else None
    if thinking_tokens is not None:
        gateway.limits.check_thinking_budget(thinking_tokens, new_tokens)
    drawn = {name: getattr(body, name) for name in PARAMETERS}
    drawn["top_k"] = 0 if drawn["top_k"] == -1 else drawn["top_k"]  # vLLM's value for all tokens
    return Request(
        gateway.next_request_id(),
        prompt,
        tuple(stops),
        new_tokens,
        thinking_tokens=thinking_tokens,
        ignore_eos=bool(body.ignore_eos),
        recurring=True,
        sampling=Sampling(**drawn, seed=body.seed),
        n=num_choices,
        deltas=is_streamed and gateway.streams_deltas,
        random_id=None if body.seed is None else random_id or 0,
        adapter=gateway.find_adapter(body.model) if isinstance(body, OpenAIBody) else None,
    )


def _check_requested_logprobs(parsed: ParsedBody, gateway: Gateway, name: str) -> ParsedBody:
    """Raise Refusal if the client requests log-probabilities that cannot be computed."""
    if parsed.top is not None:
        gateway.limits.check_top_logprobs(name, parsed.top)
    if parsed.needs_token_ids:
        gateway.require_logprobs()
    return parsed


def reject_unsupported_parameters(body: BaseModel, neutral_values: dict[str, tuple[Any, ...]]) -> None:
    """Raise Refusal for unknown parameters, and for unsupported parameters unless their value has no
    effect.
    """
    for name, value in (body.model_extra or {}).items():
        if value is None or name in LABELS or (name in neutral_values and value in neutral_values[name]):
            continue
        if name in neutral_values:
            plain = " or ".join(repr(one) for one in neutral_values[name]) or "null"
            why = REJECTION_REASONS.get(name, "this server does not support this parameter")
            raise Refusal(400, f"{name}: {why}. Omit this parameter, or use {plain}", name)
        raise Refusal(
            400,
            format_unknown_choice_message("parameter", name, {*type(body).model_fields, *neutral_values}),
            name,
        )
