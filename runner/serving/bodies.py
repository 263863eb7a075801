"""What clients send: the bodies of OpenAI's requests and of the old tools' /generate, checked and turned into requests.

A parameter that is not known here is refused by name, unless it has the value that does nothing: a client is never
told of an answer that was drawn otherwise than it asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from runner.core.errors import ConfigError, unknown
from runner.engines.base import Message, Prompt, Request, Sampling
from runner.serving.desk import Desk, Refused

MOST_STOPS, MOST_TOP = 16, 20
# Parameters of OpenAI's that we have not, and the values at which they do nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "min_p": (0,), "min_tokens": (0,),
    "tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (),
    "prediction": (), "reasoning_effort": ("none",), "verbosity": ("medium",), "web_search_options": (),
    "service_tier": ("auto", "default"), "store": (False,), "suffix": ("",), "best_of": (1,),
}  # fmt: skip
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")  # say who asks
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _whole_characters(text: str) -> str:
    """Refuse halves of characters, which JSON can spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a character stands at {error.start}: {text[error.start]!r}") from error
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class Drawn(BaseModel):
    """How an answer is drawn; what is left out, the generation group says."""

    model_config = ConfigDict(extra="allow")
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Text | list[Text] | None = None
    ignore_eos: bool | None = None


class StreamOptions(BaseModel):
    """How a stream is to be."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # hides the lengths of texts from who listens on the line: not done


class OpenAIBody(Drawn):
    """What both of OpenAI's endpoints take."""

    model: str | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None


class Part(BaseModel):
    """A part of a message."""

    type: str
    text: Text | None = None


class Turn(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: Text | list[Part] | None = None


class ChatBody(OpenAIBody):
    """POST /v1/chat/completions."""

    messages: list[Turn]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class TextBody(OpenAIBody):
    """POST /v1/completions."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    logprobs: int | None = None
    echo: bool | None = None


class GenerateBody(Drawn):
    """POST /generate: the old tools' endpoint. The prompt is taken as it is."""

    prompt: Text
    max_new_tokens: int | None = None


@dataclass
class Asked:
    """What one client wants: completions of each of its prompts."""

    requests: list[Request]  # one for each prompt
    stream: bool = False
    include_usage: bool = False
    top: int | None = None  # None: no log-probabilities; else how many alternatives for each token
    echo: bool = False  # the answer begins with the prompt
    scores_only: bool = False  # nothing is generated, only the prompt is scored


def asked_of_chat(body: ChatBody, desk: Desk) -> Asked:
    """Read a chat."""
    if not body.messages:
        raise Refused(400, "messages: give at least one", "messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused(400, "top_logprobs needs logprobs=true", "top_logprobs")
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    prompt = tuple(_message(number, turn) for number, turn in enumerate(body.messages))
    asked = _asked(body, desk, [prompt], limit)
    asked.top = (body.top_logprobs or 0) if body.logprobs else None
    return _with_scores(asked, desk, "top_logprobs")


def asked_of_text(body: TextBody, desk: Desk) -> Asked:
    """Read a plain prompt, or several; max_tokens=0 with echo scores what is there."""
    given = body.prompt
    prompts: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else [*given]
    if not prompts:
        raise Refused(400, "prompt: give a text, token ids, or a list of them", "prompt")
    scores_only = body.max_tokens == 0 and bool(body.echo)
    limit = 1 if scores_only else body.max_tokens
    asked = _asked(body, desk, [one if isinstance(one, str) else tuple(one) for one in prompts], limit)
    asked.top, asked.echo, asked.scores_only = body.logprobs, bool(body.echo), scores_only
    return _with_scores(asked, desk, "logprobs")


def asked_of_generate(body: GenerateBody, desk: Desk) -> Asked:
    """Read what the old tools sent."""
    _refuse_extra(body, {})
    return Asked([_request(body, desk, body.prompt, "prompt", "max_new_tokens", body.max_new_tokens, 1, False, None)])


def _asked(body: OpenAIBody, desk: Desk, prompts: list[Prompt], limit: int | None) -> Asked:
    neutral = NEUTRAL | {"best_of": (1, body.n or 1)}
    _refuse_extra(body, neutral)
    desk.check_model(body.model)
    n, options = 1 if body.n is None else body.n, body.stream_options
    if n < 1:
        raise Refused(400, f"n={n}: must be 1 or more", "n")
    if options is not None and not body.stream:
        raise Refused(400, "stream_options needs stream=true", "stream_options")
    if (options := options or StreamOptions()).include_obfuscation:
        raise Refused(400, "stream_options.include_obfuscation=true: this server does not pad its streams")
    requests = [
        _request(body, desk, prompt, "prompt", "max_tokens", limit, n, bool(body.stream), number)
        for number, prompt in enumerate(prompts)
    ]
    return Asked(requests, bool(body.stream), bool(options.include_usage))


def _request(
    body: Drawn,
    desk: Desk,
    prompt: Prompt,
    name: str,
    key: str,
    limit: int | None,
    n: int,
    stream: bool,
    draws: int | None,
) -> Request:
    """Return the engine's request; with a seed, its place among the prompts stands for its number in the draws."""
    most = desk.task.max_new_tokens
    if limit is not None and not 1 <= limit <= most:
        need = f"this server gives at most {most} (task.max_new_tokens)" if limit > most else "must be 1 or more"
        raise Refused(400, f"{key}={limit}: {need}", key)
    if not prompt:
        raise Refused(400, f"{name}: it is empty, so there is nothing to go on from", name)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stops) or len(stops) > MOST_STOPS:
        raise Refused(400, f"stop: give up to {MOST_STOPS} texts, none of them empty", "stop")
    top_k = 0 if body.top_k == -1 else body.top_k  # as vLLM says it
    try:
        sampling = Sampling(body.temperature, body.top_p, top_k, body.repetition_penalty, body.seed)
    except ConfigError as error:
        raise Refused(400, str(error).removeprefix("sampling.")) from error
    return Request(
        desk.next_id(),
        prompt,
        tuple(stops),
        min(desk.config.generation.max_new_tokens, most) if limit is None else limit,
        ignore_eos=bool(body.ignore_eos),
        recurring=True,
        sampling=sampling,
        n=n,
        deltas=stream and desk.tells_deltas,
        draws=None if body.seed is None else draws or 0,
    )


def _with_scores(asked: Asked, desk: Desk, name: str) -> Asked:
    """Have the prompts as token ids where they are to be scored."""
    if asked.top is not None and not 0 <= asked.top <= MOST_TOP:
        raise Refused(400, f"{name}={asked.top}: must lie in 0..{MOST_TOP}", name)
    if asked.top is not None or asked.scores_only:
        desk.check_scores()
        asked.requests = [replace(one, prompt=desk.token_ids(one)) for one in asked.requests]
    return asked


def _message(number: int, turn: Turn) -> Message:
    """Return a turn as the engine takes it."""
    where = f"messages[{number}]"
    for name, value in (turn.model_extra or {}).items():
        if value not in (None, [], "", {}):
            raise Refused(400, f"{where}.{name}: this server reads only role and content of a message", "messages")
    if turn.role not in ROLES:
        raise Refused(400, f"{where}.role: {unknown('role', turn.role, ROLES)}", "messages")
    content = turn.content
    if isinstance(content, list):
        other = next((part.type for part in content if part.type != "text" or part.text is None), None)
        if other is not None:
            raise Refused(400, f"{where}.content: a part of type {other!r}: this server reads only text", "messages")
        content = "".join(part.text or "" for part in content)
    if content is None:
        raise Refused(400, f"{where}.content: give a text", "messages")
    return Message(ROLES[turn.role], content)


def _refuse_extra(body: Drawn, neutral: dict[str, tuple[Any, ...]]) -> None:
    """Refuse parameters that are not known, and those that are not had, unless they do nothing."""
    for name, value in (body.model_extra or {}).items():
        if value is None or name in LABELS or (name in neutral and value in neutral[name]):
            continue
        if name in neutral:
            plain = " or ".join(repr(one) for one in neutral[name]) or "null"
            raise Refused(400, f"{name}: this server has no such thing: leave it out, or give {plain}", name)
        raise Refused(400, unknown("parameter", name, {*type(body).model_fields, *neutral}), name)
