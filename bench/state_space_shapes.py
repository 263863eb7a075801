"""Shapes of families of state spaces for `python bench/engine/hybrids.py`: a pure one, and what
hybrids add to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VOCABULARY = 16_384
PLAIN: dict[str, Any] = {
    "vocab_size": VOCABULARY, "max_position_embeddings": 4096, "eos_token_id": 2, "pad_token_id": 0,
    "bos_token_id": None, "tie_word_embeddings": True,
}  # fmt: skip


def mamba2(layers: int) -> Any:
    """Return the shape of Mamba-2 130M: no layer attends."""
    from transformers import Mamba2Config

    return Mamba2Config(
        **PLAIN,
        hidden_size=768,
        num_heads=24,
        head_dim=64,
        state_size=128,
        n_groups=1,
        num_hidden_layers=layers,
    )


def granite(layers: int) -> Any:
    """Return the shape of Granite 4 H Tiny with a quarter of its experts: one layer in four attends
    here."""
    from transformers import GraniteMoeHybridConfig

    kinds = ["mamba", "mamba", "mamba", "attention"] * (layers // 4 + 1)
    return GraniteMoeHybridConfig(
        **PLAIN, hidden_size=1536, intermediate_size=512, shared_intermediate_size=1024, num_hidden_layers=layers,
        layer_types=kinds[:layers], num_attention_heads=12, num_key_value_heads=4, num_local_experts=16,
        num_experts_per_tok=6, mamba_n_heads=48, mamba_d_head=64, mamba_d_state=128, mamba_n_groups=1,
    )  # fmt: skip


def falcon_h1(layers: int) -> Any:
    """Return the shape of Falcon-H1 0.5B: each layer attends, and has a state."""
    from transformers import FalconH1Config

    return FalconH1Config(
        **PLAIN, hidden_size=1024, intermediate_size=2048, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=2, mamba_d_ssm=1536, mamba_n_heads=24, mamba_d_head=64, mamba_d_state=128,
        mamba_n_groups=1, mamba_rms_norm=False,
    )  # fmt: skip


def mamba(layers: int) -> Any:
    """Return the shape of Mamba 130M."""
    from transformers import MambaConfig

    return MambaConfig(**PLAIN, hidden_size=768, state_size=16, time_step_rank=48, num_hidden_layers=layers)


SHAPES: dict[str, Callable[[int], Any]] = {
    "Mamba2-130M": mamba2,
    "Granite-4-H-Tiny": granite,
    "Falcon-H1-0.5B": falcon_h1,
    "Mamba-130M": mamba,
}
WITHOUT_ATTENTION = ("Mamba2-130M", "Mamba-130M")  # SDPA is refused for them
