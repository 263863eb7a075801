"""The request bodies: OpenAI's, that of the old tools' /generate, and that of vLLM's /tokenize.

A description and a range that a body declares are those of /openapi.json. parsing.py checks the
ranges, because its errors name the way out.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, create_model
from pydantic.fields import FieldInfo

from runner.options.serve.limits import MAX_MESSAGES, MAX_STOP_CHARACTERS, MAX_STOPS, MAX_TOOLS, MAX_TOP
from runner_engine.settings.sampling import PARAMETERS, SEED, Parameter

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
LEFT_OUT = "left out: the server's generation group decides"
MODEL, MESSAGES = ("the name in /v1/models; left out: the model that is served", "the conversation so far")
NEW_TOKENS = f"maximum of new tokens; {LEFT_OUT}"


def _described(**schema: Any) -> FieldInfo:
    """Say in /openapi.json what this type takes, without checking it."""
    info: FieldInfo = Field(json_schema_extra=schema)
    return info


def _range_of(one: Parameter) -> FieldInfo:
    low = one.low if one.name != "top_k" else -1  # vLLM's value for all tokens
    return _described(**{"exclusiveMinimum" if one.excludes_low else "minimum": low, "maximum": one.high})


def _whole_characters(text: str) -> str:
    """Refuse lone surrogates: JSON can express them, but no tokenizer accepts them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is a lone surrogate: {text[error.start]!r}") from error
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


def _no_truth_value(value: object) -> object:
    """Refuse true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth_value)]
Number = Annotated[float, BeforeValidator(_no_truth_value)]


class _StopAtFirstError(FailFast):
    """Stops checking a list at its first error, because only that one is reported."""

    __hash__ = object.__hash__  # a union of types needs it


T = TypeVar("T")
Several = Annotated[list[T], _StopAtFirstError()]
NotEmpty = Annotated[Text, _described(minLength=1)]
NotEmptyList = Annotated[Several[T], _described(minItems=1)]
StopText = Annotated[Text, _described(minLength=1, maxLength=MAX_STOP_CHARACTERS)]
NewTokens = Annotated[Whole, _described(minimum=1)]
Top = Annotated[Whole, _described(minimum=0, maximum=MAX_TOP)]


def _parameter(meaning: str) -> Any:
    """Return an optional field."""
    return Field(None, description=meaning)


_fields: dict[str, Any] = {
    name: (
        Annotated[Whole if one.kind is int else Number, _range_of(one)] | None,
        _parameter(f"{one.help}; {LEFT_OUT}"),
    )
    for name, one in PARAMETERS.items()
}
_Parameters: Any = create_model("_Parameters", __config__=ConfigDict(extra="allow"), **_fields)


class SamplingFields(_Parameters):  # type: ignore[misc] # made from the table in config/sampling.py
    """How an answer is sampled; the generation group supplies the defaults."""

    seed: Annotated[Whole, _range_of(SEED)] | None = _parameter(
        "the same request with the same seed has the same answer"
    )
    stop: StopText | Annotated[Several[StopText], _described(maxItems=MAX_STOPS)] | None = _parameter(
        "the answer ends before the first of these texts"
    )
    ignore_eos: bool | None = _parameter("continue to the limit, also after the model's end token")


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    include_obfuscation: bool | None = (
        None  # would hide the lengths of texts from eavesdroppers: not supported
    )


class OpenAIBody(SamplingFields):
    """The parameters that both of OpenAI's endpoints take."""

    model: str | None = _parameter(MODEL)
    n: Annotated[Whole, _described(minimum=1)] | None = _parameter("completions of each prompt")
    stream: bool | None = _parameter("return text as it is generated, as server-sent events")
    stream_options: StreamOptions | None = _parameter(
        "include_usage: return the token counts in a last event"
    )
    stream_interval: Annotated[Whole, _described(minimum=1)] | None = _parameter(
        "so many tokens in each event of a stream, but for the first and the last one"
    )
    max_tokens: NewTokens | None = _parameter(NEW_TOKENS)
    thinking_token_budget: Annotated[Whole, _described(minimum=0)] | None = _parameter(
        f"most tokens of thinking; the maximum of new tokens then counts the answer alone; {LEFT_OUT}"
    )


class MessagePart(BaseModel):
    type: str = Field(json_schema_extra={"enum": ["text"]})
    text: Text | None = None


class FunctionCall(BaseModel):
    """What a turn of the assistant calls: the arguments are JSON, as text."""

    name: Text
    arguments: Text = "{}"


class ToolCallPart(BaseModel):
    """A call in a turn of the assistant."""

    id: Text
    type: str = Field("function", json_schema_extra={"enum": ["function"]})
    function: FunctionCall


class ChatMessage(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "additionalProperties": {"description": "not read: it must be empty", "enum": [None, "", [], {}]}
        },
    )
    role: str = Field(json_schema_extra={"enum": [*ROLES]})
    content: Text | Several[MessagePart] | None = None
    reasoning_content: Text | None = _parameter(
        "what the assistant thought before; the chat template decides its use"
    )
    reasoning: Text | None = _parameter("another name of reasoning_content")
    tool_calls: Several[ToolCallPart] | None = _parameter("what the assistant called")
    tool_call_id: Text | None = _parameter("the call whose result this message is: role tool")
    name: Text | None = _parameter("of the called function: role tool")


class Function(BaseModel):
    """A function that the model may call."""

    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = _parameter("a JSON schema; left out: no parameters")
    strict: bool | None = _parameter("true: the arguments are always as the schema says")


class Tool(BaseModel):
    """An offered function."""

    type: str = Field(json_schema_extra={"enum": ["function"]})
    function: Function | None = None


class ChosenFunction(BaseModel):
    name: Text


class Chosen(BaseModel):
    """The function that must be called."""

    type: str = Field(json_schema_extra={"enum": ["function"]})
    function: ChosenFunction | None = None


class JsonSchema(BaseModel):
    """The schema of an answer."""

    model_config = ConfigDict(extra="allow")  # strict, description: the schema is always held
    name: Text
    of: dict[str, Any] = Field({}, alias="schema", description="a JSON schema")


class ResponseFormat(BaseModel):
    """What an answer must be."""

    type: str = Field(json_schema_extra={"enum": ["text", "json_object", "json_schema"]})
    json_schema: JsonSchema | None = None


Conversation = Annotated[Several[ChatMessage], _described(minItems=1, maxItems=MAX_MESSAGES)]


class ChatBody(OpenAIBody):
    """POST /v1/chat/completions."""

    messages: Conversation = Field(description=MESSAGES)
    max_completion_tokens: NewTokens | None = _parameter(NEW_TOKENS)
    logprobs: bool | None = _parameter("log-probabilities of the tokens")
    top_logprobs: Top | None = _parameter("number of alternatives for each token; needs logprobs=true")
    tools: Annotated[Several[Tool], _described(maxItems=MAX_TOOLS)] | None = _parameter(
        "functions that the model may call"
    )
    tool_choice: str | Chosen | None = _parameter(
        "auto: the model decides; none: no function is offered; required: it calls some; "
        "a function: it calls this one"
    )
    response_format: ResponseFormat | None = _parameter(
        "json_object: an object of JSON; json_schema: JSON of this schema"
    )
    parallel_tool_calls: bool | None = _parameter("false: one call at most")


class TextBody(OpenAIBody):
    """POST /v1/completions."""

    prompt: NotEmpty | NotEmptyList[Text] | NotEmptyList[Whole] | NotEmptyList[Several[Whole]] = Field(
        description="a text, token ids, or a list of either"
    )
    max_tokens: Annotated[Whole, _described(minimum=0)] | None = _parameter(NEW_TOKENS)
    logprobs: Top | None = _parameter("log-probabilities of the tokens")
    echo: bool | None = _parameter(
        "the answer begins with the prompt; with max_tokens=0 the prompt is scored, and nothing is generated"
    )


class GenerateBody(SamplingFields):
    """POST /generate: the old tools' endpoint. No chat template is applied to the prompt."""

    prompt: NotEmpty = Field(description="a text")
    max_new_tokens: NewTokens | None = _parameter(NEW_TOKENS)


class TokenizeBody(BaseModel):
    """POST /tokenize, in vLLM's format."""

    model_config = ConfigDict(extra="allow")
    model: str | None = _parameter(MODEL)
    prompt: Text | None = _parameter("a text")
    messages: Conversation | None = _parameter(MESSAGES)
    add_special_tokens: bool = Field(
        True,
        description="false: without those that the tokenizer puts before a prompt; a chat keeps its template's",
    )
