"""Argument types of model calls from Python: texts, chat turns and sampling settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from runner_engine import Message
from runner_engine.settings.sampling import SamplingArguments

Turn = Message | Mapping[str, str]
PromptOrMessages = str | Sequence[Turn]
Texts = list[str] | tuple[str, ...]
# in the model's chat template as a user's turn, or without a template
Format = Literal["chat", "raw"]


class Settings(SamplingArguments, total=False):
    """Sampling settings of a model call. Omitted settings come from the arguments of `load`."""

    max_new_tokens: int
    thinking_tokens: int  # the budget of the thinking; `max_new_tokens` then counts the answer alone
    stop: str | Sequence[str]
    n: int  # answers to each prompt, in `Answer.choices`


LIMITS = ("max_new_tokens", "thinking_tokens", "n")  # the settings that are a request's own
