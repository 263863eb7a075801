"""Computes the bytes of the KV cache and of recurrent states per sequence from config.json.
Imports no torch.

These are the sizes that the scheduler stores, not the minimum: heads of all layers are stored in
the widest layer's shape, and a model with latent attention (MLA) stores the expanded keys and
values, not the latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner_base import BYTES
from runner_engine.checkpoints.layer_kinds import (
    derive_layer_kinds,
    find_first_kv_sharing_layer,
    read_sliding_window_tokens,
)
from runner_engine.settings.kv_cache import FIRST_TOKENS, KvCache, KvPrecision

SCALE_BYTES = 4  # of a place and head, where keys or values are stored in 8 bits: as in kernels/attention.h
# in 4 bits so many numbers of a head, with their scale, take so many bytes
INT4_GROUP, INT4_GROUP_BYTES = (32, 18)
PAGE_BYTES = 4096  # of memory, on most machines
LANES = 16  # numbers by which heads are stored on a CPU: as in kernels
# families whose layers with a window have twice the key-value heads
TWICE_IN_WINDOWS = {"mimo_v2_flash"}
REWOUND = 32  # places before a window that stay: guessed tokens may turn out wrong
# a row may keep so many places more than its window, or one in so many of it
LEAST_SPARE, SPARE_SHARE = (64, 4)


def compute_max_window_positions(window: int, num_positions: int) -> int:
    """Return the maximum number of positions that a sliding-window layer stores for one sequence."""
    return min(num_positions, window + compute_window_slack(window))


def compute_window_slack(window_tokens: int) -> int:
    """Return how many positions older than its sliding window a layer may still store.

    Freeing many positions at once is faster.
    """
    return REWOUND + max(window_tokens // SPARE_SHARE, LEAST_SPARE)


@dataclass(frozen=True)
class KvSize:
    """Bytes that a model's layers store per sequence, in KV caches and recurrent states."""

    full_layers: int  # that keep keys and values of all tokens
    window_layers: int  # that keep those within the window
    window: int
    full_bytes: int  # of one token in all layers that keep all of them
    window_bytes: int  # of one token in all layers that keep those within the window
    page: int  # tokens of a head in a page of memory: they are freed together
    state_bytes: int  # of all layers together
    first_bytes: int = 0  # of first tokens in the model's numbers, beside the others

    @property
    def num_kv_layers(self) -> int:
        return self.full_layers + self.window_layers

    @property
    def token_bytes(self) -> int:
        return self.full_bytes + self.window_bytes

    def compute_prompt_kv_nbytes(
        self,
        num_sequences: int,
        prompt_tokens: int,
        last_pass_shape: tuple[int, int],
        frees_old_positions: bool,
    ) -> int:
        """Return the KV cache bytes of all sequences during the last prefill pass.

        last_pass_shape: sequences of this pass, and tokens per sequence. frees_old_positions:
        sliding-window layers free the positions before the window after each pass.
        """
        kept = min(prompt_tokens, self._min_window_positions) if frees_old_positions else prompt_tokens
        of_windows = (num_sequences - last_pass_shape[0]) * kept + last_pass_shape[0] * min(
            kept + last_pass_shape[1], prompt_tokens
        )
        return num_sequences * self._compute_unwindowed_nbytes(prompt_tokens) + self.window_bytes * of_windows

    def compute_final_kv_nbytes(
        self, num_sequences: int, prompt_tokens: int, new_tokens: int, frees_old_positions: bool
    ) -> int:
        kept = prompt_tokens + new_tokens
        if frees_old_positions:
            kept = min(
                compute_max_window_positions(self.window, kept),
                min(prompt_tokens, self._min_window_positions) + new_tokens,
            )
        return num_sequences * (
            self._compute_unwindowed_nbytes(prompt_tokens + new_tokens) + self.window_bytes * kept
        )

    @property
    def _min_window_positions(self) -> int:
        """Number of positions that a sliding-window layer retains after freeing old positions."""
        return self.window + REWOUND + self.page // 2

    def _compute_unwindowed_nbytes(self, positions: int) -> int:
        return self.state_bytes + self.first_bytes + self.full_bytes * positions


def compute_kv_size(
    config: Mapping[str, Any],
    dtype_bytes: int,
    kv_cache: KvCache = KvCache.as_model,
    head_dim_multiple: int = 1,
) -> KvSize:
    """Compute the bytes of KV cache and recurrent state per sequence.

    Head sizes are rounded up to `head_dim_multiple`.
    """
    kinds = derive_layer_kinds(config)
    own = kinds[: find_first_kv_sharing_layer(config)]
    kv_heads, width = read_kv_head_count_and_size(config)
    width = -(-width // head_dim_multiple) * head_dim_multiple
    in_windows = [kind.has_window for kind in own if kind.has_attention or kind.has_window]
    each = [kv_heads * compute_layer_head_nbytes(kv_cache, layer, len(in_windows), width, dtype_bytes)
            for layer in range(len(in_windows))]  # fmt: skip
    window_bytes = sum(
        of_layer for of_layer, is_in_window in zip(each, in_windows, strict=True) if is_in_window
    )
    return KvSize(
        full_layers=len(in_windows) - sum(in_windows),
        window_layers=sum(in_windows),
        window=read_sliding_window_tokens(config) or 0,
        full_bytes=sum(each) - window_bytes,
        window_bytes=window_bytes,
        page=PAGE_BYTES // max(compute_kv_head_nbytes_per_position(width, dtype_bytes, kv_cache.keys), 1),
        state_bytes=sum(kind.has_state for kind in kinds)
        * compute_recurrent_state_nbytes(config, dtype_bytes),
        first_bytes=2 * FIRST_TOKENS * len(in_windows) * kv_heads * width * dtype_bytes
        if kv_cache.first_tokens
        else 0,
    )


def compute_layer_head_nbytes(
    kv_cache: KvCache, layer: int, num_layers: int, head_dim: int, dtype_bytes: int
) -> int:
    """Return the bytes of one key and one value, for one head and position of attention layer `layer`."""
    return sum(
        compute_kv_head_nbytes_per_position(head_dim, dtype_bytes, numbers)
        for numbers in kv_cache.get_layer_precisions(layer, num_layers)
    )


def compute_kv_head_nbytes_per_position(head_dim: int, dtype_bytes: int, precision: KvPrecision) -> int:
    """Return the bytes of the key (or the value) of one position in one head."""
    if precision is KvPrecision.int8:
        return head_dim + SCALE_BYTES
    if precision is KvPrecision.int4:
        return -(-head_dim // INT4_GROUP) * INT4_GROUP_BYTES
    return head_dim * dtype_bytes


def read_kv_head_count_and_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of key-value heads and the head size. Both are maxima over all layers."""
    heads = _read_first_configured_number(config, "num_attention_heads", "n_head", default=1)
    layers = config.get("per_layer_config")
    others = (
        [one for one in layers.values() if isinstance(one, Mapping)] if isinstance(layers, Mapping) else []
    )
    many = [_read_first_configured_number(one, "num_key_value_heads") for one in others]
    many += [
        _read_first_configured_number(config, key)
        for key in ("num_global_key_value_heads", "swa_num_key_value_heads")
    ]
    kv_heads = max(_read_first_configured_number(config, "num_key_value_heads", default=heads), *many)
    if config.get("model_type") in TWICE_IN_WINDOWS and read_sliding_window_tokens(config) is not None:
        kv_heads *= 2
    if _read_first_configured_number(config, "kv_lora_rank") and (
        nope := _read_first_configured_number(config, "qk_nope_head_dim")
    ):  # expanded latents
        return heads, max(
            nope + _read_first_configured_number(config, "qk_rope_head_dim"),
            _read_first_configured_number(config, "v_head_dim"),
        )
    hidden = _read_first_configured_number(config, "hidden_size", "n_embd")
    own = _read_first_configured_number(config, "attention_head_dim", "head_dim", default=hidden // heads)
    wide = [_read_first_configured_number(one, "head_dim") for one in others]
    wide += [
        _read_first_configured_number(config, key)
        for key in ("global_head_dim", "v_head_dim", "swa_head_dim", "swa_v_head_dim")
    ]
    return kv_heads, max(own, *wide)


def compute_recurrent_state_nbytes(config: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the bytes of one recurrent layer's state.

    The state consists of the last convolution inputs and of the recurrent sums in float32. A
    convolution
    over K inputs stores the last K − 1.
    """
    hidden = _read_first_configured_number(config, "hidden_size")
    of_linear = config.get("linear_attn_config")
    if isinstance(of_linear, Mapping):  # Kimi Linear, as its own files have it
        numbers = {
            "linear_num_heads": of_linear.get("num_heads"),
            "linear_head_dim": of_linear.get("head_dim"),
        }
        config = {**config, **numbers, "linear_conv_kernel_dim": of_linear.get("short_conv_kernel_size")}
    kernel = _read_first_configured_number(
        config,
        "linear_conv_kernel_dim",
        "conv_L_cache",
        "conv1d_width",
        "mamba_d_conv",
        "conv_kernel",
        default=4,
    )
    if value_heads := _read_first_configured_number(config, "linear_num_value_heads"):  # the gated delta rule
        key_dim, value_dim = (
            _read_first_configured_number(config, "linear_key_head_dim"),
            _read_first_configured_number(config, "linear_value_head_dim"),
        )
        mixed = (
            2 * _read_first_configured_number(config, "linear_num_key_heads") * key_dim
            + value_heads * value_dim
        )
        sums = value_heads * key_dim * value_dim
    elif heads := _read_first_configured_number(config, "linear_num_heads"):  # Kimi's delta attention
        dim = _read_first_configured_number(config, "linear_head_dim")
        mixed, sums = 3 * heads * dim, heads * dim * dim
    elif _read_first_configured_number(config, "conv_L_cache"):  # a short convolution alone
        mixed, sums = hidden, 0
    elif _read_first_configured_number(config, "conv1d_width"):  # RecurrentGemma
        mixed = sums = _read_first_configured_number(config, "lru_width", default=hidden)
    else:
        mixed, sums = _compute_mamba_state_size(config, hidden)
    return (kernel - 1) * mixed * dtype_bytes + sums * BYTES["float32"]


def _compute_mamba_state_size(config: Mapping[str, Any], hidden_size: int) -> tuple[int, int]:
    states = _read_first_configured_number(config, "mamba_d_state", "ssm_state_size", "state_size")
    inner = _read_first_configured_number(config, "mamba_expand", "expand", default=2) * hidden_size
    heads = _read_first_configured_number(config, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads")
    dim = _read_first_configured_number(config, "mamba_d_head", "mamba_head_dim", "mamba_headdim")
    if config.get("model_type") == "mamba2":
        heads, dim = (
            _read_first_configured_number(config, "num_heads"),
            _read_first_configured_number(config, "head_dim"),
        )
    if not heads:  # Mamba 1
        inner = (
            inner
            if "mamba_d_state" in config
            else _read_first_configured_number(config, "intermediate_size", default=inner)
        )
        return inner, inner * states
    inner = heads * dim if dim else inner
    groups = _read_first_configured_number(config, "mamba_n_groups", "mamba_ngroups", "n_groups", default=1)
    return inner + 2 * groups * states, inner * states


def _read_first_configured_number(config: Mapping[str, Any], *keys: str, default: int = 0) -> int:
    value = next((config[key] for key in keys if config.get(key)), default)
    if isinstance(value, list):
        value = max(value)
    return int(value) if isinstance(value, int | float) else default
