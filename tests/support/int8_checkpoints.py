"""Tiny Llamas of int8 weights as compressed-tensors stores them (int-quantized), with or without int8 rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from families import settings as family_settings

DYNAMIC: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
STATIC: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}


def scheme(rows: Any, strategy: str = "channel", **extra: Any) -> dict[str, Any]:
    """The quantization_config of compressed-tensors."""
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": strategy, "dynamic": False}
    group: dict[str, Any] = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": rows,
        "output_activations": None,
    }
    group["format"] = "int-quantized"
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    } | extra


STORED: dict[str, dict[str, Any]] = {
    "dynamic": scheme(DYNAMIC, sparsity_config={"format": "dense"}),
    "dynamic_tensor": scheme(DYNAMIC, "tensor"),
    "static": scheme(STATIC),
    "static_zeros": scheme({**STATIC, "symmetric": False}),
    "weights_only": scheme(None),
}


def save(folder: Path, name: str, **settings: Any) -> None:
    """Save a Llama of two layers in this format."""
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    config = family_settings("llama", dtype="bfloat16", **settings)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    random = torch.Generator().manual_seed(0)
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and path != "lm_head":
            outputs = 1 if name == "dynamic_tensor" else module.out_features
            scale = ((torch.rand(outputs, 1, generator=random) + 0.2) * 0.2 / 256).bfloat16()
            tensors[f"{path}.weight_scale"] = scale.flatten() if name == "dynamic_tensor" else scale
            shape = module.out_features, module.in_features
            tensors[f"{path}.weight"] = torch.randint(-128, 128, shape, generator=random, dtype=torch.int8)
            if name.startswith("static"):
                tensors[f"{path}.input_scale"] = torch.tensor([0.03], dtype=torch.bfloat16)
            if name == "static_zeros":
                tensors[f"{path}.input_zero_point"] = torch.tensor([-7], dtype=torch.int8)
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text()) | {"quantization_config": STORED[name]}
    (folder / "config.json").write_text(json.dumps(written))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
