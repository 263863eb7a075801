"""Tiny models with recurrent layers, of random weights that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Lfm2Config,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

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
    "qwen3_next": lambda: Qwen3NextConfig(
        **PLAIN, head_dim=16, layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=32, linear_value_head_dim=16,
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32,
        mlp_only_layers=[1],
    ),
    "lfm2": lambda: Lfm2Config(**PLAIN, layer_types=["conv", "full_attention", "conv", "conv"], conv_L_cache=3),
}  # fmt: skip

# Sizes suit the kernels: widths of heads and channels are multiples of 16.
_MAMBA2: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 2}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
STATE_SPACES: dict[str, dict[str, Any]] = {  # what the config of each family of state spaces has beside PLAIN
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 2},
    "bamba": _MAMBA2 | {"attn_layer_indices": [1]},
    "granitemoehybrid": _MAMBA2
    | _EXPERTS
    | {
        "layer_types": ["mamba", "attention", "mamba", "mamba"], "num_local_experts": 4, "shared_intermediate_size": 32,
        "position_embedding_type": "rope",
    },
    "nemotron_h": _EXPERTS
    | {
        "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "head_dim": 16,
        "layers_block_type": ["mamba", "attention", "moe", "mamba"], "n_routed_experts": 4, "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 32, "moe_latent_size": None,
    },
    "falcon_h1": _MAMBA2
    | {
        "mamba_d_ssm": 128, "mamba_rms_norm": True, "ssm_in_multiplier": 0.8, "ssm_out_multiplier": 1.4,
        "ssm_multipliers": [0.8, 1.1, 0.9, 1.2, 0.7], "attention_in_multiplier": 1.3, "attention_out_multiplier": 0.6,
        "key_multiplier": 0.7, "mlp_multipliers": [0.9, 1.2], "embedding_multiplier": 1.5, "lm_head_multiplier": 0.5,
    },
    "zamba2": {
        "mamba_d_state": 16, "mamba_headdim": 16, "n_mamba_heads": 8, "mamba_ngroups": 2, "num_mem_blocks": 1,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "adapter_rank": 8, "num_key_value_heads": 4,
    },
    "mamba": {"state_size": 16, "time_step_rank": 4},
    "falcon_mamba": {"state_size": 16, "time_step_rank": 4},
    "jamba": _EXPERTS
    | {
        "mamba_d_state": 16, "mamba_dt_rank": 4, "attn_layer_offset": 1, "attn_layer_period": 4, "num_experts": 4,
        "expert_layer_offset": 1, "expert_layer_period": 2, "use_mamba_kernels": True,
    },
    "zamba": {
        "mamba_d_state": 16, "mamba_dt_rank": 4, "n_mamba_heads": 2, "num_key_value_heads": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    },
    "recurrent_gemma": {
        "lru_width": 64, "attention_window_size": 2048, "num_key_value_heads": 1, "tie_word_embeddings": False,
    },
}  # fmt: skip

_DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 32,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
}  # fmt: skip
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # other forms of a family
    "granite without experts": (
        "granitemoehybrid",
        STATE_SPACES["granitemoehybrid"]
        | {
            "num_local_experts": 0, "position_embedding_type": "nope", "residual_multiplier": 0.5,
            "embedding_multiplier": 3.0, "logits_scaling": 2.0,
        },
    ),
    "olmo_hybrid": ("olmo_hybrid", _DELTA),
    "nemotron_h without experts": (
        "nemotron_h",
        STATE_SPACES["nemotron_h"] | {"layers_block_type": ["mamba", "mlp", "attention", "mlp", "mamba", "mamba"]},
    ),
    "mamba2 of one format": ("mamba2", STATE_SPACES["mamba2"] | {"residual_in_fp32": False}),
    "mamba of one format": ("mamba", STATE_SPACES["mamba"] | {"residual_in_fp32": False}),
}  # fmt: skip
# those whose forward pass is a single call of C
SINGLE_CALL = (*HYBRIDS, "bamba", "granitemoehybrid", "nemotron_h", "falcon_h1", "jamba", *VARIANTS)


def settings_of(family: str) -> Any:
    """Return the config of a tiny model."""
    if family in VARIANTS:
        model_type, own = VARIANTS[family]
        return AutoConfig.for_model(model_type, **PLAIN | own)
    if family in HYBRIDS:
        return HYBRIDS[family]()
    return AutoConfig.for_model(family, **PLAIN | STATE_SPACES[family])


def save_hybrid(folder: Path, family: str, tokenizer: Path, seed: int = 0) -> Path:
    """Save such a model with the byte-level tokenizer."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(settings_of(family))
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
            elif name.endswith("linear_out.weight"):
                parameter.mul_(8)  # of RecurrentGemma: or the last token alone would decide
