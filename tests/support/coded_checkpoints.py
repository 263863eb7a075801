"""Tiny Llamas of float8, four-bit and ternary weights, as fp8, fbgemm_fp8, compressed-tensors and
BitNet store them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import quantized_llama
import torch
from quantized_llama import Tensors, compressed_tensors

TOKEN: dict[str, Any] = {
    "num_bits": 8,
    "type": "float",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
}
GROUP: dict[str, Any] = TOKEN | {"strategy": "group", "group_size": 32}
STATIC: dict[str, Any] = TOKEN | {"strategy": "tensor", "dynamic": False}


def scheme(rows: Any, strategy: str = "channel", **extra: Any) -> dict[str, Any]:
    """The quantization_config of compressed-tensors; a size of blocks or groups belongs to the
    weights."""
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, "dynamic": False}
    weights |= {key: extra.pop(key) for key in ("group_size", "block_structure") if key in extra}
    group = {"weights": weights, "input_activations": rows, "format": "float-quantized"}
    return compressed_tensors("float-quantized", group, **extra)


def float4_scheme(form: str, group: int, rows: Any = None) -> dict[str, Any]:
    """The quantization_config of compressed-tensors' four-bit floats."""
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": group}
    weights |= (
        {"strategy": "tensor_group", "scale_dtype": "torch.float8_e4m3fn"}
        if group == 16
        else {"strategy": "group"}
    )
    return compressed_tensors(form, {"weights": weights, "input_activations": rows, "format": form})


LOCAL: dict[str, Any] = {
    "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16, "dynamic": "local",
    "scale_dtype": "torch.float8_e4m3fn",
}  # fmt: skip
BLOCKS: dict[str, Any] = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [64, 32],
}
STORED: dict[str, dict[str, Any]] = {
    "fp8": BLOCKS,
    "fp8_exponents": BLOCKS | {"scale_fmt": "ue8m0"},
    "fp8_tensor": {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
    "fbgemm_fp8": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
    "float_quantized": scheme(TOKEN),
    "float_quantized_tensor": scheme(STATIC, "tensor"),
    "float_quantized_weights": scheme(None),
    "float_quantized_blocks": scheme(GROUP, "block", block_structure=[64, 32]),
    "mxfp4_pack_quantized": float4_scheme("mxfp4-pack-quantized", 32),
    "nvfp4_pack_quantized": float4_scheme("nvfp4-pack-quantized", 16),
    "nvfp4_pack_quantized_rows": float4_scheme("nvfp4-pack-quantized", 16, LOCAL),
    "bitnet": {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]},
    "bitnet_multiplied": {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
        "modules_to_not_convert": ["lm_head"],
    },
}  # fmt: skip
CHOICES = (
    "fp8", "fbgemm_fp8", "float_quantized", "nvfp4_pack_quantized", "mxfp4_pack_quantized", "bitnet",
)  # fmt: skip
CHOICE_OF = {name: next(one for one in CHOICES if name.startswith(one)) for name in STORED}


def tensors_of(name: str, outputs: int, inputs: int, random: torch.Generator) -> Tensors:
    """Return the tensors of a layer."""
    if name.startswith("bitnet"):
        return ternary(outputs, inputs, random, 2.0 if name == "bitnet" else 0.04)
    if CHOICE_OF[name].endswith("fp4_pack_quantized"):
        return float4(name, outputs, inputs, random)
    codes = torch.randint(0, 256, (outputs, inputs), generator=random, dtype=torch.uint8)
    codes[(codes & 127) == 127] = 0  # NaN
    has_blocks, has_one = (
        name in ("fp8", "fp8_exponents", "float_quantized_blocks"),
        name.endswith("_tensor"),
    )
    shape = (-(-outputs // 64), -(-inputs // 32)) if has_blocks else (1,) if has_one else (outputs, 1)
    scale = (torch.rand(shape, generator=random) + 0.2) * 0.2 / 448
    is_ours = CHOICE_OF[name] == "float_quantized"
    tensors = {"weight": codes.view(torch.float8_e4m3fn)}
    if name == "fp8_exponents":
        scale = scale.to(torch.float8_e8m0fnu)
    tensors["weight_scale" if CHOICE_OF[name] != "fp8" else "weight_scale_inv"] = (
        scale.bfloat16() if is_ours else scale
    )
    if has_one:
        small = torch.tensor([0.02])
        tensors["input_scale" if is_ours else "activation_scale"] = small.bfloat16() if is_ours else small
    return tensors


def float4(name: str, outputs: int, inputs: int, random: torch.Generator) -> Tensors:
    """Return the tensors of a layer of four-bit floats."""
    packed = torch.randint(0, 256, (outputs, inputs // 2), generator=random, dtype=torch.uint8)
    if name.startswith("mxfp4"):
        exponents = torch.randint(119, 123, (outputs, inputs // 32), generator=random, dtype=torch.uint8)
        return {"weight_packed": packed, "weight_scale": exponents}
    scale = (torch.rand(outputs, inputs // 16, generator=random) * 400 + 1).to(torch.float8_e4m3fn)
    tensors = {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": torch.tensor([12000.0])}
    return tensors | ({"input_global_scale": torch.tensor([500.0])} if name.endswith("_rows") else {})


def ternary(outputs: int, inputs: int, random: torch.Generator, scale: float) -> Tensors:
    """Return the tensors of a layer of BitNet: the codes of output o are in row o % (outputs /
    4)."""
    codes = torch.randint(0, 3, (4, outputs // 4, inputs), generator=random, dtype=torch.uint8)
    packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    return {"weight": packed, "weight_scale": torch.tensor([scale], dtype=torch.bfloat16)}


def save(folder: Path, name: str, **settings: Any) -> None:
    """Save a Llama of two layers in this format."""
    random = torch.Generator().manual_seed(0)

    def layer(path: str, outputs: int, inputs: int) -> Tensors:
        return tensors_of(name, outputs, inputs, random)

    quantized_llama.save(folder, STORED[name], layer, **settings)
