"""Writes a Llama's folder as a .gguf file: for timing without tokenizer, for texts with that of the
embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
# special tokens in a file with tokenizer
CALLED = {"<|im_end|>": "<|turn_end|>", "<|endoftext|>": "<|all_end|>"}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_of(folder: Path, dtype: str, into: Path, whole: int = 1, has_tokenizer: bool = False) -> Path:
    """Write the model into a folder, unless it is there already; return the file.

    whole: feed-forward layers are padded with zeros to a multiple of so many numbers, which changes
    no answer.
    """
    file = into / f"{folder.name}-{dtype}{'-with-tokenizer' * has_tokenizer}.gguf"
    if file.is_file():
        return file
    into.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if settings["model_type"] != "llama":
        raise SystemExit(
            f"{folder}: only a Llama is written as .gguf here, and this is {settings['model_type']}"
        )
    partial = file.with_suffix(".partial")
    inner = -(-settings["intermediate_size"] // whole) * whole
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    writer = llama_writer(partial, settings | {"intermediate_size": inner})
    if has_tokenizer:
        _add_tokenizer(writer, folder)
    else:
        writer.add_tokenizer_model("none")
    for shard in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(shard).items():
            if name.endswith("q_proj.weight"):
                tensor = _side_by_side(tensor, heads)
            elif name.endswith("k_proj.weight"):
                tensor = _side_by_side(tensor, kv_heads)
            elif name.endswith(("gate_proj.weight", "up_proj.weight")):
                tensor = torch.nn.functional.pad(tensor, (0, 0, 0, inner - tensor.shape[0]))
            elif name.endswith("down_proj.weight"):
                tensor = torch.nn.functional.pad(tensor, (0, inner - tensor.shape[1]))
            _add(writer, name_in_file(name), tensor, dtype)
    close(writer)
    return partial.rename(file)


def llama_writer(file: Path, settings: dict[str, Any]) -> Any:
    """Return a writer of a .gguf file that has the settings of a Llama's config.json in its
    header."""
    import gguf

    writer, heads = gguf.GGUFWriter(file, "llama"), settings["num_attention_heads"]
    rope = settings.get("rope_parameters") or settings
    writer.add_context_length(settings.get("max_position_embeddings", 2048))
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(settings["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(settings.get("rms_norm_eps", 1e-5))
    writer.add_rope_dimension_count(settings.get("head_dim") or settings["hidden_size"] // heads)
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_vocab_size(settings["vocab_size"])
    return writer


def close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, folder: Path) -> None:
    """Write a tokenizer of byte pairs that splits as SmolLM's does.

    Its special tokens are marked as the user's own, and called otherwise where llama.cpp knows the
    name: its programs find no others in a text.
    """
    import gguf

    stored = json.loads((folder / "tokenizer.json").read_text())
    own, is_special = (stored["model"]["vocab"], {token["content"] for token in stored["added_tokens"]})
    tokens = sorted(own, key=own.__getitem__)
    types = [
        gguf.TokenType.USER_DEFINED if token in is_special else gguf.TokenType.NORMAL for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([CALLED.get(token, token) for token in tokens])
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in stored["model"]["merges"]])
    settings = json.loads((folder / "config.json").read_text())
    writer.add_eos_token_id(settings["eos_token_id"])
    writer.add_pad_token_id(settings["pad_token_id"])
    writer.add_add_bos_token(False)


def name_in_file(name: str) -> str:
    """Return what a .gguf file calls a weight of a Llama."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def _side_by_side(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the two numbers that rope rotates together next to each other: transformers stores them
    half a head apart."""
    halves = weight.view(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def _add(writer: Any, name: str, tensor: torch.Tensor, dtype: str) -> None:
    import gguf

    if tensor.dim() == 1 or dtype == "float32":  # norms are always wide
        writer.add_tensor(name, tensor.float().numpy())
        return
    numbers = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    writer.add_tensor(name, numbers, raw_dtype=gguf.GGMLQuantizationType.BF16)
