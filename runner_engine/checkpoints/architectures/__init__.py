"""Mappings from llama.cpp's .gguf architectures to transformers models, with one module per model family.

Only the module for a file's architecture is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner_engine.checkpoints.architectures.base import Architecture
    from runner_engine.checkpoints.gguf_header import GgufHeader

__all__ = ["BY_TRANSFORMERS", "MODULES", "find_gguf_architecture"]

MODULES = {
    # every layer has attention and one feed-forward network
    "llama": "llama",
    "granite": "llama",
    "qwen2": "dense",
    "qwen3": "dense",
    "phi3": "dense",
    "starcoder2": "dense",
    "stablelm": "dense",
    "olmo2": "dense",
    "cohere2": "dense",
    "glm4": "dense",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gemma4": "gemma",
    # mixtures of experts; llama with experts is Mixtral
    "granitemoe": "llama",
    "qwen2moe": "mixtures",
    "qwen3moe": "mixtures",
    "olmoe": "mixtures",
    "gpt-oss": "mixtures",
    "glm4moe": "mixtures",
    "deepseek2": "deepseek",
    # hybrids: layers with recurrent state
    "qwen35": "gated_delta",
    "qwen35moe": "gated_delta",
    "qwen3next": "gated_delta",
    "lfm2": "short_conv",
    "lfm2moe": "short_conv",
    "granitehybrid": "state_space",
    "nemotron_h": "state_space",
    "nemotron_h_moe": "state_space",
    "falcon-h1": "state_space",
    "mamba2": "state_space",
}

# which transformers reads, all weights unpacked
BY_TRANSFORMERS = ("bloom", "deci", "falcon", "gpt2", "mamba", "minimax-m2", "nemotron")


def find_gguf_architecture(header: GgufHeader) -> Architecture:
    """Return the mapping for the architecture of a .gguf file. Raises KeyError if the architecture
    is unknown.
    """
    name = header.architecture
    known: dict[str, Architecture] = import_module(f"{__name__}.{MODULES[name]}").KNOWN
    kinds = {"expert_shared_feed_forward_length": "shared experts", "expert_count": "experts"}
    variants = [f"{name} with {kind}" for key, kind in kinds.items() if header.metadata.get(f"{name}.{key}")]
    return known[next((variant for variant in variants if variant in known), name)]
