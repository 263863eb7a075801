"""Inspects the cache that transformers creates for a model: keys and values, states, or other data."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import (
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from runner_base.notes import Note, note

# layers of a cache that hold these and nothing else
KEYS_AND_VALUES = {DynamicLayer, DynamicSlidingWindowLayer}
STATES = {LinearAttentionLayer}  # what a mixer keeps
# of two layers at once
BOTH = {LinearAttentionAndFullAttentionLayer, LinearAttentionAndSlidingWindowAttentionLayer}
HINTS = "transformers.integrations.hub_kernels"  # advises to install libraries for what our mixers compute
NOTHING = {DummyLayer}  # empty: its layer attends to the keys and values of another layer


class IncompatibleModel(Exception):
    """Raised if the continuous-batching scheduler cannot run the model."""

    def __init__(self, reason: Note) -> None:
        super().__init__(reason)
        self.reason = reason


def find_layer_cache_token_limits(
    model: Any, token_ids: torch.Tensor, num_recurrent_layers: int
) -> list[int | None]:
    """Return the maximum number of tokens in each layer's KV cache, where None means unlimited.

    Raises IncompatibleModel if the cache keeps other state. num_recurrent_layers: number of
    recurrent layers that this project supports.

    The filled cache itself is checked, because missing state does not always show in the logits
    of a short trial.
    """
    if num_recurrent_layers:
        logging.getLogger(HINTS).addFilter(_is_not_kernel_hint)
    cache: Any = DynamicCache(config=model.config)
    model(input_ids=token_ids, past_key_values=cache, use_cache=True)
    layers = [layer for layer in cache.layers if type(layer) not in NOTHING]
    others = {type(layer).__name__ for layer in layers if type(layer) not in KEYS_AND_VALUES}
    if num_recurrent_layers and num_recurrent_layers == sum(type(layer) in STATES | BOTH for layer in layers):
        others -= {kind.__name__ for kind in STATES | BOTH}
        layers = [layer for layer in layers if type(layer) not in STATES]
    if others or any(layer.get_seq_length() != token_ids.shape[1] for layer in layers):
        what = ", ".join(sorted(others)) or "a cache of its own"
        raise IncompatibleModel(note("other_state", what=what))
    return [getattr(layer, "sliding_window", None) for layer in cache.layers if type(layer) not in STATES]


def _is_not_kernel_hint(record: logging.LogRecord) -> bool:
    """Log filter that drops transformers' advice to install optional kernels."""
    return "falling back to its reference PyTorch implementation" not in record.getMessage()
