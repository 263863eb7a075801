"""Message texts of notes about models that run on a vLLM server."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base import format_count
from runner_base.render.notes import Template


def describe_logprob_gap(mean: float, most: float, tokens: int, texts: int) -> str:
    """Return a sentence about the difference between the log-probabilities of vLLM and of transformers."""
    return (
        f"log-probabilities differ by {mean:.2g} nats per token on average (maximum {most:.2g}), "
        f"over {tokens:,} tokens of {texts} documents"
    )


def _describe_gpu_memory(weights_mib: float, each_mib: float, share_mib: float, gpus: int, here: int) -> str:
    elsewhere = f". {gpus - here} of {gpus} GPUs are not on this machine" if here < gpus else ""
    return (
        f"memory: {weights_mib:,.0f} MiB of weights, {each_mib:,.0f} MiB per GPU on "
        f"{format_count(gpus, 'GPU')}. vLLM reserves "
        f"{share_mib:,.0f} MiB per GPU for weights and KV cache{elsewhere}"
    )


NOTES: Mapping[str, Template] = {
    "memory_of_cpu": (
        "memory: vLLM needs {weights_mib:,.0f} MiB for weights and {kv_mib:,.0f} MiB for the KV cache"
    ),
    "memory_of_unknown_gpus": (
        "memory: {weights_mib:,.0f} MiB of weights. The GPU memory for vLLM is unknown, because the driver "
        "lists no GPU"
    ),
    "memory_of_gpus": _describe_gpu_memory,
    "batch_invariant": "on: logits do not depend on concurrent requests",
    "not_batch_invariant": "off: this hardware does not support batch invariance",
    "not_compared": "not compared: {reason}",
    "comparison_off": "model.compare=false",
    "quantized": "transformers does not reproduce the values of a quantized checkpoint ({stored})",
    "no_memory": "transformers would need {needed_mib:,.0f} MiB of main memory",
    "no_scores": "vLLM's CPU build cannot score prompts with an adapter, so jobs with an adapter are not compared",
    "same_model": lambda dtype, **gap: f"with transformers in {dtype}: {describe_logprob_gap(**gap)}",
}
