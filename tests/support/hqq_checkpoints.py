"""Tiny checkpoints as the package hqq 0.2.8 stores them through transformers, of the numbers that
our own HQQ makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import torch
from safetensors.torch import save_file

from runner_engine.models.layouts.hqq import ROWS_IN_ONE
from runner_engine.quantization.hqq import HqqConfig

PACKING = {8: "8bit_u8", 6: "8bit_u8", 5: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8"}
Tensors = dict[str, torch.Tensor]


def stored(**params: Any) -> dict[str, Any]:
    """Return the quantization_config of such a checkpoint."""
    weights = {
        "nbits": 4,
        "channel_wise": True,
        "group_size": 64,
        "optimize": True,
        "round_zero": True,
        "axis": 1,
    }
    config = {"weight_quant_params": weights | {"view_as_float": False} | params, "offload_meta": False}
    return {"quant_method": "hqq", "quant_config": config, "skip_modules": ["lm_head"]}


def packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Put rows that lie far apart into one, the first in the upper bits; words of 3 bits are filled
    up with zeros."""
    in_one = ROWS_IN_ONE.get(bits, 1)
    rows = torch.nn.functional.pad(codes.to(torch.int32), (0, 0, 0, -len(codes) % in_one))
    parts = rows.chunk(in_one)
    result = torch.zeros_like(parts[0])
    for part in parts:
        result = result << bits | part if in_one > 1 else part
    return result if bits == 3 else result.to(torch.uint8)


def word(text: str) -> torch.Tensor:
    """Return letters as the package stores them."""
    return torch.tensor([ord(letter) for letter in text], dtype=torch.uint8)


def layer(weight: torch.Tensor, bits: int, group: int) -> Tensors:
    """Return the tensors of a layer, by the ends of their names."""
    made = HqqConfig(bits=bits, group_size=group).quantize_weight(weight)
    flags = {
        "view_as_float": 0,
        "quant_scale": 0,
        "quant_zero": 0,
        "offload_meta": 0,
        "encoded_state_dict": 1,
    }
    flags |= {"stores_quant_config": 1, "channel_wise": 1, "optimize": 1, "round_zero": int(bits == 4)}
    numbers = {"nbits": bits, "group_size": group, "axis": 1}
    return {
        "W_q": packed(made.codes.reshape(-1, group), bits),
        "scale": made.scales.reshape(-1, 1).clone(),
        "zero": made.zeros.reshape(-1, 1).clone(),
        "shape": torch.tensor(weight.shape),
        "packing": word(PACKING[bits]),
        "unpack_view_dtype": word("torch.int32" if bits == 3 else "torch.uint8"),
        "compute_dtype": word(str(weight.dtype)),
        **{name: torch.tensor(number, dtype=torch.int32) for name, number in numbers.items()},
        **{name: torch.tensor(flag, dtype=torch.uint8) for name, flag in flags.items()},
    }


def save(
    folder: Path,
    bits: int = 4,
    group: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    change: Callable[[Tensors], None] | None = None,
    **params: Any,
) -> None:
    """Write a tiny Llama whose blocks are quantized; change: what is done to its tensors before."""
    model = families.build("llama").to(dtype)
    tensors: Tensors = {}
    for name, tensor in model.state_dict().items():
        path, _, end = name.rpartition(".")
        if end == "weight" and path.endswith("_proj"):
            tensors |= {f"{path}.{last}": one for last, one in layer(tensor, bits, group).items()}
        else:
            tensors[name] = tensor.clone()
    if change is not None:
        change(tensors)
    save_file(
        {name: one.contiguous() for name, one in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    settings = model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    settings["quantization_config"] = stored(**({"nbits": bits, "group_size": group} | params))
    settings["architectures"] = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(settings))
