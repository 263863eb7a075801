"""Message texts of notes about models that run on a llama.cpp server."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.render.notes import Template


def describe_logprob_gap(num_same: int, num_positions: int, mean_gap: float, max_gap: float) -> str:
    """Return a sentence about the difference between the log-probabilities of llama.cpp and of the
    runner's engine.
    """
    return (
        f"the most likely token is the same at {num_same} of {num_positions} positions, and "
        f"log-probabilities differ by {mean_gap:.2g} nats per token on average "
        f"(maximum {max_gap:.2g})"
    )


def _describe_memory(weights_mib: float, kv_mib: float | None, places: str) -> str:
    of_kv = "a KV cache of unknown size" if kv_mib is None else f"{kv_mib:,.0f} MiB of KV cache"
    sized = f"memory: {weights_mib:,.0f} MiB of weights and {of_kv}"
    return f"{sized}. llama.cpp distributes them over {places} and main memory" if places else sized


def _describe_same_tokens(texts: int, chats: int) -> str:
    rendered = f"{chats} chats are rendered identically" if chats else "no chat was rendered"
    return f"llama.cpp and the runner tokenize {texts} test texts identically, and {rendered}"


def _describe_same_model(same: int, places: int, mean: float, most: float, limit: float, tokens: str) -> str:
    gap = describe_logprob_gap(same, places, mean, most)
    return (
        f"compared with the runner's engine: {gap}; rounding explains up to {limit:.2g} on average; {tokens}"
    )


NOTES: Mapping[str, Template] = {
    "beyond_trained": "model.context={context} exceeds the context length of the model's training, {trained}",
    "memory": _describe_memory,
    "rows_alone": "on: the server runs one request at a time without a prompt cache",
    "prompts_cached": "off: the prompt cache may change the last bits of logits. Use model.prompt_cache=false",
    "rows_together": "off: parallel requests may change the last bits of logits. Use model.parallel=1",
    "not_compared": "not compared: {reason}",
    "partly_compared": "only tokenization was compared: {tokens}. Log-probabilities were not: {reason}",
    "same_tokens": _describe_same_tokens,
    "same_model": _describe_same_model,
}
