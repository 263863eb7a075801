"""Determines before loading which capabilities the local engine has for a model spec. Imports no torch."""

from __future__ import annotations

from runner_engine.sessions import Capability
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import Attention
from runner_engine.settings.rope import Rope2dConfig
from runner_engine.spec import ModelSpec


def list_supported_capabilities(spec: ModelSpec) -> frozenset[Capability]:
    """Return the engine capabilities that a model spec supports.

    Branches need rope_2d, attention with a mask, a KV cache in the model's dtype, and at most
    one adapter.
    """
    has_mask = spec.model.attention is not Attention.flash_attention_2
    has_branches = isinstance(spec.rope, Rope2dConfig) and has_mask
    has_branches = has_branches and spec.generation.kv_cache_config == KvCache.as_model
    lacks = {
        Capability.branches: not has_branches or bool(spec.lora.selectable_adapters),
        Capability.adapters: not spec.lora.selectable_adapters,
    }
    return frozenset(Capability) - {capability for capability, is_so in lacks.items() if is_so}
