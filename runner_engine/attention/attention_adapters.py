"""Gives attention classes that bypass transformers' attention interface a way through it.

A class keeps its own forward pass. Only while a pass uses an attention function of this project
(`use_attention_function`), the adapter computes queries, keys and values and calls that function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

AttentionFunction = Callable[..., tuple[torch.Tensor, None]]  # with transformers' signature


def install_attention_adapters(attention: AttentionFunction, is_used: Callable[[], bool]) -> None:
    """Adapt all known attention classes that are imported. Adapts each class once.

    is_used: whether the current pass uses an attention function of this project.
    """
    for module_name, class_name, method_name, compute in ADAPTED:
        family = sys.modules.get(module_name)
        kind = getattr(family, class_name, None)
        if kind is not None and not hasattr(getattr(kind, method_name), "is_adapted"):
            adapted = _wrap_attention_method(getattr(kind, method_name), compute, attention, is_used)
            setattr(kind, method_name, adapted)


def _wrap_attention_method(
    original: Callable[..., Any],
    compute: Callable[..., Any],
    attention: AttentionFunction,
    is_used: Callable[[], bool],
) -> Callable[..., Any]:
    """Build a method that calls `attention` while it is used, and else the class's own method."""

    @wraps(original)
    def adapted(self: Any, *args: Any, **named: Any) -> Any:
        result = compute(attention, self, *args, **named) if is_used() else None
        return original(self, *args, **named) if result is None else result

    adapted.is_adapted = True  # type: ignore[attr-defined]
    return adapted


def _compute_falcon_attention(
    attention: AttentionFunction,
    module: Any,
    hidden_states: torch.Tensor,
    alibi: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    layer_past: Any = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None] | None:
    """Compute Falcon's attention. Returns None for ALiBi, whose biases the interface does not take."""
    if alibi is not None or position_embeddings is None:
        return None
    from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

    projected, kv_heads = module.query_key_value(hidden_states), module.num_kv_heads
    per_pair = module.num_heads // kv_heads
    # each key head has its queries, its key and its value side by side
    heads = projected.unflatten(-1, (kv_heads, per_pair + 2, module.head_dim))
    query, key, value = (
        part.flatten(2, 3).transpose(1, 2) for part in torch.split(heads, [per_pair, 1, 1], dim=-2)
    )
    query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    if layer_past is not None:
        key, value = layer_past.update(key, value, module.layer_idx)
    attended, _weights = attention(module, query, key, value, attention_mask)
    return module.dense(attended.flatten(2)), None


def _compute_gptj_attention(
    attention: AttentionFunction,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of GPT-J and CodeGen between their projections."""
    scale = 1 / float(module.scale_attn)
    numbers = (query.to(value.dtype), key.to(value.dtype), value)
    attended, _weights = attention(module, *numbers, attention_mask, scaling=scale)
    return attended.transpose(1, 2), None


# module and class of the family, the method that is adapted, and what it computes
ADAPTED: tuple[tuple[str, str, str, Callable[..., Any]], ...] = (
    ("transformers.models.falcon.modeling_falcon", "FalconAttention", "forward", _compute_falcon_attention),
    ("transformers.models.gptj.modeling_gptj", "GPTJAttention", "_attn", _compute_gptj_attention),
    ("transformers.models.codegen.modeling_codegen", "CodeGenAttention", "_attn", _compute_gptj_attention),
)
