"""Checks of what a model's layers have in common, for the fused forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner_engine.decode.layouts import AttentionLayout, ModelLayout, NotFusable
from runner_engine.kernels import native
from runner_engine.kv_cache import KvCacheSpec
from runner_engine.models.lora.unmerged import has_hooks_besides_adapter


def check_fused_forward_support(model: Any, kv_spec: KvCacheSpec, kernels: native.Kernels) -> None:
    """Raise NotFusable if the CPU or the hooks on layers rule out the fused forward pass."""
    if not kernels.has_function("fused_forward", kv_spec.dtype):
        raise NotFusable(f"the C kernels do not support {kv_spec.dtype} on this processor")
    if any(map(has_hooks_besides_adapter, model.modules())):
        raise NotFusable("its layers have hooks")


def get_common_attention_setting(attention_layouts: Sequence[AttentionLayout], setting_name: str) -> bool:
    """Return the value of a boolean setting that all attention layers share.

    Raises NotFusable if they differ.
    """
    found = {bool(getattr(attention, setting_name)) for attention in attention_layouts}
    if len(found) > 1:
        raise NotFusable("its layers differ")
    return True in found


def needs_residual_buffer(layout: ModelLayout) -> bool:
    apart = layout.residual_scale != 1 or any(
        layer.norms[1] or layer.norms[3] or layer.beside for layer in layout.layers
    )
    return apart or any(layer.is_parallel and layer.norms[2] for layer in layout.layers)
