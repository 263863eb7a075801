"""LoRA adapters, with one module per kind of adapter. merging.py merges adapters of all kinds.

check(lora, path, meta_model, base_name)   reject an adapter that does not fit the model without weights;
                                           `meta_model` is None if that model cannot be built
apply(base, lora, path, base_name)         apply the adapter; returns the adapted model and an AdapterReport
adapted_paths(lora, path)                  the paths of the modules for which the adapter has matrices
remove(model)                              remove an unmerged adapter; False if the base is not restored
"""

from __future__ import annotations

import importlib
from typing import Any

from runner_engine.settings.lora import AdapterConfig


def import_adapter_module(lora: AdapterConfig) -> Any:
    """Import the module for a kind of adapter at its first use, because some libraries are slow to import."""
    return importlib.import_module(lora.module)
