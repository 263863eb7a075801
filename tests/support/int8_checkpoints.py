"""Tiny Llamas of int8 weights as compressed-tensors stores them (int-quantized), with or without
int8 rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import quantized_llama
import torch
from quantized_llama import Tensors, compressed_tensors

DYNAMIC: dict[str, Any] = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
}
STATIC: dict[str, Any] = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "tensor",
    "dynamic": False,
}


def scheme(rows: Any, strategy: str = "channel", **extra: Any) -> dict[str, Any]:
    """The quantization_config of compressed-tensors."""
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": strategy, "dynamic": False}
    group = {"weights": weights, "input_activations": rows, "format": "int-quantized"}
    return compressed_tensors("int-quantized", group, **extra)


STORED: dict[str, dict[str, Any]] = {
    "dynamic": scheme(DYNAMIC, sparsity_config={"format": "dense"}),
    "dynamic_tensor": scheme(DYNAMIC, "tensor"),
    "static": scheme(STATIC),
    "static_zeros": scheme({**STATIC, "symmetric": False}),
    "weights_only": scheme(None),
}


def save(folder: Path, name: str, **settings: Any) -> None:
    """Save a Llama of two layers in this format."""
    random = torch.Generator().manual_seed(0)

    def layer(path: str, outputs: int, inputs: int) -> Tensors:
        has_one = name == "dynamic_tensor"
        scale = ((torch.rand(1 if has_one else outputs, 1, generator=random) + 0.2) * 0.2 / 256).bfloat16()
        codes = torch.randint(-128, 128, (outputs, inputs), generator=random, dtype=torch.int8)
        tensors = {"weight": codes, "weight_scale": scale.flatten() if has_one else scale}
        if name.startswith("static"):
            tensors["input_scale"] = torch.tensor([0.03], dtype=torch.bfloat16)
        if name == "static_zeros":
            tensors["input_zero_point"] = torch.tensor([-7], dtype=torch.int8)
        return tensors

    quantized_llama.save(folder, STORED[name], layer, **settings)
