"""The local engine: a transformers model on this machine."""

from __future__ import annotations

from runner.config.model import Attention, local_model
from runner.config.root import RunnerConfig
from runner.config.rope import Rope2dConfig
from runner.engines.base import Capability


def capabilities(config: RunnerConfig) -> frozenset[Capability]:
    """Say what the local engine can do with such a model: all, but branches need two coordinates and a mask."""
    masked = local_model(config.model).attention is not Attention.flash_attention_2
    has_branches = isinstance(config.rope, Rope2dConfig) and masked
    return frozenset(Capability) - (frozenset() if has_branches else {Capability.branches})
