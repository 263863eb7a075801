"""What a row keeps of its tokens, layer by layer, from a model's config.json: keys and values, and
states; no torch.

This is what the scheduler stores, not the least that would do: heads of all layers are stored in
the widest one's shape, and of a model with latent attention (MLA) the keys and values that it
expands, not the latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner_base import BYTES
from runner_engine.checkpoints.layer_kinds import first_sharing_layer, layer_kinds, window_of
from runner_engine.settings.kv_cache import FIRST_TOKENS, KvCache, KvNumbers

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


def kept_places(window: int, places: int) -> int:
    """Return how many of a row's places a layer with a window keeps at most."""
    return min(places, window + spare_places(window))


def spare_places(window: int) -> int:
    """Return how many places more than its window a layer keeps before they are freed: many at
    once, for speed."""
    return REWOUND + max(window // SPARE_SHARE, LEAST_SPARE)


@dataclass(frozen=True)
class KeptKv:
    """What the layers of a model keep of a row."""

    full_layers: int  # that keep keys and values of all tokens
    window_layers: int  # that keep those within the window
    window: int
    full_bytes: int  # of one token in all layers that keep all of them
    window_bytes: int  # of one token in all layers that keep those within the window
    page: int  # tokens of a head in a page of memory: they are freed together
    state_bytes: int  # of all layers together
    first_bytes: int = 0  # of first tokens in the model's numbers, beside the others

    @property
    def layers(self) -> int:
        """The layers that keep keys and values."""
        return self.full_layers + self.window_layers

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return self.full_bytes + self.window_bytes

    def prompt_bytes(self, rows: int, prompt: int, last: tuple[int, int], keeps_windows: bool) -> int:
        """Return what rows take when the last of their prompts are read, in a pass of so many rows
        and tokens of each.

        keeps_windows: layers with a window keep no more than that. What is before it is freed after
        each pass.
        """
        kept = min(prompt, self._least) if keeps_windows else prompt
        of_windows = (rows - last[0]) * kept + last[0] * min(kept + last[1], prompt)
        return rows * self._elsewhere(prompt) + self.window_bytes * of_windows

    def final_bytes(self, rows: int, prompt: int, new: int, keeps_windows: bool) -> int:
        """Return what rows take when they end with so many new tokens."""
        kept = prompt + new
        if keeps_windows:
            kept = min(kept_places(self.window, kept), min(prompt, self._least) + new)
        return rows * (self._elsewhere(prompt + new) + self.window_bytes * kept)

    @property
    def _least(self) -> int:
        """How many of a long row's tokens a layer with a window keeps when others were just
        freed."""
        return self.window + REWOUND + self.page // 2

    def _elsewhere(self, places: int) -> int:
        """Return what a row takes besides what layers with a window keep."""
        return self.state_bytes + self.first_bytes + self.full_bytes * places


def kept_kv(
    settings: Mapping[str, Any], dtype_bytes: int, kv_cache: KvCache = KvCache.as_model, lanes: int = 1
) -> KeptKv:
    """Return what each row of a model keeps; lanes: heads are stored in so many numbers, or a
    multiple."""
    kinds = layer_kinds(settings)
    own = kinds[: first_sharing_layer(settings)]
    kv_heads, width = kv_heads_of(settings)
    width = -(-width // lanes) * lanes
    in_windows = [kind.has_window for kind in own if kind.attends or kind.has_window]
    each = [kv_heads * layer_head_bytes(kv_cache, layer, len(in_windows), width, dtype_bytes)
            for layer in range(len(in_windows))]  # fmt: skip
    window_bytes = sum(
        of_layer for of_layer, is_in_window in zip(each, in_windows, strict=True) if is_in_window
    )
    return KeptKv(
        full_layers=len(in_windows) - sum(in_windows),
        window_layers=sum(in_windows),
        window=window_of(settings) or 0,
        full_bytes=sum(each) - window_bytes,
        window_bytes=window_bytes,
        page=PAGE_BYTES // max(head_bytes(width, dtype_bytes, kv_cache.keys), 1),
        state_bytes=sum(kind.has_state for kind in kinds) * state_bytes(settings, dtype_bytes),
        first_bytes=2 * FIRST_TOKENS * len(in_windows) * kv_heads * width * dtype_bytes
        if kv_cache.first_tokens
        else 0,
    )


def layer_head_bytes(kv_cache: KvCache, layer: int, layers: int, dim: int, dtype_bytes: int) -> int:
    """Return the bytes of a key and a value of one place and one head, in one of so many layers
    that store some."""
    return sum(head_bytes(dim, dtype_bytes, numbers) for numbers in kv_cache.of_layer(layer, layers))


def head_bytes(dim: int, dtype_bytes: int, numbers: KvNumbers) -> int:
    """Return the bytes of a key, or a value, of one place and one head."""
    if numbers is KvNumbers.int8:
        return dim + SCALE_BYTES
    if numbers is KvNumbers.int4:
        return -(-dim // INT4_GROUP) * INT4_GROUP_BYTES
    return dim * dtype_bytes


def kv_heads_of(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many key-value heads a layer stores, and their width: the most of any layer."""
    heads = _first(settings, "num_attention_heads", "n_head", default=1)
    layers = settings.get("per_layer_config")
    others = (
        [one for one in layers.values() if isinstance(one, Mapping)] if isinstance(layers, Mapping) else []
    )
    many = [_first(one, "num_key_value_heads") for one in others]
    many += [_first(settings, key) for key in ("num_global_key_value_heads", "swa_num_key_value_heads")]
    kv_heads = max(_first(settings, "num_key_value_heads", default=heads), *many)
    if settings.get("model_type") in TWICE_IN_WINDOWS and window_of(settings) is not None:
        kv_heads *= 2
    if _first(settings, "kv_lora_rank") and (
        nope := _first(settings, "qk_nope_head_dim")
    ):  # expanded latents
        return heads, max(nope + _first(settings, "qk_rope_head_dim"), _first(settings, "v_head_dim"))
    hidden = _first(settings, "hidden_size", "n_embd")
    own = _first(settings, "attention_head_dim", "head_dim", default=hidden // heads)
    wide = [_first(one, "head_dim") for one in others]
    wide += [
        _first(settings, key) for key in ("global_head_dim", "v_head_dim", "swa_head_dim", "swa_v_head_dim")
    ]
    return kv_heads, max(own, *wide)


def state_bytes(settings: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return what one layer with a state keeps of a row: the last inputs of its convolution, and
    its sums in float32.

    Of a convolution over K inputs the last K − 1 are kept.
    """
    hidden = _first(settings, "hidden_size")
    of_linear = settings.get("linear_attn_config")
    if isinstance(of_linear, Mapping):  # Kimi Linear, as its own files have it
        numbers = {
            "linear_num_heads": of_linear.get("num_heads"),
            "linear_head_dim": of_linear.get("head_dim"),
        }
        settings = {**settings, **numbers, "linear_conv_kernel_dim": of_linear.get("short_conv_kernel_size")}
    kernel = _first(
        settings,
        "linear_conv_kernel_dim",
        "conv_L_cache",
        "conv1d_width",
        "mamba_d_conv",
        "conv_kernel",
        default=4,
    )
    if value_heads := _first(settings, "linear_num_value_heads"):  # the gated delta rule
        key_dim, value_dim = (
            _first(settings, "linear_key_head_dim"),
            _first(settings, "linear_value_head_dim"),
        )
        mixed = 2 * _first(settings, "linear_num_key_heads") * key_dim + value_heads * value_dim
        sums = value_heads * key_dim * value_dim
    elif heads := _first(settings, "linear_num_heads"):  # Kimi's delta attention
        dim = _first(settings, "linear_head_dim")
        mixed, sums = 3 * heads * dim, heads * dim * dim
    elif _first(settings, "conv_L_cache"):  # a short convolution alone
        mixed, sums = hidden, 0
    elif _first(settings, "conv1d_width"):  # RecurrentGemma
        mixed = sums = _first(settings, "lru_width", default=hidden)
    else:
        mixed, sums = _of_mamba(settings, hidden)
    return (kernel - 1) * mixed * dtype_bytes + sums * BYTES["float32"]


def _of_mamba(settings: Mapping[str, Any], hidden: int) -> tuple[int, int]:
    """Return the channels of a Mamba layer's convolution, and how many sums its state has."""
    states = _first(settings, "mamba_d_state", "ssm_state_size", "state_size")
    inner = _first(settings, "mamba_expand", "expand", default=2) * hidden
    heads = _first(settings, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads")
    dim = _first(settings, "mamba_d_head", "mamba_head_dim", "mamba_headdim")
    if settings.get("model_type") == "mamba2":
        heads, dim = _first(settings, "num_heads"), _first(settings, "head_dim")
    if not heads:  # Mamba 1
        inner = inner if "mamba_d_state" in settings else _first(settings, "intermediate_size", default=inner)
        return inner, inner * states
    inner = heads * dim if dim else inner
    groups = _first(settings, "mamba_n_groups", "mamba_ngroups", "n_groups", default=1)
    return inner + 2 * groups * states, inner * states


def _first(settings: Mapping[str, Any], *keys: str, default: int = 0) -> int:
    """Return the first of these settings that is given; of one for each layer, the largest."""
    value = next((settings[key] for key in keys if settings.get(key)), default)
    if isinstance(value, list):
        value = max(value)
    return int(value) if isinstance(value, int | float) else default
