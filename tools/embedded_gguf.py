"""Writes the embedded model as .gguf files by the gguf package: `python -m tools.embedded_gguf
FOLDER [TYPE ...]`.

A folder to try files= with: F16, Q8_0, Q5_1, Q5_0, Q4_1 and Q4_0, or the types that are named after
the folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner_engine.embedded import MODEL_DIR

TYPES = ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
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
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
SPECIAL, NORMAL = 3, 1  # types of tokens


def main(arguments: Sequence[str]) -> None:
    """Write the files."""
    if not arguments:
        raise SystemExit("usage: python -m tools.embedded_gguf FOLDER [TYPE ...]")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:] or TYPES:
        print(write(folder / f"embedded-{name}.gguf", name))


def write(file: Path, type_name: str, folder: Path = MODEL_DIR) -> Path:
    """Write a Llama with matrices of one type, and of Q8_0 where rows do not divide into its
    blocks."""
    import gguf
    from safetensors.torch import load_file

    settings = json.loads((folder / "config.json").read_text())
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    writer.add_rope_dimension_count(settings.get("head_dim") or settings["hidden_size"] // heads)
    writer.add_rope_freq_base((settings.get("rope_parameters") or settings).get("rope_theta", 10000.0))
    writer.add_vocab_size(settings["vocab_size"])
    _add_tokenizer(writer, settings["vocab_size"], folder)
    wanted = gguf.GGMLQuantizationType[type_name]
    shards = (load_file(shard) for shard in sorted(folder.glob("*.safetensors")))
    for name, tensor in (item for shard in shards for item in shard.items()):
        stem, _, end = name.rpartition(".")
        inner = stem.removeprefix("model.layers.")
        prefix, part = (
            (f"blk.{inner.partition('.')[0]}.", inner.partition(".")[2]) if inner != stem else ("", stem)
        )
        if part.endswith(
            ("q_proj", "k_proj")
        ):  # llama.cpp rotates neighbours, transformers numbers half a head apart
            halves = tensor.view(heads if part.endswith("q_proj") else kv_heads, 2, -1, tensor.shape[1])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        numbers = tensor.float().numpy()
        if numbers.ndim == 1 or type_name == "F32":
            writer.add_tensor(f"{prefix}{NAMES[part]}.{end}", numbers)
            continue
        fits = numbers.shape[1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0
        kind = wanted if fits else gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{prefix}{NAMES[part]}.{end}", gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: Any, size: int, folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = [f"<unused{number}>" for number in range(size)]
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number] = token
    special = {it["id"]: it["content"] for it in tokenizer["added_tokens"]}
    for number, token in special.items():
        tokens[number] = token
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # single digits, and the rest by GPT-2's pattern
    writer.add_token_list(tokens)
    writer.add_token_types([SPECIAL if number in special else NORMAL for number in range(size)])
    writer.add_token_merges(
        [it if isinstance(it, str) else " ".join(it) for it in tokenizer["model"]["merges"]]
    )
    ids = {token: number for number, token in enumerate(tokens)}
    for key, add in (("eos_token", writer.add_eos_token_id), ("pad_token", writer.add_pad_token_id)):
        if (token := config.get(key)) is not None:
            add(ids[token])
    template = folder / "chat_template.jinja"
    writer.add_chat_template(config.get("chat_template") or template.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
