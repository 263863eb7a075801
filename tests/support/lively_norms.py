"""Norms with random weights: with those of a new model, all 1, it does not matter when heads are
normed."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def make_norms_lively(folder: Path) -> None:
    """Give the norms of a saved model random weights."""
    random = torch.Generator().manual_seed(1)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if "norm" in name and name.endswith("weight"):
                tensors[name] = tensor * (0.5 + torch.rand(tensor.shape, generator=random))
        save_file(tensors, path, metadata={"format": "pt"})
