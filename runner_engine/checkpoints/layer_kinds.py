"""Derives from config.json whether each layer has full attention, sliding-window attention or a
recurrent state.

Imports no torch. Newer files name the kind of each layer. For older files the rule of the model
family applies, as in transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class LayerKind(StrEnum):
    """What a layer stores about earlier tokens: keys and values, a recurrent state, or nothing."""

    full = "full"  # keys and values of all of them
    window = "window"  # those within a window
    state = "state"  # a state whose size does not depend on how many there were
    state_and_full = "state_and_full"
    state_and_window = "state_and_window"
    nothing = "nothing"

    @property
    def has_attention(self) -> bool:
        return self not in (LayerKind.state, LayerKind.nothing)

    @property
    def has_window(self) -> bool:
        return self in (LayerKind.window, LayerKind.state_and_window)

    @property
    def has_state(self) -> bool:
        return self in (LayerKind.state, LayerKind.state_and_full, LayerKind.state_and_window)


FULL, WINDOW, STATE, NOTHING = LayerKind.full, LayerKind.window, LayerKind.state, LayerKind.nothing
NAMES = {  # in configs; any other name is of a layer that keeps all keys and values
    "sliding_attention": WINDOW,
    "chunked_attention": WINDOW,
    "local_attention": WINDOW,
    "linear_attention": STATE,
    "mamba": STATE,
    "mamba2": STATE,
    "conv": STATE,
    "recurrent": STATE,
    "hybrid": LayerKind.state_and_full,
    "hybrid_sliding": LayerKind.state_and_window,
    "moe": NOTHING,
    "mlp": NOTHING,
}
LETTERS = {"M": STATE, "E": NOTHING, "*": FULL, "-": NOTHING}  # of hybrid_override_pattern
LAYER_LISTS = ("layer_types", "layers_block_type")
WINDOWS = ("sliding_window", "attention_window_size", "attention_chunk_size")
ONLY_STATES = {"mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"}
BOTH = {"falcon_h1": LayerKind.state_and_full}
FULL_EVERY = {  # one layer in so many sees everything, the others have a window
    "gemma2": 2,
    "gpt_oss": 2,
    "cohere2": 4,
    "olmo3": 4,
    "exaone4": 4,
    "llama4": 4,
    "gemma3n": 5,
    "gemma3": 6,
    "gemma4": 6,
    "mimo_v2_flash": 6,
}
# the others have a state
ATTENTION_EVERY = {"qwen3_next": 4, "qwen3_5": 4, "qwen3_5_moe": 4, "olmo_hybrid": 4}


def derive_layer_kinds(config: Mapping[str, Any]) -> list[LayerKind]:
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [LETTERS.get(letter, FULL) for letter in pattern]
    names = next((config[key] for key in LAYER_LISTS if isinstance(config.get(key), list)), None)
    if names is not None:
        kinds = [NAMES.get(str(name), FULL) for name in names]
    else:
        count = count_layers(config)
        kinds = [_infer_layer_kind(config, number, count) for number in range(count)]
    if read_sliding_window_tokens(config) is None:
        without = {WINDOW: FULL, LayerKind.state_and_window: LayerKind.state_and_full}
        kinds = [without.get(kind, kind) for kind in kinds]
    return kinds


def count_layers(config: Mapping[str, Any]) -> int:
    """Return the number of layers. A layer with two attention modules counts twice."""
    count = next((config[key] for key in ("num_hidden_layers", "n_layer") if config.get(key)), 0)
    return int(count) if count else 2 * int(config.get("num_layers") or 0)


def read_sliding_window_tokens(config: Mapping[str, Any]) -> int | None:
    """Return the size of the sliding window in tokens. None if no layer has one."""
    if config.get("use_sliding_window") is False:
        return None
    sizes = [config[key] for key in WINDOWS if isinstance(config.get(key), int)]
    return int(sizes[0]) if sizes and sizes[0] > 0 else None


def find_first_kv_sharing_layer(config: Mapping[str, Any]) -> int:
    """Return the index of the first layer that reuses the keys and values of an earlier layer.

    All later layers do so, too.
    """
    return len(derive_layer_kinds(config)) - int(config.get("num_kv_shared_layers") or 0)


def _infer_layer_kind(config: Mapping[str, Any], layer: int, num_layers: int) -> LayerKind:
    full_family = str(config.get("model_type", ""))
    family = re.sub(r"(_text|_unified)+$", "", full_family)
    if family in ONLY_STATES:
        return STATE
    if family in BOTH:
        return BOTH[family]
    cycle = config.get("block_types")
    if isinstance(cycle, list) and cycle:  # RecurrentGemma: its attention has a window in all layers
        return STATE if cycle[layer % len(cycle)] == "recurrent" else WINDOW
    if (attending := _find_attention_layers(config, family, num_layers)) is not None:
        other = LayerKind.state_and_full if isinstance(config.get("hybrid_layer_ids"), list) else FULL
        return other if layer in attending else STATE
    every = config.get("sliding_window_pattern", FULL_EVERY.get(family))
    if isinstance(every, int) and every > 0:
        return FULL if (layer + 1) % every == 0 else WINDOW
    if isinstance(first := config.get("max_window_layers"), int):  # Qwen: the window begins behind these
        return WINDOW if layer >= first else FULL
    return WINDOW


def _find_attention_layers(config: Mapping[str, Any], model_family: str, num_layers: int) -> set[int] | None:
    """Return the indices of a hybrid model's attention layers. None for any other model."""
    for key in ("attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids"):
        if isinstance(config.get(key), list):
            return set(config[key])
    of_linear = config.get("linear_attn_config")
    if isinstance(of_linear, Mapping) and isinstance(of_linear.get("full_attn_layers"), list):
        return {number - 1 for number in of_linear["full_attn_layers"]}
    if isinstance(period := config.get("attn_layer_period"), int) and period > 0:
        offset = int(config.get("attn_layer_offset") or 0)
        return {number for number in range(num_layers) if number % period == offset}
    if (every := config.get("full_attention_interval", ATTENTION_EVERY.get(model_family))) is not None:
        return {number for number in range(num_layers) if (number + 1) % int(every) == 0}
    return None
