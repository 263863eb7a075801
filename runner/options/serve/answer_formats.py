"""Formats responses for OpenAI's two endpoints: /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from typing import Any

from runner.options.serve.client_response import ClientResponse
from runner.options.serve.gateway import Gateway
from runner.options.serve.logprobs import ScoredToken, format_chat_logprobs, format_text_logprobs
from runner.options.serve.request_parsing import ParsedBody
from runner.options.serve.tools import ToolCallStreamFilter
from runner_base import Answer, FinishReason
from runner_engine import Completion, Event, RequestId

REASONING = (
    "reasoning_content"  # the name of thinking: DeepSeek's, SGLang's and llama.cpp's; vLLM's is `reasoning`
)


class ChatResponse(ClientResponse):
    """Response of the endpoint /v1/chat/completions."""

    kind, prefix, chunk_kind = "chat.completion", "chatcmpl", "chat.completion.chunk"

    def __init__(self, gateway: Gateway, parsed: ParsedBody) -> None:
        super().__init__(gateway, parsed)
        self._beside_calls: dict[tuple[RequestId, int], ToolCallStreamFilter] = {}  # of each choice

    def format_choice(
        self, index: int, text: str, finish_reason: str, scored_tokens: list[ScoredToken] | None
    ) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        *thinking, _ = self.split_texts(self.done[index])
        message |= {REASONING: thinking[0][0]} if thinking else {}
        if calls := self._format_tool_calls(index):
            message |= {"content": text or None, "tool_calls": calls}
        return {
            "index": index,
            "message": message,
            "logprobs": format_chat_logprobs(scored_tokens),
            "finish_reason": finish_reason,
        }

    def split_texts(self, answer: Answer) -> list[tuple[str, bool]]:
        """Split an answer into pairs (text, is_thinking): its thinking, if any, and the answer text."""
        if self.parsed.offered is not None:
            said = self.parsed.offered.parse_answer(answer)
            return [(said.thinking or "", True)] * bool(said.thinking) + [(said.content, False)]
        parts = answer.parts
        return [(parts.thinking, True)] * parts.has_thinking + [(parts.answer, False)]

    def format_delta(
        self,
        index: int,
        text: str | None,
        finish_reason: str | None,
        scored_tokens: list[ScoredToken] | None = None,
        is_thinking: bool = False,
    ) -> dict[str, Any]:
        """Format a choice of a stream chunk as a JSON object."""
        delta = {} if text is None else {REASONING if is_thinking else "content": text}
        return {
            "index": index,
            "delta": delta,
            "logprobs": format_chat_logprobs(scored_tokens),
            "finish_reason": finish_reason,
        }

    def _format_tool_calls(self, choice_index: int) -> list[dict[str, Any]]:
        offered = self.parsed.offered
        return [] if offered is None else offered.format_calls(offered.parse_answer(self.done[choice_index]))

    def _get_finish_reason(self, choice_index: int) -> str:
        reason, offered = super()._get_finish_reason(choice_index), self.parsed.offered
        if reason != FinishReason.stop or offered is None:
            return reason
        return "tool_calls" if offered.parse_answer(self.done[choice_index]).calls else reason

    def _extract_new_texts(self, event: Event) -> list[tuple[str, bool]]:
        """Return an event's new texts as pairs (text, is_thinking).

        Holds back text that may be the beginning of a tool call.
        """
        texts, offered = super()._extract_new_texts(event), self.parsed.offered
        if offered is None or (isinstance(event, Completion) and not self.gateway.streams_deltas):
            return texts
        key = (event.id, event.choice)
        if key not in self._beside_calls:
            self._beside_calls[key] = ToolCallStreamFilter(offered)
        waiting = self._beside_calls[key]
        if isinstance(event, Completion):
            return waiting.get_unsent_texts(offered.parse_answer(event.answer))
        return waiting.take_texts_ready_to_stream(texts)

    def build_final_deltas(self, choice_index: int) -> list[dict[str, Any]]:
        """Return the tool calls of a choice as stream chunks, with one call per chunk."""
        pieces = []
        for number, call in enumerate(self._format_tool_calls(choice_index)):
            delta = {"tool_calls": [{"index": number, **call}]}
            pieces.append({"index": choice_index, "delta": delta, "logprobs": None, "finish_reason": None})
        return pieces

    def build_initial_deltas(self) -> list[dict[str, Any]]:
        """Return the first chunks of a stream. They contain the role `assistant`."""
        delta = {"role": "assistant", "content": ""}
        return [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            for index in self._choice_indices()
        ]


class TextResponse(ClientResponse):
    """Response of the endpoint /v1/completions."""

    kind, prefix, chunk_kind = "text_completion", "cmpl", "text_completion"

    def format_choice(
        self, index: int, text: str, finish_reason: str, scored_tokens: list[ScoredToken] | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": format_text_logprobs(scored_tokens),
            "finish_reason": finish_reason,
        }

    def split_texts(self, answer: Answer) -> list[tuple[str, bool]]:
        """Return the whole answer with its thinking tags as a single pair (text, is_thinking)."""
        return [(answer.text, False)]

    def format_delta(
        self,
        index: int,
        text: str | None,
        finish_reason: str | None,
        scored_tokens: list[ScoredToken] | None = None,
        is_thinking: bool = False,
    ) -> dict[str, Any]:
        """Format a choice of a stream chunk as a JSON object."""
        return {
            "index": index,
            "text": text or "",
            "logprobs": format_text_logprobs(scored_tokens),
            "finish_reason": finish_reason,
        }

    def build_initial_deltas(self) -> list[dict[str, Any]]:
        """Return the first chunks of a stream, which echo the prompts if the client requests it."""
        return (
            [self.format_delta(index, self.get_prompt_text(index), None) for index in self._choice_indices()]
            if self.parsed.echo
            else []
        )
