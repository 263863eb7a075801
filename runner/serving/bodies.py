"""The request bodies: OpenAI's, and that of the old tools' /generate."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, create_model

from runner.config.sampling import PARAMETERS


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


_fields: dict[str, Any] = {
    name: ((Whole if one.kind is int else Number) | None, None) for name, one in PARAMETERS.items()
}
_Parameters: Any = create_model("_Parameters", __config__=ConfigDict(extra="allow"), **_fields)


class SamplingFields(_Parameters):  # type: ignore[misc] # made from the table in config/sampling.py
    """How an answer is sampled; the generation group supplies the defaults."""

    seed: Whole | None = None
    stop: Text | Several[Text] | None = None
    ignore_eos: bool | None = None


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # would hide the lengths of texts from eavesdroppers: not supported


class OpenAIBody(SamplingFields):
    """The parameters that both of OpenAI's endpoints take."""

    model: str | None = None
    n: Whole | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Whole | None = None


class MessagePart(BaseModel):
    """A part of a message."""

    type: str
    text: Text | None = None


class ChatMessage(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: Text | Several[MessagePart] | None = None


class ChatBody(OpenAIBody):
    """POST /v1/chat/completions."""

    messages: Several[ChatMessage]
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = None


class TextBody(OpenAIBody):
    """POST /v1/completions."""

    prompt: Text | Several[Text] | Several[Whole] | Several[Several[Whole]]
    logprobs: Whole | None = None
    echo: bool | None = None


class GenerateBody(SamplingFields):
    """POST /generate: the old tools' endpoint. No chat template is applied to the prompt."""

    prompt: Text
    max_new_tokens: Whole | None = None
