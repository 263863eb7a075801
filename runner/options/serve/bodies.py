"""Pydantic models of request bodies: OpenAI's endpoints, /generate, and vLLM's /tokenize.

A body's declared range appears in /openapi.json, and render/meanings.py describes the
parameters. parsing.py checks the ranges, because its errors include a fix.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, create_model
from pydantic.fields import FieldInfo

from runner.options.serve.limits import MAX_MESSAGES, MAX_STOP_CHARACTERS, MAX_STOPS, MAX_TOOLS, MAX_TOP
from runner_engine.settings.sampling import PARAMETERS, SEED, SamplingParameter

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def _make_unvalidated_field(**schema: Any) -> FieldInfo:
    """Return a pydantic field that appears in /openapi.json but is not validated by pydantic."""
    info: FieldInfo = Field(json_schema_extra=schema)
    return info


def _range_field(parameter: SamplingParameter) -> FieldInfo:
    low = parameter.low if parameter.name != "top_k" else -1  # vLLM's value for all tokens
    return _make_unvalidated_field(
        **{"exclusiveMinimum" if parameter.excludes_low else "minimum": low, "maximum": parameter.high}
    )


def _reject_lone_surrogates(text: str) -> str:
    """Raise ValueError for lone Unicode surrogates, which JSON can express but no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is a lone surrogate: {text[error.start]!r}") from error
    return text


Text = Annotated[str, AfterValidator(_reject_lone_surrogates)]


def _reject_bool(value: object) -> object:
    """Raise ValueError for true and false, which Python would accept as the numbers 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


Whole = Annotated[int, BeforeValidator(_reject_bool)]
Number = Annotated[float, BeforeValidator(_reject_bool)]


class _StopAtFirstError(FailFast):
    """Pydantic validator for lists that reports only the first invalid element."""

    __hash__ = object.__hash__  # a union of types needs it


T = TypeVar("T")
Several = Annotated[list[T], _StopAtFirstError()]
NotEmpty = Annotated[Text, _make_unvalidated_field(minLength=1)]
NotEmptyList = Annotated[Several[T], _make_unvalidated_field(minItems=1)]
StopText = Annotated[Text, _make_unvalidated_field(minLength=1, maxLength=MAX_STOP_CHARACTERS)]
NewTokens = Annotated[Whole, _make_unvalidated_field(minimum=1)]
Top = Annotated[Whole, _make_unvalidated_field(minimum=0, maximum=MAX_TOP)]


_fields: dict[str, Any] = {
    name: (Annotated[Whole if one.kind is int else Number, _range_field(one)] | None, None)
    for name, one in PARAMETERS.items()
}
_Parameters: Any = create_model("_Parameters", __config__=ConfigDict(extra="allow"), **_fields)


class SamplingFields(_Parameters):  # type: ignore[misc] # made from the table in config/sampling.py
    """Sampling parameters in a request body, with the generation config as defaults."""

    seed: Annotated[Whole, _range_field(SEED)] | None = None
    stop: StopText | Annotated[Several[StopText], _make_unvalidated_field(maxItems=MAX_STOPS)] | None = None
    ignore_eos: bool | None = None


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    include_obfuscation: bool | None = (
        None  # would hide the lengths of texts from eavesdroppers: not supported
    )


class OpenAIBody(SamplingFields):
    """Request parameters that both OpenAI endpoints have in common."""

    model: str | None = None
    n: Annotated[Whole, _make_unvalidated_field(minimum=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_interval: Annotated[Whole, _make_unvalidated_field(minimum=1)] | None = None
    max_tokens: NewTokens | None = None
    thinking_token_budget: Annotated[Whole, _make_unvalidated_field(minimum=0)] | None = None


class MessagePart(BaseModel):
    type: str = Field(json_schema_extra={"enum": ["text"]})
    text: Text | None = None


class FunctionCall(BaseModel):
    """Function name and arguments (as JSON text) of a tool call in an assistant message."""

    name: Text
    arguments: Text = "{}"


class ToolCallPart(BaseModel):
    """Tool call in an assistant message."""

    id: Text
    type: str = Field("function", json_schema_extra={"enum": ["function"]})
    function: FunctionCall


class ChatMessage(BaseModel):
    """Message of a conversation in a request body."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"additionalProperties": {"enum": [None, "", [], {}]}}
    )
    role: str = Field(json_schema_extra={"enum": [*ROLES]})
    content: Text | Several[MessagePart] | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    tool_calls: Several[ToolCallPart] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None


class Function(BaseModel):
    """Definition of a function that the model may call."""

    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """Tool that the model may call. Only functions are supported."""

    type: str = Field(json_schema_extra={"enum": ["function"]})
    function: Function | None = None


class ChosenFunction(BaseModel):
    name: Text


class Chosen(BaseModel):
    """Value of tool_choice that forces the model to call a certain function."""

    type: str = Field(json_schema_extra={"enum": ["function"]})
    function: ChosenFunction | None = None


class JsonSchema(BaseModel):
    """JSON schema that an answer must match."""

    model_config = ConfigDict(extra="allow")  # strict, description: the schema is always held
    name: Text
    of: dict[str, Any] = Field({}, alias="schema")


class ResponseFormat(BaseModel):
    """Output format that a request prescribes for the answer."""

    type: str = Field(json_schema_extra={"enum": ["text", "json_object", "json_schema"]})
    json_schema: JsonSchema | None = None


Conversation = Annotated[Several[ChatMessage], _make_unvalidated_field(minItems=1, maxItems=MAX_MESSAGES)]


class ChatBody(OpenAIBody):
    """Request body of POST /v1/chat/completions."""

    messages: Conversation
    max_completion_tokens: NewTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    tools: Annotated[Several[Tool], _make_unvalidated_field(maxItems=MAX_TOOLS)] | None = None
    tool_choice: str | Chosen | None = None
    response_format: ResponseFormat | None = None
    parallel_tool_calls: bool | None = None


class TextBody(OpenAIBody):
    """Request body of POST /v1/completions."""

    prompt: NotEmpty | NotEmptyList[Text] | NotEmptyList[Whole] | NotEmptyList[Several[Whole]]
    max_tokens: Annotated[Whole, _make_unvalidated_field(minimum=0)] | None = None
    logprobs: Top | None = None
    echo: bool | None = None


class GenerateBody(SamplingFields):
    """Request body of POST /generate. No chat template is applied to the prompt."""

    prompt: NotEmpty
    max_new_tokens: NewTokens | None = None


class TokenizeBody(BaseModel):
    """Request body of POST /tokenize, in vLLM's format."""

    model_config = ConfigDict(extra="allow")
    model: str | None = None
    prompt: Text | None = None
    messages: Conversation | None = None
    add_special_tokens: bool = True
