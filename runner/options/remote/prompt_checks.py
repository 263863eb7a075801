"""Checks that a server reads prompts whole and as a local tokenizer does, by the prompt tokens that it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from runner.options.remote.keys import ApiConfig
from runner.options.remote.render.notes import NOTES
from runner.options.remote.server_probe import PROMPTS, ServerProbe
from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import LocalModelConfig, Message, ModelSpec, Request, resolve_model

if TYPE_CHECKING:
    from runner_engine import RequestEncoder

MIN_PROMPTS = 3  # of equal length in tokens
MIN_RATIO = 1.25  # of the longest of them to the shortest, in characters


class LocalTokenizer:
    """The tokenizer and chat template of `model.tokenizer`, which the server must use."""

    def __init__(self, model: ApiConfig, name: str) -> None:
        self.model, self.name = model, name

    @cached_property
    def _encoder(self) -> RequestEncoder:
        from runner_engine import create_tokenizer_only_encoder  # imports torch

        return create_tokenizer_only_encoder(resolve_model(ModelSpec(LocalModelConfig(self.name))))

    def count_prompt_tokens(self, request: Request) -> int:
        return len(self._encoder.encode_prompt(request)[1])

    def require_same_counts(self, probe: ServerProbe, is_chat: bool) -> None:
        """Raise ConfigError if the server counts other prompt tokens for the fixed prompts."""
        for prompt, answer in zip(PROMPTS, probe.answers, strict=True):
            request = Request(0, (Message("user", prompt),) if is_chat else prompt)
            expected = self.count_prompt_tokens(request)
            if answer.prompt_tokens != expected:
                cause = "tokenizer or chat template" if is_chat else "tokenizer"
                raise ConfigError(
                    f"the server at {self.model.joined_addresses} uses another {cause}: it counts "
                    f"{answer.prompt_tokens} tokens for {prompt!r}, and this {cause} gives {expected}. Start the "
                    f"server with the {cause} of the model",
                    key=f"{self.model.key}.tokenizer",
                    value=self.name,
                    code="mismatch",
                )

    def explain_token_count_mismatch(self, request: Request, prompt_tokens: int) -> str | None:
        """Return an error for a question whose prompt the server has truncated or changed, otherwise None."""
        expected = self.count_prompt_tokens(request)
        if prompt_tokens == expected:
            return None
        return render_note(note("prompt_changed", expected=expected, counted=prompt_tokens), NOTES)


@dataclass
class PromptLengths:
    """The longest prompts of a job in tokens, as the server counts them, and their lengths in characters.

    A server that truncates counts equally many tokens for prompts of different lengths.
    """

    max_tokens: int = 0
    prompts: int = 0  # that have so many tokens
    min_characters: int = 0
    max_characters: int = 0

    def update_longest_prompts(self, request: Request, tokens: int) -> None:
        characters = count_characters(request.prompt)
        if request.ignore_eos or not characters or tokens < self.max_tokens:
            return
        if tokens > self.max_tokens:
            self.max_tokens, self.prompts = tokens, 0
            self.min_characters = self.max_characters = characters
        self.prompts += 1
        self.min_characters = min(self.min_characters, characters)
        self.max_characters = max(self.max_characters, characters)

    def make_notes(self, address: str) -> list[Note]:
        if self.prompts < MIN_PROMPTS or self.max_characters < MIN_RATIO * self.min_characters:
            return []
        return [
            note(
                "prompts_truncated",
                "warning",
                address=address,
                prompts=self.prompts,
                tokens=self.max_tokens,
                min_characters=self.min_characters,
                max_characters=self.max_characters,
            )
        ]


def count_characters(prompt: str | Sequence[Message | int]) -> int:
    """Return the number of characters of a prompt, or 0 for token ids."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(part.content) for part in prompt if isinstance(part, Message))
