"""What each layer of a model looks back at, from its config.json: all tokens, a window, a state, or
nothing; no torch.

Newer files name the kind of each layer. For older ones the family's own rule counts, as
transformers has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class LayerKind(StrEnum):
    """What a layer keeps of earlier tokens."""

    full = "full"  # keys and values of all of them
    window = "window"  # those within a window
    state = "state"  # a state whose size does not depend on how many there were
    state_and_full = "state_and_full"
    state_and_window = "state_and_window"
    nothing = "nothing"

    @property
    def attends(self) -> bool:
        """Whether it keeps keys and values."""
        return self not in (LayerKind.state, LayerKind.nothing)

    @property
    def has_window(self) -> bool:
        """Whether it keeps keys and values within a window only."""
        return self in (LayerKind.window, LayerKind.state_and_window)

    @property
    def has_state(self) -> bool:
        """Whether it keeps a state."""
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


def layer_kinds(settings: Mapping[str, Any]) -> list[LayerKind]:
    pattern = settings.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [LETTERS.get(letter, FULL) for letter in pattern]
    names = next((settings[key] for key in LAYER_LISTS if isinstance(settings.get(key), list)), None)
    if names is not None:
        kinds = [NAMES.get(str(name), FULL) for name in names]
    else:
        count = layer_count(settings)
        kinds = [_kind(settings, number, count) for number in range(count)]
    if window_of(settings) is None:
        without = {WINDOW: FULL, LayerKind.state_and_window: LayerKind.state_and_full}
        kinds = [without.get(kind, kind) for kind in kinds]
    return kinds


def layer_count(settings: Mapping[str, Any]) -> int:
    """Return the number of layers; those of a family that attends twice in each count twice."""
    count = next((settings[key] for key in ("num_hidden_layers", "n_layer") if settings.get(key)), 0)
    return int(count) if count else 2 * int(settings.get("num_layers") or 0)


def window_of(settings: Mapping[str, Any]) -> int | None:
    """Return how many tokens its layers with a window see; None if there are none."""
    if settings.get("use_sliding_window") is False:
        return None
    sizes = [settings[key] for key in WINDOWS if isinstance(settings.get(key), int)]
    return int(sizes[0]) if sizes and sizes[0] > 0 else None


def first_sharing_layer(settings: Mapping[str, Any]) -> int:
    """Return the number of the first layer that attends to the keys and values of an earlier one,
    as all later do."""
    return len(layer_kinds(settings)) - int(settings.get("num_kv_shared_layers") or 0)


def _kind(settings: Mapping[str, Any], number: int, count: int) -> LayerKind:
    """Return the kind of a layer that is not named."""
    full_family = str(settings.get("model_type", ""))
    family = re.sub(r"(_text|_unified)+$", "", full_family)
    if family in ONLY_STATES:
        return STATE
    if family in BOTH:
        return BOTH[family]
    cycle = settings.get("block_types")
    if isinstance(cycle, list) and cycle:  # RecurrentGemma: its attention has a window in all layers
        return STATE if cycle[number % len(cycle)] == "recurrent" else WINDOW
    if (attending := _attending(settings, family, count)) is not None:
        other = LayerKind.state_and_full if isinstance(settings.get("hybrid_layer_ids"), list) else FULL
        return other if number in attending else STATE
    every = settings.get("sliding_window_pattern", FULL_EVERY.get(family))
    if isinstance(every, int) and every > 0:
        return FULL if (number + 1) % every == 0 else WINDOW
    if isinstance(first := settings.get("max_window_layers"), int):  # Qwen: the window begins behind these
        return WINDOW if number >= first else FULL
    return WINDOW


def _attending(settings: Mapping[str, Any], family: str, count: int) -> set[int] | None:
    """Return the layers of a hybrid that attend; None for other models."""
    for key in ("attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids"):
        if isinstance(settings.get(key), list):
            return set(settings[key])
    of_linear = settings.get("linear_attn_config")
    if isinstance(of_linear, Mapping) and isinstance(of_linear.get("full_attn_layers"), list):
        return {number - 1 for number in of_linear["full_attn_layers"]}
    if isinstance(period := settings.get("attn_layer_period"), int) and period > 0:
        offset = int(settings.get("attn_layer_offset") or 0)
        return {number for number in range(count) if number % period == offset}
    if (every := settings.get("full_attention_interval", ATTENTION_EVERY.get(family))) is not None:
        return {number for number in range(count) if (number + 1) % int(every) == 0}
    return None
