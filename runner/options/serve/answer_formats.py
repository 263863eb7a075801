"""The two formats of OpenAI's answers: /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from typing import Any

from runner.options.serve.answers import ClientAnswer
from runner.options.serve.logprobs import Token, chat_logprobs, text_logprobs
from runner_base import Answer

REASONING = "reasoning_content"  # the name of thinking: DeepSeek's, SGLang's and llama.cpp's; vLLM's is `reasoning`


class ChatAnswer(ClientAnswer):
    """The answer of /v1/chat/completions."""

    kind, prefix, chunk_kind = "chat.completion", "chatcmpl", "chat.completion.chunk"

    def choice(
        self, index: int, text: str, reason: str, tokens: list[Token] | None
    ) -> dict[str, Any]:
        """Return a choice of a whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        *thinking, _ = self.texts(self.done[index])
        message |= {REASONING: thinking[0][0]} if thinking else {}
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(tokens),
            "finish_reason": reason,
        }

    def texts(self, answer: Answer) -> list[tuple[str, bool]]:
        """Return the thinking, if there is any, and the answer."""
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
        return {
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(tokens),
            "finish_reason": reason,
        }

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

    def choice(
        self, index: int, text: str, reason: str, tokens: list[Token] | None
    ) -> dict[str, Any]:
        """Return a choice of a whole answer."""
        return {
            "index": index,
            "text": text,
            "logprobs": text_logprobs(tokens),
            "finish_reason": reason,
        }

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
