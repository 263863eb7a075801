"""Tiny checkpoints of many families and formats, saved by the libraries that users have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

LAYERS = 3
PLAIN = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OLDER = {key: PLAIN[key] for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": PLAIN,
    "mistral": PLAIN,
    "qwen2": PLAIN,
    "qwen3": PLAIN | {"head_dim": 8},
    "gemma": PLAIN | {"head_dim": 8},
    "phi3": PLAIN,
    "mixtral": PLAIN | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": PLAIN
    | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt_neox": {key: value for key, value in PLAIN.items() if key != "num_key_value_heads"},
    "gpt2": OLDER | {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64},
    "bloom": OLDER | {"hidden_size": 32, "n_layer": LAYERS, "n_head": 4},
    "opt": OLDER
    | {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 16,
    },
}


def build(family: str, **keys: Any) -> Any:
    """Build a model with random weights, the same ones for the same arguments."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(FAMILIES[family] | keys))).eval()


def save(
    folder: Path, family: str = "llama", dtype: str = "float32", shard: str = "1GB", **keys: Any
) -> Path:
    """Save like transformers: safetensors, in shards if `shard` is small."""
    build(family, **keys).to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    return folder


def save_bin(folder: Path, family: str = "llama", shards: int = 1, **keys: Any) -> Path:
    """Save the legacy format: a pickled state dict in which tied names share bytes, in shards with
    an index."""
    model = build(family, **keys)
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        names = [key for at, key in enumerate(state) if at * shards // len(state) == number]
        torch.save({key: state[key] for key in names}, folder / name)
        weight_map |= dict.fromkeys(names, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def save_packed(folder: Path, kind: str) -> Path:
    """Save a Llama with linear weights packed as in GPTQ, int8 or fp8 checkpoints."""
    save(folder, tie_word_embeddings=False)
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        rows, columns = tensor.shape[0], tensor.shape[-1]
        if "_proj" not in name:
            packed[name] = tensor.half()
        elif kind == "gptq":
            packed[f"{stem}.qweight"] = torch.randint(
                -(2**31), 2**31 - 1, (columns // 8, rows), dtype=torch.int32
            )
            packed[f"{stem}.qzeros"] = torch.randint(0, 2**31 - 1, (2, rows // 8), dtype=torch.int32)
            packed[f"{stem}.scales"] = torch.rand(2, rows).half()
            packed[f"{stem}.g_idx"] = torch.arange(columns, dtype=torch.int32)
        elif kind == "int8":
            packed[name] = (tensor * 500).to(torch.int8)
            packed[f"{stem}.SCB"] = tensor.abs().amax(-1)
        else:
            packed[name] = tensor.to(torch.float8_e4m3fn)
            packed[f"{stem}.weight_scale_inv"] = torch.rand(1, 1)
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_bitsandbytes(folder: Path, kind: str = "nf4") -> Path:
    """Save a Llama quantized by bitsandbytes: packed weights (nf4 or int8) with their constants."""
    from transformers import BitsAndBytesConfig

    plain = save(folder / "plain", hidden_size=128, intermediate_size=192, tie_word_embeddings=False)
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    settings = BitsAndBytesConfig(**(four_bit if kind == "nf4" else {"load_in_8bit": True}))
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings, device_map="cpu")
    model.save_pretrained(folder / kind)
    return folder / kind


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint, read by the libraries that users have."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    for file in sorted(folder.glob("*.bin")):
        tensors |= torch.load(file, weights_only=True)
    return tensors


def as_bytes(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor in memory, row by row."""
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def assert_same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """Compare names, dtypes, shapes and bytes of all tensors."""
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert (after[name].dtype, after[name].shape) == (tensor.dtype, tensor.shape), name
        assert as_bytes(after[name]) == as_bytes(tensor), name


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a folder's tokenizer.json."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    change(tokenizer)
    file.write_text(json.dumps(tokenizer))
