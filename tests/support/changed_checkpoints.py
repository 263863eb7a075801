"""Copies of checkpoints with some tensors changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def changed(folder: Path, to: Path, change: Change) -> Path:
    """Copy a checkpoint and change its tensors."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    tensors = change(load_file(to / "model.safetensors"))
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        to / "model.safetensors",
        {"format": "pt"},
    )
    return to


def without(*names: str) -> Change:
    """Return a change that leaves tensors out."""
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key not in names}


def with_one(name: str, make: Callable[[Any], torch.Tensor]) -> Change:
    """Return a change that makes a tensor anew."""
    return lambda tensors: tensors | {name: make(tensors.get(name))}
