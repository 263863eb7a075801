"""What a .gguf file calls otherwise than transformers does: the settings of a model and its weights.

For the architectures that are known here, all of it comes from the header that gguf_file.py has read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_engine.checkpoints.gguf_file import Header

MODEL_TYPES = {"gemma3": "gemma3_text"}  # other architectures have the name of transformers' model type
SETTINGS = {
    "block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
}  # fmt: skip
RMS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
VOCABULARY, THETA = {"vocab_size": "vocab_size"}, {"rope.freq_base": "rope_theta"}
GEMMA = {**RMS, **VOCABULARY, **THETA, "attention.key_length": "head_dim", "attention.sliding_window": "sliding_window"}
OWN_SETTINGS = {
    "llama": {**RMS, **VOCABULARY, **THETA, "rope.dimension_count": "head_dim"},
    "qwen2": RMS | VOCABULARY | THETA,
    "qwen3": RMS | VOCABULARY | THETA,
    "phi3": RMS | VOCABULARY | THETA,
    "starcoder2": {"attention.layer_norm_epsilon": "norm_epsilon"},
    "stablelm": {**VOCABULARY, "attention.layer_norm_epsilon": "layer_norm_eps"},
    "gemma2": GEMMA,
    "gemma3": GEMMA,
}
# of byte pairs: each digit is a piece by itself, and the rest is cut by GPT-2's pattern (tokenizer.ggml.pre)
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}

WHOLE = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}  # fmt: skip
LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
GEMMA_LAYER = {
    "ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
OWN_LAYER = {
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "starcoder2": {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    "gemma2": GEMMA_LAYER,
    "gemma3": GEMMA_LAYER,
}


def settings_of(header: Header) -> dict[str, Any]:
    """Return what transformers makes a model's config from, `model_type` among it."""
    architecture, metadata = header.architecture, header.metadata
    names = [tensor.name for tensor in header.tensors]
    known = {f"{architecture}.{key}": name for key, name in (SETTINGS | OWN_SETTINGS[architecture]).items()}
    known |= {f"tokenizer.ggml.{its}_token_id": f"{ours}_token_id" for its, ours in SPECIAL_TOKENS.items()}
    found = {name: _single(metadata[key]) for key, name in known.items() if key in metadata}
    if "general.name" in metadata:
        found["_model_name_or_path"] = metadata["general.name"]
    if "vocab_size" not in found and "tokenizer.ggml.tokens" in metadata:
        found["vocab_size"] = metadata["tokenizer.ggml.tokens"]  # their number
    if architecture == "stablelm":
        found["use_qkv_bias"] = any(name.endswith(("attn_q.bias", "attn_k.bias", "attn_v.bias")) for name in names)
        found["use_parallel_residual"] = not any("ffn_norm" in name for name in names)
    model_type = MODEL_TYPES.get(architecture, architecture)
    return found | {"model_type": model_type, "tie_word_embeddings": "output.weight" not in names}


def weight_name(architecture: str, name: str) -> str | None:
    """Return how transformers calls a tensor of the file; None if it has no such weight."""
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    block, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    own = OWN_LAYER.get(architecture, {}).get(part) or LAYER.get(part)
    return f"model.layers.{layer}.{own}.{kind}" if block == "blk" and own else None


def _single(value: Any) -> Any:
    """Return the element of a list that has only one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def cuts_single_digits(metadata: Mapping[str, Any]) -> bool:
    """Whether a file's tokenizer cuts digits apart, which transformers' reading of such files does not do."""
    return metadata.get("tokenizer.ggml.pre") in SINGLE_DIGITS and metadata.get("tokenizer.ggml.model") == "gpt2"
