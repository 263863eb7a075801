"""Small models of the kinds that are run today: dense, windows, mixtures of experts, hybrids,
latent attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

PLAIN = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
WINDOWS = ["sliding_attention", "full_attention"] * 2
EXPERTS = {"num_experts_per_tok": 2, "intermediate_size": 128}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", {}),
    "qwen3_moe": ("Qwen3MoeConfig", {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 128}),
    "mixtral": ("MixtralConfig", EXPERTS | {"num_local_experts": 16}),
    "gpt_oss": ("GptOssConfig", EXPERTS | {"num_local_experts": 16, "layer_types": WINDOWS}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 16, "layer_types": WINDOWS, "tie_word_embeddings": True}),
    "qwen3_5": (
        "Qwen3_5TextConfig",
        {
            "layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_key_heads": 4,
            "linear_num_value_heads": 8, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
        },
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"] * 2}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            "n_routed_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_shared_experts": 1,
            "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 64, "kv_lora_rank": 64,
            "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32, "num_key_value_heads": 4,
        },
    ),
    "jetmoe": ("JetMoeConfig", EXPERTS | {"num_local_experts": 16, "kv_channels": 32}),
    "falcon": ("FalconConfig", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": False}),
    "gpt2": ("GPT2Config", {"n_inner": 256, "tie_word_embeddings": True}),
    "zamba2": (
        "Zamba2Config",
        {
            "layers_block_type": ["linear_attention", "hybrid"] * 2, "hybrid_layer_ids": [1, 3], "num_mem_blocks": 1,
            "n_mamba_heads": 32, "mamba_headdim": 8, "mamba_ngroups": 1, "attention_hidden_size": 256,
            "attention_head_dim": 64, "adapter_rank": 64, "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip

FOLLOWS = {"falcon": ("head_dim",)}  # what a kind computes from other keys


def save(folder: Path, kind: str, **keys: Any) -> Path:
    """Save a model with random weights in bfloat16, without a tokenizer."""
    name, own = KINDS[kind]
    torch.manual_seed(0)
    settings = {key: value for key, value in (PLAIN | own | keys).items() if key not in FOLLOWS.get(kind, ())}
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**settings))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder
