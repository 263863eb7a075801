"""Tiny models of random weights, and .gguf files of them by the rules of llama.cpp's converter.

The names of tensors are those of the gguf package; what the converter changes in weights is in
FAMILIES. Nothing here is taken from runner's own reader, which undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf_keys import (
    Keys,
    experts,
    falcon,
    gated_delta,
    gemma4,
    granite,
    head,
    hybrid_keys,
    latent,
    local_experts,
    mamba2,
    mrope,
    nemotron,
    rotated,
    routed,
    shared_expert,
    short_conv,
    short_conv_experts,
    windows,
)  # fmt: skip
from gguf_rope import divisors_of, rope_divisors, rope_keys
from gguf_rules import (
    Named,
    Rule,
    as_they_are,
    deepseek,
    falcon_h1,
    gemma,
    gpt_oss,
    granite_hybrid,
    lfm2,
    mamba,
    nemotron_h,
    paired,
    phi3,
    qwen3_next,
    qwen35,
)  # fmt: skip
from tiny_gguf import MERGES, SPECIAL, TOKENS
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": len(TOKENS), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@dataclass(frozen=True)
class Family:
    """A family's architecture in llama.cpp, the settings of a tiny model, and what the converter
    does."""

    architecture: str
    sizes: dict[str, Any] = field(default_factory=dict)
    rule: Rule = as_they_are
    keys: Callable[[Any], Keys] = lambda _config: {}  # beyond those that all files have
    model_type: str = ""  # of transformers, where the family's name is another


MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
DELTA = {
    "head_dim": 32, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "rope_parameters": {**ROPE, "partial_rotary_factor": 0.25},
}  # fmt: skip
MLA = {
    "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
    "n_group": 1, "topk_group": 1,
}  # fmt: skip
GRANITE = {
    "attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_expand": 2}
LLAMA3 = {
    **ROPE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
YARN = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONGROPE = {
    **ROPE, "rope_type": "longrope", "original_max_position_embeddings": 256,
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0, 2.5], "long_factor": [1.1, 1.3, 1.8, 2.6, 3.9, 6.0, 9.0, 12.0],
}  # fmt: skip
HYBRID = ["linear_attention", "full_attention", "linear_attention"]
NEMOTRON = {
    "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 16, "head_dim": 16,
    "n_routed_experts": 8, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 64,
    "num_hidden_layers": None,
}  # fmt: skip
FAMILIES = {
    "llama_llama3": Family("llama", {"rope_parameters": LLAMA3}, paired, rotated, "llama"),
    "llama_linear": Family("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}, paired, rotated, "llama"),
    "llama_yarn": Family("llama", {"rope_parameters": YARN}, paired, rotated, "llama"),
    "phi3_longrope": Family("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 256, "pad_token_id": 0},
                            phi3, rotated, "phi3"),
    "qwen3": Family("qwen3", {"head_dim": 32}, keys=head),
    "granite": Family("granite", GRANITE, paired, granite),
    "olmo2": Family("olmo2"),
    "olmo3": Family("olmo2", {"sliding_window": 8, "num_hidden_layers": 5}, keys=lambda config: windows(config) | {
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
    }),
    "cohere2": Family("cohere2", {"logit_scale": 0.25, "sliding_window": 8, "num_hidden_layers": 5}, keys=lambda config: windows(config) | {
        "logit_scale": config.logit_scale, "rope.dimension_count": config.head_dim,
        "attention.layer_norm_epsilon": config.layer_norm_eps, "rope.scaling.type": "none",
    }),
    "glm4": Family("glm4", {"head_dim": 16, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}},
                   keys=lambda config: head(config) | {"rope.dimension_count": 8}),
    "gemma2": Family("gemma2", {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16}, gemma,
                     lambda config: head(config) | windows(config) | {
        "attn_logit_softcapping": config.attn_logit_softcapping, "final_logit_softcapping": config.final_logit_softcapping,
    }),
    "gemma3_text": Family("gemma3", {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16, "num_hidden_layers": 7},
                          gemma, lambda config: head(config) | windows(config) | {"rope.freq_base": 1000000.0}),
    "gemma4_text": Family("gemma4", {
        "head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 32, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "num_hidden_layers": 4, "vocab_size_per_layer_input": len(TOKENS), "num_kv_shared_layers": 2,
    }, keys=gemma4),
    "mixtral": Family("llama", {"num_local_experts": 8}, paired, lambda config: local_experts(config) | {"rope.dimension_count": 16}),
    "granitemoe": Family("granitemoe", {**GRANITE, "num_local_experts": 8}, paired, lambda config: granite(config) | local_experts(config)),
    "qwen2_moe": Family("qwen2moe", {**MOE, "shared_expert_intermediate_size": 64}, keys=shared_expert),
    "qwen3_moe": Family("qwen3moe", {**MOE, "head_dim": 32, "norm_topk_prob": True}, keys=lambda config: head(config) | {
        "expert_count": config.num_local_experts, "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size,
    }),
    "olmoe": Family("olmoe", {"num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 32}, keys=experts),
    "gpt_oss": Family("gpt-oss", {
        "head_dim": 16, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 8, "rope_parameters": ROPE,
        "intermediate_size": 32,
    }, gpt_oss, lambda config: head(config) | windows(config) | local_experts(config) | {
        "expert_feed_forward_length": config.intermediate_size,
    }),
    "glm4_moe": Family("glm4moe", {
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
        "head_dim": 16, "use_qk_norm": True, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5},
        "routed_scaling_factor": 1.5,
    }, keys=lambda config: head(config) | routed(config) | {"rope.dimension_count": 8, "expert_gating_func": 2}),
    "deepseek_v2": Family("deepseek2", {**MLA, "num_hidden_layers": 27, "q_lora_rank": None, "n_group": None, "topk_group": None}, deepseek, latent),
    "deepseek_v3": Family("deepseek2", {**MLA, "q_lora_rank": 32}, deepseek, latent),
    "qwen3_5_text": Family("qwen35", DELTA, qwen35, mrope),
    "qwen3_5_moe_text": Family("qwen35moe", {**DELTA, **MOE, "shared_expert_intermediate_size": 32}, qwen35,
                               lambda config: mrope(config) | shared_expert(config)),
    "qwen3_next": Family("qwen3next", {**DELTA, **MOE, "shared_expert_intermediate_size": 32}, qwen3_next,
                         lambda config: gated_delta(config) | shared_expert(config)),
    "lfm2": Family("lfm2", {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False}, lfm2, short_conv),
    "lfm2_moe": Family("lfm2moe", {**MOE, "layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
                       lfm2, short_conv_experts),
    "granitemoehybrid": Family("granitehybrid", {
        **GRANITE, **MAMBA, "num_local_experts": 8, "shared_intermediate_size": 32, "layer_types": HYBRID,
    }, granite_hybrid, hybrid_keys),
    "granitemoehybrid_dense": Family("granitehybrid", {
        **GRANITE, **MAMBA, "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 96,
        "layer_types": HYBRID,
    }, granite_hybrid, hybrid_keys),
    "nemotron_h": Family("nemotron_h", {**NEMOTRON, "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"]},
                         nemotron_h, nemotron),
    "nemotron_h_moe": Family("nemotron_h_moe", {**NEMOTRON, "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]},
                             nemotron_h, nemotron),
    "falcon_h1": Family("falcon-h1", {
        "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_groups": 1,
        "head_dim": 16, "key_multiplier": 0.5, "ssm_in_multiplier": 0.75, "mlp_multipliers": [1.5, 0.5],
        "ssm_multipliers": [0.5, 1.5, 0.75, 1.25, 2.0], "embedding_multiplier": 2.0, "lm_head_multiplier": 0.5,
        "mamba_norm_before_gate": False, "attention_out_multiplier": 0.75, "attention_in_multiplier": 1.25, "ssm_out_multiplier": 1.5,
        "tie_word_embeddings": False,
    }, falcon_h1, falcon),
    "mamba2": Family("mamba2", {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16}, mamba, mamba2),
}  # fmt: skip


def config_of(name: str, **more: Any) -> Any:
    """Return the config of a tiny model of a family."""
    sizes = {**SIZES, **FAMILIES[name].sizes, **more}
    kept = {
        key: value
        for key, value in sizes.items()
        if value is not None or key in ("q_lora_rank", "bos_token_id")
    }
    if FAMILIES[name].architecture in ("mamba2", "nemotron_h", "nemotron_h_moe"):
        kept.pop("num_hidden_layers", None) if name != "mamba2" else None
    return AutoConfig.for_model(
        FAMILIES[name].model_type or name.removesuffix("_dense").replace("_h_moe", "_h"), **kept
    )


LEARNED = ("layer_scalar", "e_score_correction_bias", "expert_bias")  # some of them are buffers


def tiny(name: str, seed: int = 0, **more: Any) -> Any:
    """Return a tiny model of a family whose weights are all random, norms and biases too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(name, **more), dtype=torch.float32).eval()
    with torch.no_grad():
        for path, weight in [*model.named_parameters(), *model.named_buffers()]:
            if path.endswith(LEARNED):
                weight.copy_(0.5 + 0.2 * torch.rand_like(weight))
            elif path.endswith("A_log"):
                weight.copy_(torch.rand_like(weight) * 1.5 - 1)
            elif not isinstance(weight, torch.nn.Parameter):
                continue
            elif "norm" in path or path.endswith((".D", "_scale", "router.scale")):
                weight.add_(0.2 * torch.randn_like(weight))
            elif weight.dim() == 1 and ("bias" in path or "sinks" in path):
                weight.copy_(0.3 * torch.randn_like(weight))
            elif weight.dim() > 1:
                weight.copy_(
                    torch.randn_like(weight) * (0.6 if "embed" in path else weight.shape[-1] ** -0.5)
                )
    return model


def write_gguf(
    path: Path,
    name: str,
    model: Any,
    kind: str | Callable[[str], str] = "F32",
    rope_tensors: dict[str, list[float]] | None = None,
    **changed: Any,
) -> Path:
    """Write a model as the converter does; matrices in blocks of a type, or in the one that each
    name gets.

    rope_tensors: instead of the divisors of frequencies that the model's config leads to.
    """
    family, config = FAMILIES[name], model.config
    writer = gguf.GGUFWriter(path, family.architecture)
    for key, value in {**_keys(name, config), **changed}.items():
        _add(writer, f"{family.architecture}.{key}", value)
    _add_tokenizer(writer, config.vocab_size)
    of_rope = rope_divisors(model.config) if rope_tensors is None else divisors_of(rope_tensors)
    for tensor, values in [*tensors_of(name, model), *of_rope]:
        wanted = kind if isinstance(kind, str) else kind(tensor)
        packed = gguf.GGMLQuantizationType[wanted]
        is_matrix = (
            values.ndim > 1 and tensor.endswith(".weight") and not any(word in tensor for word in PLAIN)
        )
        if not is_matrix or wanted == "F32":
            writer.add_tensor(tensor, np.ascontiguousarray(values, dtype=np.float32))
        else:
            writer.add_tensor(
                tensor, gguf.quants.quantize(np.ascontiguousarray(values), packed), raw_dtype=packed
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# which llama.cpp never quantizes
PLAIN = ("ssm_conv1d", "shortconv.conv", "ffn_gate_inp", "ssm_norm")


def tensors_of(name: str, model: Any) -> Iterator[Named]:
    """Return the tensors of a file, by their names there."""
    family, config = FAMILIES[name], model.config
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == family.architecture)
    names = gguf.get_tensor_name_map(number, 32)
    weights = model.state_dict()
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    for path, tensor in weights.items():
        for own, values in family.rule(path, tensor.float().numpy(), config):
            found = (
                own
                if own.startswith(("blk.", "output", "token_embd"))
                else names.get_name(own, (".weight", ".bias"))
            )
            assert found is not None, own
            yield found, values
    if family.architecture == "gemma4":  # the share of a head that is not rotated has huge factors
        half = config.per_layer_config[1].head_dim // 2
        yield (
            "rope_freqs.weight",
            np.array([1.0] * (half // 4) + [1e30] * (half - half // 4), dtype=np.float32),
        )


def _keys(name: str, config: Any) -> Keys:
    """Return the keys of all files, and those of this one."""
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    keys: Keys = {
        "context_length": 512, "embedding_length": config.hidden_size,
        "block_count": getattr(config, "num_hidden_layers", 0),
        "feed_forward_length": getattr(config, "intermediate_size", None),
        "attention.head_count": getattr(config, "num_attention_heads", None),
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None),
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", getattr(config, "norm_eps", None)),
        "rope.freq_base": rope.get("rope_theta"), "vocab_size": config.vocab_size,
    }  # fmt: skip
    return {**keys, **rope_keys(config), **FAMILIES[name].keys(config)}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    unused = [f"<unused {number}>" for number in range(len(TOKENS), vocabulary)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([*TOKENS, *unused])
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)) + [5] * len(unused))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
