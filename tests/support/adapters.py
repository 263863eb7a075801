"""PEFT adapters of every kind for tiny models, with random numbers, and what PEFT itself computes
with them."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from families import PEFT_WARNS
from safetensors.torch import load_file, save_file


def save_adapter(folder: Path, base: Path, **keys: Any) -> Path:
    """Save an adapter of which all that is trained is random; `keys` are those of peft's
    LoraConfig."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 8} | keys))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    trained = [numbers for _, numbers in model.named_parameters() if numbers.requires_grad]
    assert trained
    with torch.no_grad():
        for numbers in trained:
            numbers.add_(torch.randn_like(numbers) * (0.3 * numbers.std(correction=0) + 0.05))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied embeddings
        model.save_pretrained(str(folder))
    return folder


def with_adapter(base: Path, adapter: Path) -> Any:
    """Return the model in float32 with its adapter as PEFT loads it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=PEFT_WARNS, category=FutureWarning)
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        return PeftModel.from_pretrained(plain, str(adapter)).eval()


def exchanged(adapter: Path, folder: Path) -> Path:
    """Copy an adapter with the numbers of its first and its last tensor of one shape exchanged or,
    without two, turned."""
    shutil.copytree(adapter, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    by_shape: dict[torch.Size, list[str]] = {}
    for name, numbers in tensors.items():
        by_shape.setdefault(numbers.shape, []).append(name)
    names = max(by_shape.values(), key=len)
    first, last = names[0], names[-1]
    if first == last:
        tensors[first] = tensors[first].flip(0)
    tensors[first], tensors[last] = tensors[last].clone(), tensors[first].clone()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder
