"""Checkpoints that are quantized already, written from a plain model in the layouts that people
download.

Weights are rounded to the nearest number of the format, which is what each tool does before it
improves on that. So speed and memory are those of real checkpoints, and what is lost is at most as
good.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from runner_engine.models.layouts.float4 import MIDDLES
from runner_engine.models.layouts.load_time import pack_bits

Tensors = dict[str, torch.Tensor]
GROUP = 64  # inputs that share a scale, where the format leaves that open
BLOCK = 128  # of fp8, in both directions
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
LARGEST_E4M3, LARGEST_E2M1 = 448, 6


@dataclass(frozen=True)
class Stored:
    """A format: the choice that loads it, its quantization_config, and the tensors of a linear
    layer."""

    choice: str
    settings: dict[str, Any]
    tensors: Callable[[torch.Tensor], Tensors]


def int8(weight: torch.Tensor) -> Tensors:
    """Bytes with a scale for each output."""
    scale = (weight.abs().amax(1, keepdim=True).float() / 127).bfloat16()
    numbers = (weight.float() / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return {"weight": numbers, "weight_scale": scale}


def four_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes of 0 to 15 around 8, uint8 [outputs, inputs], and scales in float16 [outputs,
    groups]."""
    groups = weight.float().unflatten(1, (-1, GROUP))  # type: ignore[no-untyped-call]
    scales = (groups.abs().amax(2) / 7).clamp(min=1e-6).half()
    codes = (groups / scales.float().unsqueeze(2)).round().clamp(-8, 7) + 8
    return codes.flatten(1).to(torch.uint8), scales


def gptq(weight: torch.Tensor) -> Tensors:
    """Words along inputs; zero points are stored minus one."""
    codes, scales = four_bits(weight)
    zeros = torch.full(scales.T.shape, 7, dtype=torch.uint8)
    order = (torch.arange(weight.shape[1]) // GROUP).int()
    words = {"qweight": pack_bits(codes, 4).T.contiguous(), "qzeros": _whole(zeros)}
    return words | {"scales": scales.T.contiguous(), "g_idx": order}


def awq(weight: torch.Tensor) -> Tensors:
    """Words along outputs, the even ones first."""
    codes, scales = four_bits(weight)
    zeros = torch.full(scales.T.shape, 8, dtype=torch.uint8)
    words = {"qweight": _whole(_awq_order(codes.T)), "qzeros": _whole(_awq_order(zeros))}
    return words | {"scales": scales.T.contiguous()}


def pack_quantized(weight: torch.Tensor) -> Tensors:
    """Words along inputs, without zero points."""
    codes, scales = four_bits(weight)
    shape = torch.tensor(weight.shape)
    return {"weight_packed": _whole(codes), "weight_scale": scales.bfloat16(), "weight_shape": shape}


def fp8(weight: torch.Tensor) -> Tensors:
    """Bytes of e4m3 with a scale for each block."""
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -inputs % BLOCK, 0, -outputs % BLOCK))
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK)
    scales = (blocks.abs().amax((1, 3), keepdim=True) / LARGEST_E4M3).clamp(min=1e-9)
    codes = (blocks / scales).reshape(padded.shape)[:outputs, :inputs]
    return {"weight": codes.to(torch.float8_e4m3fn), "weight_scale_inv": scales[:, 0, :, 0].contiguous()}


def float_quantized(weight: torch.Tensor) -> Tensors:
    """Bytes of e4m3 with a scale for each output."""
    scale = (weight.abs().amax(1, keepdim=True).float() / LARGEST_E4M3).bfloat16()
    codes = (weight.float() / scale.float()).clamp(-LARGEST_E4M3, LARGEST_E4M3)
    return {"weight": codes.to(torch.float8_e4m3fn), "weight_scale": scale}


def nvfp4(weight: torch.Tensor) -> Tensors:
    """Groups of 16 with scales in e4m3, of which the largest is the largest number there is."""
    groups = weight.float().unflatten(1, (-1, 16))  # type: ignore[no-untyped-call]
    tops = groups.abs().amax(2) / LARGEST_E2M1
    whole = (LARGEST_E4M3 / tops.max()).reshape(1)
    scales = (tops * whole).clamp(min=0.002).to(torch.float8_e4m3fn)
    codes = _e2m1(groups / (scales.float() / whole).unsqueeze(2))
    return {"weight_packed": codes, "weight_scale": scales, "weight_global_scale": whole}


def mxfp4(weight: torch.Tensor) -> Tensors:
    """Groups of 32 whose scales are powers of two."""
    groups = weight.float().unflatten(1, (-1, 32))  # type: ignore[no-untyped-call]
    # the largest value is 6, between 4 and 8
    exponents = groups.abs().amax(2).clamp(min=1e-30).log2().floor() - 2
    codes = _e2m1(groups / exponents.exp2().unsqueeze(2))
    return {"weight_packed": codes, "weight_scale": (exponents + 127).to(torch.uint8)}


def bitnet(weight: torch.Tensor) -> Tensors:
    """Codes of -1, 0 and 1 by the mean size; outputs are divided by the scale."""
    scale = 1 / weight.float().abs().mean().clamp(min=1e-5)
    codes = (
        ((weight.float() * scale).round().clamp(-1, 1) + 1).to(torch.uint8).reshape(4, -1, weight.shape[1])
    )
    packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    return {"weight": packed, "weight_scale": scale.reshape(1).bfloat16()}


def compressed(form: str, weights: dict[str, Any], rows: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a quantization_config of compressed-tensors."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": rows, "format": form}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
FLOAT8 = INT8 | {"type": "float"}
FLOAT4 = {"num_bits": 4, "type": "float", "symmetric": True}
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
OF_ROWS = {"strategy": "token", "dynamic": True}
FORMATS: dict[str, Stored] = {
    "W8A8": Stored("int_quantized", compressed("int-quantized", INT8, INT8 | OF_ROWS), int8),
    "W8A16": Stored("int_quantized", compressed("int-quantized", INT8), int8),
    "gptq": Stored("gptq", {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True}, gptq),
    "awq": Stored("awq", {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}, awq),
    "auto_round": Stored(
        "auto_round",
        {
            "quant_method": "auto-round",
            "bits": 4,
            "group_size": GROUP,
            "packing_format": "auto_round:auto_gptq",
        },
        gptq,
    ),
    "W4A16": Stored("pack_quantized", compressed("pack-quantized", INT4), pack_quantized),
    "FP8 W8A8": Stored(
        "float_quantized", compressed("float-quantized", FLOAT8, FLOAT8 | OF_ROWS), float_quantized
    ),
    "fbgemm_fp8": Stored("fbgemm_fp8", {"quant_method": "fbgemm_fp8"}, float_quantized),
    "fp8": Stored("fp8", {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}, fp8),
    "NVFP4": Stored(
        "nvfp4_pack_quantized", compressed("nvfp4-pack-quantized", FLOAT4 | {"group_size": 16}), nvfp4
    ),
    "MXFP4": Stored(
        "mxfp4_pack_quantized", compressed("mxfp4-pack-quantized", FLOAT4 | {"group_size": 32}), mxfp4
    ),
    "bitnet": Stored("bitnet", {"quant_method": "bitnet"}, bitnet),
}


def checkpoint_of(folder: Path, name: str, place: Path | None = None) -> Path:
    """Return the folder of a model's checkpoint in a format, written at first use."""
    into = (
        place or Path("~/.cache/runner/stored_of").expanduser()
    ) / f"{folder.name}-{name.replace(' ', '-')}"
    if not into.is_dir():
        partial = into.with_name(f".{into.name}")
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
        files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
        tensors = {
            key: one
            for file in files
            for path, whole in file.items()
            for key, one in stored(name, path, whole)
        }
        save_file(tensors, partial / "model.safetensors", {"format": "pt"})
        settings = json.loads((folder / "config.json").read_text()) | {
            "quantization_config": FORMATS[name].settings
        }
        (partial / "config.json").write_text(json.dumps(settings))
        partial.rename(into)
    return into


def stored(name: str, path: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return what a checkpoint holds of one of a model's tensors: weights of linear layers in the
    format."""
    if not path.endswith("proj.weight"):
        return [(path, tensor)]
    layer = path.removesuffix("weight")
    return [(f"{layer}{end}", one) for end, one in FORMATS[name].tensors(tensor).items()]


def _whole(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers of four bits in words."""
    return pack_bits(numbers.contiguous(), 4)[:, : numbers.shape[1] // 8].contiguous()


def _awq_order(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.reshape(len(numbers), -1, 8)[..., AWQ_ORDER].flatten(1)


def _e2m1(numbers: torch.Tensor) -> torch.Tensor:
    """Return the nearest codes, two in a byte."""
    codes = torch.bucketize(numbers.abs(), MIDDLES) + 8 * (numbers < 0)
    pairs = codes.flatten(1).to(torch.uint8).reshape(len(codes), -1, 2)
    return pairs[..., 0] | pairs[..., 1] << 4
