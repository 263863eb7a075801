"""Writes a Llama with random weights as a .gguf file, in the types of blocks that llama-quantize
gives each matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf_of import close, llama_writer

from runner_engine.models.gguf_types import TYPES, dequantize_blocks

MIXTURES = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}  # where some matrices have Q6_K
SPREAD = 0.02  # of the weights


def write(file: Path, shape: dict[str, Any], mixture: str, tokenizer_of: Path) -> Path:
    """Write the file unless it is there; the tokenizer is that of another file with as many
    tokens."""
    import gguf

    if file.is_file():
        return file
    hidden, inner, heads = (shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"])
    pairs, layers = shape["num_key_value_heads"], shape["num_hidden_layers"]
    partial = file.with_suffix(".partial")
    writer = llama_writer(partial, shape)
    for field in gguf.GGUFReader(tokenizer_of).fields.values():
        if field.name.startswith("tokenizer."):
            inside = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inside)
    most = MIXTURES.get(mixture, mixture)
    of_head = "Q8_0" if mixture == "Q8_0" else "Q6_K"
    sizes = {
        "attn_q": (hidden, hidden), "attn_k": (hidden * pairs // heads, hidden),
        "attn_v": (hidden * pairs // heads, hidden), "attn_output": (hidden, hidden),
        "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner),
    }  # fmt: skip

    def add(name: str, kind: str, outputs: int, inputs: int) -> None:
        weight = random_blocks(kind, outputs, inputs).numpy()
        writer.add_tensor(name, weight, raw_dtype=gguf.GGMLQuantizationType[kind])

    add("token_embd.weight", of_head, shape["vocab_size"], hidden)
    writer.add_tensor("output_norm.weight", torch.ones(hidden).numpy())
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", torch.ones(hidden).numpy())
        # as in llama-quantize's use_more_bits
        is_wider = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        for name, (outputs, inputs) in sizes.items():
            has_more = mixture in MIXTURES and is_wider and name in ("attn_v", "ffn_down")
            add(f"blk.{layer}.{name}.weight", "Q6_K" if has_more else most, outputs, inputs)
    close(writer)
    return partial.rename(file)


def random_blocks(kind: str, outputs: int, inputs: int, spread: float = SPREAD) -> torch.Tensor:
    """Return a matrix as a file stores it, uint8 [outputs, bytes], whose weights are about so far
    from 0."""
    of, random = TYPES[kind], torch.Generator().manual_seed(outputs + inputs)
    blocks = torch.randint(
        256, (outputs, inputs // of.inputs, of.stored_bytes), generator=random, dtype=torch.uint8
    )
    scales = blocks[..., of.scales_at : of.scales_at + 2 * of.scales]
    scales.copy_(torch.ones(of.scales, dtype=torch.float16).view(torch.uint8))
    wide = dequantize_blocks(blocks[:64].flatten(1), kind, inputs).square().mean().sqrt()
    scales.copy_((torch.ones(of.scales) * spread / wide).half().view(torch.uint8))
    return blocks.flatten(1)
