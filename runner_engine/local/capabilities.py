"""What the local engine can do with a config; known before anything is loaded, so this imports no torch."""

from __future__ import annotations

from runner.config.root import RunnerConfig
from runner_engine.sessions.base import Capability
from runner_engine.settings.generation import KvCache
from runner_engine.settings.model import Attention, local_model
from runner_engine.settings.rope import Rope2dConfig


def capabilities_of(config: RunnerConfig) -> frozenset[Capability]:
    """Return all capabilities; branches need rope_2d, an attention with a mask and a KV cache in the model's format."""
    has_mask = local_model(config.model).attention is not Attention.flash_attention_2
    has_branches = isinstance(config.rope, Rope2dConfig) and has_mask
    has_branches = has_branches and config.generation.kv_cache is KvCache.as_model
    return frozenset(Capability) - (frozenset() if has_branches else {Capability.branches})
