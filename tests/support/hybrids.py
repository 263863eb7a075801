"""Tiny models with recurrent layers, of random weights that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Lfm2Config, Qwen3_5TextConfig

PLAIN: dict[str, Any] = {
    "vocab_size": 259, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.2, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
HYBRIDS: dict[str, Any] = {
    "qwen3_5": lambda: Qwen3_5TextConfig(
        **PLAIN, head_dim=16, layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
    ),
    "lfm2": lambda: Lfm2Config(**PLAIN, layer_types=["conv", "full_attention", "conv", "conv"], conv_L_cache=3),
}  # fmt: skip


def save_hybrid(folder: Path, family: str, tokenizer: Path, seed: int = 0) -> Path:
    """Save such a model with the byte-level tokenizer."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(HYBRIDS[family]())
    slow_decay(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def slow_decay(model: Any) -> None:
    """Let states forget little, so that what is wrong in one shows much later."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.linspace(-4, -1, parameter.numel()).view_as(parameter))
