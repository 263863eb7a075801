"""What the local engine can do with a spec; known before anything is loaded, so this imports no
torch."""

from __future__ import annotations

from runner_engine.sessions import Capability
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import Attention
from runner_engine.settings.rope import Rope2dConfig
from runner_engine.spec import ModelSpec


def capabilities_of(spec: ModelSpec) -> frozenset[Capability]:
    """Return all capabilities; branches need rope_2d, an attention with a mask and a KV cache in
    the model's format, and one adapter at most."""
    has_mask = spec.model.attention is not Attention.flash_attention_2
    has_branches = isinstance(spec.rope, Rope2dConfig) and has_mask
    has_branches = has_branches and spec.generation.stored_kv == KvCache.as_model
    lacks = {
        Capability.branches: not has_branches or bool(spec.lora.each),
        Capability.adapters: not spec.lora.each,
    }
    return frozenset(Capability) - {capability for capability, is_so in lacks.items() if is_so}
