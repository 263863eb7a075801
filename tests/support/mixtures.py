"""Small mixtures of experts of many families, with random weights in float32."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

PLAIN = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
    "tie_word_embeddings": False, "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
SHARED = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_moe": ("Qwen3MoeConfig", {"num_experts": 8}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 8}),
    "gpt_oss": ("GptOssConfig", {"num_local_experts": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    "granitemoe": ("GraniteMoeConfig", {"num_local_experts": 8}),
    "deepseek_v3": (
        "DeepseekV3Config",
        SHARED
        | {
            "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32,
        },
    ),
    "olmoe": ("OlmoeConfig", {"num_experts": 8}),
    "qwen3_5_moe": (
        "Qwen3_5MoeTextConfig",
        {
            "num_experts": 8, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
            "linear_num_value_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
            "shared_expert_intermediate_size": 64,
        },
    ),
    "glm4_moe": ("Glm4MoeConfig", SHARED),
    "llama4": (
        "Llama4TextConfig", {"num_local_experts": 8, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 64},
    ),
    "nemotron_h": (
        "NemotronHConfig",
        SHARED
        | {
            "layers_block_type": ["attention", "moe"], "moe_shared_expert_intermediate_size": 64, "mamba_num_heads": 4,
            "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 1, "moe_latent_size": None,
        },
    ),
}  # fmt: skip


def mixture(family: str, **keys: Any) -> Any:
    """Build a mixture; biases, which begin as zeros, are random, too."""
    name, own = MIXTURES[family]
    torch.manual_seed(0)
    model = (
        AutoModelForCausalLM.from_config(getattr(transformers, name)(**(PLAIN | own | keys))).float().eval()
    )
    with torch.no_grad():
        for path, numbers in model.named_parameters():
            if path.endswith("bias"):
                numbers.normal_(0, 0.1)
            elif ".experts." in path:
                # as large as the rest, so that an exchanged expert is seen
                numbers.normal_(0, 0.15)
    return model
