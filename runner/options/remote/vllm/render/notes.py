"""Message texts of notes about models that run on a vLLM server."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base import format_count
from runner_base.render.notes import Template


def describe_logprob_gap(mean: float, most: float, tokens: int, texts: int) -> str:
    """Return a sentence on how much log-probabilities differ between vLLM and transformers."""
    return f"{mean:.2g} nats per token on average, {most:.2g} at most, over {tokens:,} tokens of {texts} documents"


def _describe_gpu_memory(weights_mib: float, each_mib: float, share_mib: float, gpus: int, here: int) -> str:
    elsewhere = f"; {gpus - here} of {gpus} GPUs are not on this machine" if here < gpus else ""
    return (
        f"memory: {weights_mib:,.0f} MiB of weights, {each_mib:,.0f} on "
        f"each of {format_count(gpus, 'GPU')}; vLLM takes "
        f"{share_mib:,.0f} MiB of each, and the KV cache gets the rest{elsewhere}"
    )


NOTES: Mapping[str, Template] = {
    "memory_of_cpu": (
        "memory: {weights_mib:,.0f} MiB of weights, and {kv_mib:,.0f} MiB of main memory for the KV cache"
    ),
    "memory_of_unknown_gpus": (
        "memory: {weights_mib:,.0f} MiB of weights; vLLM's share of GPU memory is unknown, because the driver "
        "lists no GPU"
    ),
    "memory_of_gpus": _describe_gpu_memory,
    "batch_invariant": "on: other requests do not change the bits of logits",
    "not_batch_invariant": "off: not on this hardware",
    "not_compared": "not compared: {reason}",
    "comparison_off": "model.compare=false",
    "quantized": "the checkpoint is quantized ({stored}), so transformers would compute other values",
    "no_memory": "transformers would need {needed_mib:,.0f} MiB of main memory",
    "no_scores": "vLLM's CPU build cannot score prompts with an adapter: only jobs without an adapter are compared",
    "same_model": lambda dtype, **gap: f"with transformers in {dtype}: {describe_logprob_gap(**gap)}",
}
