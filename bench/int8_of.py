"""Checkpoints of int8 weights with int8 rows (W8A8) or rows as they are (W8A16), as llm-compressor stores a model.

Weights get a scale for each output by their largest number, rows their own as they come.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FORMAT = "int-quantized"
WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
ROWS = {"W8A8": {**WEIGHTS, "strategy": "token", "dynamic": True}, "W8A16": None}


def checkpoint_of(folder: Path, name: str, place: Path | None = None) -> Path:
    """Return the folder of a model's checkpoint with W8A8 or W8A16, written at first use."""
    into = (place or Path("~/.cache/runner/int8_of").expanduser()) / f"{folder.name}-{name}"
    if not into.is_dir():
        partial = into.with_name(f".{into.name}")
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
        files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
        tensors = {key: one for file in files for path, whole in file.items() for key, one in stored(path, whole)}
        save_file(tensors, partial / "model.safetensors", {"format": "pt"})
        settings = json.loads((folder / "config.json").read_text())
        group = {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": ROWS[name], "format": FORMAT}
        settings["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": FORMAT,
            "config_groups": {"group_0": group},
            "ignore": ["lm_head"],
        }
        (partial / "config.json").write_text(json.dumps(settings))
        partial.rename(into)
    return into


def stored(path: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return what a checkpoint holds of one of a model's tensors: weights of linear layers as bytes with scales."""
    if not path.endswith("proj.weight"):
        return [(path, tensor)]
    scale = (tensor.abs().amax(1, keepdim=True).float() / 127).bfloat16()
    numbers = (tensor.float() / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return [(path, numbers), (f"{path}_scale", scale)]
