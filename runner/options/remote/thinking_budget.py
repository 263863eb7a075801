"""Builds the request parameter that limits thinking, whose name depends on the kind of server."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from runner_base import ConfigError
from runner_engine import GenerationConfig

# Servers count thinking, tags and answer in one limit: so many tokens more leave the answer its own
# limit, also if the server writes a sentence where the budget is spent. A thinking that is longer
# than its budget by more ignores it.
MARGIN = 32


class ThinkingBudget(StrEnum):
    """Kind of server, which determines the name of its thinking budget parameter."""

    vllm = "vllm"
    sglang = "sglang"
    llama_cpp = "llama_cpp"
    openrouter = "openrouter"
    anthropic = "anthropic"
    gemini = "gemini"
    qwen = "qwen"


class BudgetParameter(NamedTuple):
    """Name of a server's parameter for the thinking budget, and a function that builds its request fields."""

    name: str
    body: Callable[[int], dict[str, Any]]


PARAMETERS = {
    ThinkingBudget.vllm: BudgetParameter(
        "thinking_token_budget", lambda tokens: {"thinking_token_budget": tokens}
    ),
    ThinkingBudget.sglang: BudgetParameter(
        "custom_params.thinking_budget", lambda tokens: {"custom_params": {"thinking_budget": tokens}}
    ),
    ThinkingBudget.llama_cpp: BudgetParameter(
        "thinking_budget_tokens", lambda tokens: {"thinking_budget_tokens": tokens}
    ),
    ThinkingBudget.openrouter: BudgetParameter(
        "reasoning.max_tokens",
        lambda tokens: {"reasoning": {"max_tokens": tokens} if tokens else {"enabled": False}},
    ),
    ThinkingBudget.anthropic: BudgetParameter(
        "thinking.budget_tokens",
        lambda tokens: {
            "thinking": {"type": "enabled", "budget_tokens": tokens} if tokens else {"type": "disabled"}
        },
    ),
    ThinkingBudget.gemini: BudgetParameter(
        "google.thinking_config.thinking_budget",
        lambda tokens: {
            "extra_body": {
                "google": {"thinking_config": {"thinking_budget": tokens, "include_thoughts": True}}
            }
        },
    ),
    ThinkingBudget.qwen: BudgetParameter(
        "thinking_budget",
        lambda tokens: (
            {"enable_thinking": True, "thinking_budget": tokens} if tokens else {"enable_thinking": False}
        ),
    ),
}


def check_thinking_budget(
    model_key: str, budget_api: ThinkingBudget | None, generation: GenerationConfig
) -> None:
    """Raise ConfigError for thinking settings that the server does not support."""
    if generation.thinking_end is not None:
        raise ConfigError(
            (
                "servers do not accept this parameter in requests. Use generation.thinking_end=null. "
                "Set the text when you start the server: --reasoning-config for vLLM, "
                "--reasoning-budget-message for llama.cpp"
            ),
            key="generation.thinking_end",
            value=f"{generation.thinking_end!r}",
            code="unsupported",
        )
    if generation.thinking_tokens is not None and budget_api is None:
        choices = ", ".join(f"{name} ({parameter.name})" for name, parameter in PARAMETERS.items())
        raise ConfigError(
            (
                "OpenAI's API does not support thinking budgets. Use generation.thinking_tokens=null, or "
                f"set {model_key}.thinking_budget_dialect to the kind of server: {choices}"
            ),
            key="generation.thinking_tokens",
            value=generation.thinking_tokens,
            code="missing",
        )
