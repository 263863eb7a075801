"""The shapes that `python bench/engine/hybrids.py` measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from state_space_shapes import SHAPES as STATE_SPACES
from state_space_shapes import WITHOUT_ATTENTION

__all__ = ["SHAPES", "WITHOUT_ATTENTION", "with_sizes"]

VOCABULARY = 16_384


def qwen3_5(layers: int) -> Any:
    """Return the shape of Qwen3.5-0.8B: three layers of the gated delta rule, then one that
    attends."""
    from transformers import Qwen3_5TextConfig

    return Qwen3_5TextConfig(
        hidden_size=1024, intermediate_size=3584, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=2, head_dim=256, linear_num_key_heads=16, linear_num_value_heads=16,
        linear_key_head_dim=128, linear_value_head_dim=128, vocab_size=VOCABULARY, max_position_embeddings=4096,
        eos_token_id=2, pad_token_id=0, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip


def lfm2(layers: int) -> Any:
    """Return the shape of LFM2-350M: ten of its sixteen layers are short convolutions."""
    from transformers import Lfm2Config

    kinds = ["conv", "conv", "full_attention", "conv", "conv", "full_attention", "conv", "conv"] * (
        layers // 8 + 1
    )
    return Lfm2Config(
        hidden_size=1024, intermediate_size=4608, block_auto_adjust_ff_dim=False, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=8, layer_types=kinds[:layers], vocab_size=VOCABULARY,
        max_position_embeddings=4096, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip


def with_sizes(config: Any, vocabulary: int) -> Any:
    """Return a config with another vocabulary."""
    config.vocab_size = vocabulary
    return config


SHAPES: dict[str, Callable[[int], Any]] = {"Qwen3.5-0.8B": qwen3_5, "LFM2-350M": lfm2, **STATE_SPACES}
