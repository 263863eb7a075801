"""A request on its way through an engine, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2 import TemplateError

from runner.core.errors import ConfigError
from runner.core.result import FinishReason
from runner.engines.base import Completion, Delta, Event, Message, Request
from runner.engines.local.prefix_tree import Prefix
from runner.engines.stopping import Ending
from runner.models.load import Loaded


@dataclass(eq=False)
class Row:
    """A request on its way: what it asks, and what it has got so far."""

    request: Request
    prompt: list[int]
    sha256: str
    limit: int  # new tokens it may have
    tokens: list[int] = field(default_factory=list)
    entered_s: float = 0.0
    first_token_s: float = 0.0
    prefix: Prefix | None = None
    generator: torch.Generator | None = None
    places: int = 0  # of its own in the store of a stream
    sent: str = ""  # text that who asked has heard

    @property
    def shared(self) -> int:
        """Prompt tokens whose keys and values lie in prefixes."""
        return self.prefix.length if self.prefix else 0

    def stands_on(self, prefix: Prefix) -> bool:
        """Whether the prompt begins with this prefix."""
        return self.prefix is not None and prefix in self.prefix.path

    @property
    def pending(self) -> list[int]:
        """Tokens that have not been through the model, when the row enters a stream."""
        return self.prompt[self.shared :] + self.tokens

    @property
    def need(self) -> int:
        """Own places that it may fill until it ends."""
        return len(self.prompt) - self.shared + self.limit


def encode(tokenizer: Any, request: Request, model_name: str) -> tuple[str | Sequence[int], list[int]]:
    """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return prompt, tokenizer(prompt)["input_ids"]
    if all(isinstance(part, Message) for part in prompt):
        if not tokenizer.chat_template:
            raise ConfigError(
                f"model.name={model_name} has no chat template, so it cannot be asked as a chat: "
                "use task.prompt=text (gsm8k) or task.format=raw (generate)"
            )
        turns = [{"role": part.role, "content": part.content} for part in prompt if isinstance(part, Message)]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # some templates refuse a system message, or two turns of one role in a row
            roles = ", ".join(turn["role"] for turn in turns)
            raise ConfigError(f"the chat template of model.name={model_name} refuses {roles}: {error}") from error
        return text, tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [part for part in prompt if isinstance(part, int)]
    return ids, ids


def stop_tokens(loaded: Loaded) -> frozenset[int]:
    """The tokens that end a completion, by the tokenizer and by the model's generation config."""
    declared = getattr(loaded.model.generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in [loaded.tokenizer.eos_token_id, *several] if token is not None)


def tell(row: Row, ending: Ending, events: list[Event], is_over: bool) -> None:
    """Put the new text of a row among the events, if it is wanted as it comes."""
    if not row.request.deltas:
        return
    if is_over:
        text = ending.said(row.tokens, row.request)[len(row.sent) :]
    else:
        text = ending.fresh(row.tokens, row.request, row.sent)
    row.sent += text
    if text:
        events.append(Delta(row.request.id, 0, text))


def completion(row: Row, reason: FinishReason, ending: Ending, seconds: float, error: str | None = None) -> Completion:
    """Return what became of a row."""
    return Completion(
        id=row.request.id,
        text=ending.said(row.tokens, row.request),
        token_ids=row.tokens,
        finish_reason=reason,
        prompt_sha256=row.sha256,
        prompt_tokens=len(row.prompt),
        first_token_s=row.first_token_s,
        seconds=seconds,
        error=error,
    )


def why_not(row: Row, room: float) -> str:
    """Say why a row cannot begin: it has no tokens, or too many."""
    if not row.prompt:
        return "the prompt has no tokens, so there is nothing to go on from"
    return f"the prompt has {len(row.prompt)} tokens, the model has room for {int(room)}"
