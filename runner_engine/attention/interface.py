"""Replaces the attention function that transformers models call, without changes to the models' code.

The attention function of a pass is a context variable of its thread, so that passes of
several models can run in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from runner_engine.attention.attention_adapters import install_attention_adapters
from runner_engine.kv_cache import sliding_windows

NAME = "runner_scheduler"
# arguments of attention that change nothing here; what a window hides is known from the masks
# (windows.py)
HARMLESS = {
    *("position_ids", "cache_position", "use_cache", "output_attentions", "dropout", "sliding_window"),
    *("output_router_logits", "logits_to_keep"),  # some models pass these on
}


@dataclass(frozen=True)
class Softmax:
    """Softmax options of an attention layer: logit cap, attention sinks and attention mask."""

    cap: float = 0.0  # scores become cap · tanh(score / cap); 0: no cap
    sinks: torch.Tensor | None = None  # float32 [H]: for each head, a score that gets weight but has no value
    mask: torch.Tensor | None = None  # the model's own, if it builds one


PLAIN = Softmax()
# as PassLayout.attend
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float, Softmax], torch.Tensor]
_attend: ContextVar[Attend] = ContextVar("attend")  # of the forward pass that runs in this thread


@contextmanager
def use_attention_function(
    model: Any, attention_function: Attend, registered_name: str = NAME
) -> Iterator[None]:
    """Context manager that replaces the attention function of the model's layers."""
    settings = model.config.get_text_config()
    before, outer = settings._attn_implementation, _attend.set(attention_function)
    settings._attn_implementation = registered_name
    try:
        yield
    finally:
        settings._attn_implementation = before
        _attend.reset(outer)


def wrap_with_layer_counter(attention_function: Attend) -> Attend:
    """Wrap an attention function so that it also receives the index of the layer that calls it.

    The wrapper is valid for one forward pass. It is needed if some layers have no attention.
    """
    numbers = count()

    def numbered(_: int, *more: Any) -> torch.Tensor:
        return attention_function(next(numbers), *more)

    return numbered


def register_attention() -> None:
    from transformers import AttentionInterface  # imports torchao, which load_base has made quiet

    AttentionInterface.register(NAME, _compute_attention_for_transformers)
    AttentionInterface.register(sliding_windows.MASK_PROBE, _compute_attention_for_transformers)
    sliding_windows.register_mask_recorder()
    install_attention_adapters(_compute_attention_for_transformers, lambda: _attend.get(None) is not None)


def _compute_attention_for_transformers(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function with transformers' signature.

    Maps query [1, H, T, D] and key, value [1, KVH, T, D] to [1, T, H, D].
    """
    unknown = [name for name, given in more.items() if given is not None and name not in HARMLESS]
    if unknown or query.shape[0] != 1:
        raise NotImplementedError(
            f"{type(module).__name__} calls attention with unsupported {', '.join(unknown) or 'batches'}"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    softmax = PLAIN
    if softcap is not None or s_aux is not None or attention_mask is not None:
        softmax = Softmax(
            softcap or 0.0, None if s_aux is None else s_aux.detach().float().flatten(), attention_mask
        )
    return _attend.get()(module.layer_idx, query[0], key[0], value[0], scale, softmax)[None], None
