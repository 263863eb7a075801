"""A tiny Llama whose linear layers are stored as a format has them: each format says only what a
layer's tensors are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from families import settings as family_settings

Tensors = dict[str, torch.Tensor]
# of its path, outputs and inputs: its tensors by the ends of their names
Layer = Callable[[str, int, int], Tensors]


def tensors_of(layer: Layer, **settings: Any) -> tuple[Any, Tensors]:
    """Return the config and all tensors; the head stays plain, and is left out where it is tied."""
    from transformers import LlamaForCausalLM

    config = family_settings("llama", dtype="bfloat16", **settings)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and path != "lm_head":
            del tensors[f"{path}.weight"]
            own = layer(path, module.out_features, module.in_features)
            tensors |= {f"{path}.{end}": tensor for end, tensor in own.items()}
    return config, tensors


def save(folder: Path, stored: dict[str, Any], layer: Layer, **settings: Any) -> None:
    """Save it; stored: the quantization_config."""
    from safetensors.torch import save_file

    config, tensors = tensors_of(layer, **settings)
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text()) | {"quantization_config": stored}
    (folder / "config.json").write_text(json.dumps(written))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def compressed_tensors(form: str, group: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """Return a quantization_config of compressed-tensors with one group of layers."""
    of_all = {"targets": ["Linear"], "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": of_all | group},
        "ignore": ["lm_head"],
    } | extra
