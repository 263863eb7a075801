"""The two formats of OpenAI's answers: /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from typing import Any

from runner.options.serve.answers import ClientAnswer
from runner.options.serve.gateway import Gateway
from runner.options.serve.logprobs import Token, chat_logprobs, text_logprobs
from runner.options.serve.parsing import ParsedBody
from runner.options.serve.tools import TextsBesideCalls
from runner_base import Answer, FinishReason
from runner_engine import Completion, Event, RequestId

REASONING = (
    "reasoning_content"  # the name of thinking: DeepSeek's, SGLang's and llama.cpp's; vLLM's is `reasoning`
)


class ChatAnswer(ClientAnswer):
    """The answer of /v1/chat/completions."""

    kind, prefix, chunk_kind = "chat.completion", "chatcmpl", "chat.completion.chunk"

    def __init__(self, gateway: Gateway, parsed: ParsedBody) -> None:
        super().__init__(gateway, parsed)
        self._beside_calls: dict[tuple[RequestId, int], TextsBesideCalls] = {}  # of each choice

    def choice(self, index: int, text: str, reason: str, tokens: list[Token] | None) -> dict[str, Any]:
        """Return a choice of a whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        *thinking, _ = self.texts(self.done[index])
        message |= {REASONING: thinking[0][0]} if thinking else {}
        if calls := self._calls(index):
            message |= {"content": text or None, "tool_calls": calls}
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(tokens),
            "finish_reason": reason,
        }

    def texts(self, answer: Answer) -> list[tuple[str, bool]]:
        """Return the thinking, if there is any, and the answer."""
        if self.parsed.offered is not None:
            said = self.parsed.offered.read(answer)
            return [(said.thinking or "", True)] * bool(said.thinking) + [(said.content, False)]
        parts = answer.parts
        return [(parts.thinking, True)] * parts.has_thinking + [(parts.answer, False)]

    def piece(
        self,
        index: int,
        text: str | None,
        reason: str | None,
        tokens: list[Token] | None = None,
        is_thinking: bool = False,
    ) -> dict[str, Any]:
        """Return a choice of a chunk of a stream."""
        delta = {} if text is None else {REASONING if is_thinking else "content": text}
        return {"index": index, "delta": delta, "logprobs": chat_logprobs(tokens), "finish_reason": reason}

    def _calls(self, index: int) -> list[dict[str, Any]]:
        """Return what a choice calls."""
        offered = self.parsed.offered
        return [] if offered is None else offered.called(offered.read(self.done[index]))

    def _reason(self, index: int) -> str:
        """Say that an answer ended in its calls."""
        reason, offered = super()._reason(index), self.parsed.offered
        if reason != FinishReason.stop or offered is None:
            return reason
        return "tool_calls" if offered.read(self.done[index]).calls else reason

    def _new_texts(self, event: Event) -> list[tuple[str, bool]]:
        """Return the texts that an event adds, without what may be a call."""
        texts, offered = super()._new_texts(event), self.parsed.offered
        if offered is None or (isinstance(event, Completion) and not self.gateway.streams_deltas):
            return texts
        key = (event.id, event.choice)
        if key not in self._beside_calls:
            self._beside_calls[key] = TextsBesideCalls(offered)
        waiting = self._beside_calls[key]
        if isinstance(event, Completion):
            return waiting.rest(offered.read(event.answer))
        return waiting.take(texts)

    def last_pieces(self, index: int) -> list[dict[str, Any]]:
        """Return what a choice calls, each call whole."""
        pieces = []
        for number, call in enumerate(self._calls(index)):
            delta = {"tool_calls": [{"index": number, **call}]}
            pieces.append({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
        return pieces

    def first_pieces(self) -> list[dict[str, Any]]:
        """Begin with the role."""
        delta = {"role": "assistant", "content": ""}
        return [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            for index in self._indices()
        ]


class TextAnswer(ClientAnswer):
    """The answer of /v1/completions."""

    kind, prefix, chunk_kind = "text_completion", "cmpl", "text_completion"

    def choice(self, index: int, text: str, reason: str, tokens: list[Token] | None) -> dict[str, Any]:
        """Return a choice of a whole answer."""
        return {"index": index, "text": text, "logprobs": text_logprobs(tokens), "finish_reason": reason}

    def texts(self, answer: Answer) -> list[tuple[str, bool]]:
        """Return the text as the model wrote it: a client that sends plain texts reads tags of
        thinking itself."""
        return [(answer.text, False)]

    def piece(
        self,
        index: int,
        text: str | None,
        reason: str | None,
        tokens: list[Token] | None = None,
        is_thinking: bool = False,
    ) -> dict[str, Any]:
        """Return a choice of a chunk of a stream."""
        return {
            "index": index,
            "text": text or "",
            "logprobs": text_logprobs(tokens),
            "finish_reason": reason,
        }

    def first_pieces(self) -> list[dict[str, Any]]:
        """Begin with the prompts if they are echoed."""
        return (
            [self.piece(index, self.echo(index), None) for index in self._indices()]
            if self.parsed.echo
            else []
        )
