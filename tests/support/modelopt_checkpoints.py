"""Layers as NVIDIA's Model-Optimizer 0.47 exports them (modelopt/torch/export), and their weights
in float32."""

from __future__ import annotations

from typing import Any

import torch
from group_layers import E2M1

Tensors = dict[str, torch.Tensor]
PRODUCER = {"name": "modelopt", "version": "0.47.0"}


def settings(algorithm: str, **more: Any) -> dict[str, Any]:
    """Return the quantization_config in config.json."""
    return {
        "quant_method": "modelopt",
        "quant_algo": algorithm,
        "ignore": ["lm_head"],
        "producer": PRODUCER,
        **more,
    }


def own_file(algorithm: str, **more: Any) -> dict[str, Any]:
    """Return hf_quant_config.json, which is all that exports before 0.29 have."""
    said = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"], **more}
    return {"producer": PRODUCER, "quantization": said}


IN_FP8 = {"dynamic": False, "num_bits": 8, "type": "float"}
STORED: dict[str, dict[str, Any]] = {
    "modelopt_fp8": settings("FP8", kv_cache_scheme=IN_FP8),
    "modelopt_channels": settings("FP8_PER_CHANNEL_PER_TOKEN"),
    "modelopt_blocks": settings("FP8_PB_WO"),
    "modelopt_mxfp8": settings("MXFP8"),
    "modelopt_nvfp4": settings("W4A16_NVFP4"),
    "modelopt_nvfp4_rows": settings("NVFP4", kv_cache_scheme=IN_FP8),
    "modelopt_mixed": settings(
        "MIXED_PRECISION",
        quantized_layers={
            "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
            "model.layers.0.mlp.experts.0.gate_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
        },
    ),
}
ROUNDS_ROWS = ("modelopt_fp8", "modelopt_channels", "modelopt_nvfp4_rows")


def layer_of(
    name: str, path: str, outputs: int, inputs: int, random: torch.Generator
) -> tuple[Tensors, torch.Tensor]:
    """Return the tensors of a layer, and its weights."""
    if name == "modelopt_mixed":
        name = "modelopt_nvfp4" if ".experts." in path else "modelopt_tensor"
    made = (
        _nvfp4(name, outputs, inputs, random) if "nvfp4" in name else _float8(name, outputs, inputs, random)
    )
    if path.endswith((".k_proj", ".v_proj")) and STORED.get(name, {}).get("kv_cache_scheme"):
        made[0][f"{path[-6]}_scale"] = torch.tensor(0.5)
    return made


def _float8(name: str, outputs: int, inputs: int, random: torch.Generator) -> tuple[Tensors, torch.Tensor]:
    codes = torch.randint(0, 256, (outputs, inputs), generator=random, dtype=torch.uint8)
    codes[(codes & 127) == 127] = 0  # NaN
    weight = codes.view(torch.float8_e4m3fn)
    if name == "modelopt_mxfp8":
        exponents = torch.randint(112, 116, (outputs, inputs // 32), generator=random, dtype=torch.uint8)
        scale = torch.exp2(exponents.float() - 127)
        return {"weight": weight, "weight_scale": exponents}, weight.float() * scale.repeat_interleave(32, 1)
    blocks = -(-outputs // 128), -(-inputs // 128)
    shape = {"modelopt_channels": (outputs,), "modelopt_blocks": blocks}.get(name, ())
    scale = (torch.rand(shape, generator=random) + 0.2) * 0.2 / 448
    tensors = {"weight": weight, "weight_scale": scale}
    if name == "modelopt_channels":
        return tensors, weight.float() * scale[:, None]
    if name == "modelopt_blocks":
        tensors["weight_scale"] = scale[:, None, :, None].contiguous()
        whole = scale.repeat_interleave(128, 0)[:outputs].repeat_interleave(128, 1)[:, :inputs]
        return tensors, weight.float() * whole
    if name == "modelopt_fp8":
        tensors["input_scale"] = torch.tensor(0.02)
    return tensors, weight.float() * scale


def _nvfp4(name: str, outputs: int, inputs: int, random: torch.Generator) -> tuple[Tensors, torch.Tensor]:
    packed = torch.randint(0, 256, (outputs, inputs // 2), generator=random, dtype=torch.uint8)
    scale = (torch.rand(outputs, inputs // 16, generator=random) * 400 + 1).to(torch.float8_e4m3fn)
    tensors = {"weight": packed, "weight_scale": scale, "weight_scale_2": torch.tensor(1 / 12000)}
    if name.endswith("_rows"):
        tensors["input_scale"] = torch.tensor(1 / 500)
    numbers = E2M1[torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).int()]
    return tensors, numbers * (scale.float() * tensors["weight_scale_2"]).repeat_interleave(16, 1)
