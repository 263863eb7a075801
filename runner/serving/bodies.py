"""The shapes of what clients send: OpenAI's request bodies and the old tools' /generate."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, create_model

from runner.config.sampling import PARAMETERS


def _whole_characters(text: str) -> str:
    """Refuse halves of characters, which JSON can spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a character stands at {error.start}: {text[error.start]!r}") from error
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class _FirstFault(FailFast):
    """Ends the look at a list at its first fault: it is the one that is said."""

    __hash__ = object.__hash__  # a union of types asks for it


T = TypeVar("T")
Several = Annotated[list[T], _FirstFault()]


_fields: dict[str, Any] = {name: (one.kind | None, None) for name, one in PARAMETERS.items()}
_Parameters: Any = create_model("_Parameters", __config__=ConfigDict(extra="allow"), **_fields)


class SamplingFields(_Parameters):  # type: ignore[misc] # of the table in config/sampling.py
    """How an answer is drawn; what is left out, the generation group says."""

    seed: int | None = None
    stop: Text | Several[Text] | None = None
    ignore_eos: bool | None = None


class StreamOptions(BaseModel):
    """How a stream is to be."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # hides the lengths of texts from who listens on the line: not done


class OpenAIBody(SamplingFields):
    """What both of OpenAI's endpoints take."""

    model: str | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None


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
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class TextBody(OpenAIBody):
    """POST /v1/completions."""

    prompt: Text | Several[Text] | Several[int] | Several[Several[int]]
    logprobs: int | None = None
    echo: bool | None = None


class GenerateBody(SamplingFields):
    """POST /generate: the old tools' endpoint. The prompt is taken as it is."""

    prompt: Text
    max_new_tokens: int | None = None
